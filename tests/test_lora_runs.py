"""Laws of runs that train adapters: the base stays where it is, one copy serves policy and reference, and a run goes on."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny
import tiny_run

from jaxreason import build, critic, metrics, passes, phases, progress
from jaxreason.checkpoint import Checkpoints
from jaxreason.cli import main
from jaxreason.errors import UserError
from jaxreason.initial import initial_params
from jaxreason.model import frozen, hf, lora, peft, weights
from jaxreason.model.lora import Lora
from jaxreason.objective import Objective
from jaxreason.optimizer import OptimizerConfig
from jaxreason.report.display import display
from jaxreason.sharding import MeshSizes, make_mesh
from jaxreason.train import train

SHORT = dict(sft__steps=3, train__steps=2, train__save_every=1, evaluation__every=0, lora__rank=4)
CONFIG = dataclasses.replace(tiny.CONFIG, lora=Lora(4))
EIGHT_BITS = dataclasses.replace(tiny.CONFIG, lora=Lora(4, base="int8"))


def run_of(**changes):
  return build.build(tiny_run.settings(**SHORT | changes), devices=jax.devices()[:1])


def trained(workdir, **changes):
  with display({}, quiet=True) as show:
    return train(run_of(**changes), workdir, show=show)


def kept(workdir):
  """(arrays, host data) of the newest checkpoint."""
  run = run_of()
  like = progress.saved_tree(
    phases.abstract_state(run.settings, run.config, run.mesh, "train"),
    phases.abstract_reference(run.settings, run.config, run.mesh),
  )
  with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
    _, tree, host = checkpoints.restore(like)
  return tree, host


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of adapters from its first step to its last."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, trained(workdir)


def test_a_checkpoint_holds_adapters_and_says_which_base_they_belong_to(whole):
  tree, host = kept(whole[0])
  run = run_of()
  table = jax.tree.leaves(weights.parts(weights.abstract(run.config), run.config)[0])
  arrays = [leaf for leaf in jax.tree.leaves(tree) if leaf.size > 1]
  assert len(arrays) == 4 * len(table)  # adapters, two moments, and the reference's adapters
  assert sum(leaf.size for leaf in arrays) == 4 * weights.count(run.config, trained=True) < weights.count(run.config)
  assert host["base"]["source"] == "" and len(host["base"]["fingerprint"]) == 16


def test_both_stages_train_adapters_and_sampler_and_trainer_agree(whole):
  tree, _ = kept(whole[0])
  rows = metrics.read(whole[0])
  assert all(row["grad_norm"] > 0 for row in rows if row["phase"] == "sft")
  for row in rows:
    if row["phase"] == "train":
      assert row["sampling/sampling_logp_difference/mean"] < 1e-5 and row["skipped"] == 0
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree["state"].params))


def test_a_run_that_goes_on_ends_as_if_it_had_never_stopped(whole, tmp_path):
  """Stopped in the middle of the second stage, with a reference of its own."""
  with pytest.raises(KeyboardInterrupt):
    stopping(tmp_path, 4)
  results = trained(tmp_path)
  assert results == whole[1]
  jax.tree.map(np.testing.assert_array_equal, kept(tmp_path)[0], kept(whole[0])[0])


def stopping(workdir, step):
  def watch(at, *_):
    if at == step:
      raise KeyboardInterrupt

  with display({}, quiet=True) as show:
    train(run_of(), workdir, show=show, watch=watch)


def test_another_base_is_told_in_one_line(whole):
  """The settings are the same, the weights that they lead to are not."""
  run = run_of()
  other = initial_params("", 7, run.config, run.mesh)
  with display({}, quiet=True) as show, Checkpoints(whole[0] / "checkpoints") as checkpoints:
    data = checkpoints.read_host()["data"]
    with pytest.raises(UserError, match=r"config.model.source expected the weights that the adapters were trained on"):
      progress.resume(run._replace(initial_params=other), checkpoints, data, show)


def test_an_export_is_the_merged_model_and_adapters_go_out_and_come_in(whole, tmp_path):
  tree, _ = kept(whole[0])
  run = run_of()
  _, base = weights.parts(run.initial_params(), run.config)
  assert main.main(["export", f"--workdir={whole[0]}", f"--output={tmp_path / 'merged'}", "-q"]) == 0
  expected = lora.merged(progress.joined(tree["state"].params, base))
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), hf.load(tmp_path / "merged")[0], expected)
  assert main.main(["export", f"--workdir={whole[0]}", f"--output={tmp_path / 'adapter'}", "--adapter", "-q"]) == 0
  again = run_of(lora__rank=0, lora__source=str(tmp_path / "adapter"))
  assert again.config.lora.rank == 4
  got, _ = weights.parts(again.initial_params(), again.config)
  jax.tree.map(np.testing.assert_array_equal, got, tree["state"].params)


def test_adapters_of_a_run_without_any_are_told_in_one_line(tmp_path, capsys):
  trained(tmp_path, lora__rank=0, sft__steps=1, train__steps=0)
  assert main.main(["export", f"--workdir={tmp_path}", f"--output={tmp_path / 'out'}", "--adapter", "-q"]) == 2
  assert "--adapter expected a run of adapters" in capsys.readouterr().err


@functools.cache
def programs(sizes=None, objective=Objective(kl_coef=0.1), config=CONFIG, **changes):
  sizes = sizes or MeshSizes(1, 1, 1)
  mesh = make_mesh(sizes, jax.devices()[: sizes.data * sizes.fsdp * sizes.tensor])
  chosen = tiny.settings(objective=objective, optimizer=OptimizerConfig(peak_lr=1e-2), **changes)
  return build.compile_programs(chosen, config, mesh), mesh


def begun(made, mesh, config=CONFIG):
  """A state whose adapters are away from zero."""
  params = jax.device_put(weights.initialize(config, jax.random.key(0)), weights.shardings(config, mesh))
  adapters, base = weights.parts(params, config)
  return made.start_rl(progress.joined(jax.tree.map(lambda x: x + 0.02, adapters), base))


@pytest.mark.parametrize("config", [CONFIG, EIGHT_BITS], ids=["float32", "int8"])
def test_no_update_moves_the_base_in_memory_or_in_value(config):
  made, mesh = programs(config=config)
  with jax.set_mesh(mesh):
    state = begun(made, mesh, config)
    arrays, before = jax.tree.leaves(state.base), jax.device_get((state.params, state.base))
    state, stats = made.update(state, tiny.batch(reference=True), 1.0)
  assert all(now is then for now, then in zip(jax.tree.leaves(state.base), arrays, strict=True))
  jax.tree.map(np.testing.assert_array_equal, state.base, before[1])
  assert all(np.abs(now - old).max() > 0 for now, old in zip(*map(jax.tree.leaves, (state.params, before[0])), strict=True))
  assert stats["skipped"] == 0


def test_the_reference_is_the_base_by_the_policys_own_arrays():
  made, mesh = programs()
  with jax.set_mesh(mesh):
    params = weights.initialize(CONFIG, jax.random.key(0))
    adapters, _ = weights.parts(params, CONFIG)
    held = progress.Held(made.start_rl(params), made.start_reference(adapters))
    arrays = jax.tree.leaves(weights.parts(held.compared_with, CONFIG)[1])
    assert all(one is other for one, other in zip(arrays, jax.tree.leaves(held.state.base), strict=True))
    held.state, _ = made.update(held.state, tiny.batch(reference=True), 1.0)
    batch, rewards = tiny.batch(), np.zeros((2, 4), np.float32)
    batch = made.reference(held.compared_with, batch, 1.0, rewards, np.ones((2, 4), bool))
    of_base = jax.jit(functools.partial(passes.with_reference, config=tiny.CONFIG))
    plain = of_base(lora.without_adapters(held.state.policy), tiny.batch(), 1.0)
  np.testing.assert_array_equal(batch.reference_logprobs, plain.reference_logprobs)


def test_a_sharded_step_is_that_of_one_device():
  found = {}
  for name, chosen in (("one", None), ("many", MeshSizes(2, 2, 2))):
    made, mesh = programs(chosen)
    with jax.set_mesh(mesh):
      state, stats = made.update(begun(made, mesh), tiny.batch(reference=True), 1.0)
    found[name] = (tiny.gradients(state), float(stats["loss"]))
    where, _ = weights.parts(weights.shardings(CONFIG, mesh), CONFIG)
    for leaf, at in zip(*map(jax.tree.leaves, (state.params, where)), strict=True):
      assert leaf.sharding.is_equivalent_to(at, leaf.ndim)
  for got, leaf in zip(*(jax.tree.leaves(found[name][0]) for name in ("many", "one")), strict=True):
    assert np.linalg.norm(np.asarray(got) - np.asarray(leaf)) <= 1e-5 * np.linalg.norm(leaf)
  assert found["many"][1] == pytest.approx(found["one"][1], rel=1e-5)


def test_a_critic_is_adapters_and_a_value_on_the_policys_base():
  made, mesh = programs(objective=Objective(advantage="gae"))
  with jax.set_mesh(mesh):
    state = begun(made, mesh)
    assert isinstance(state.critic.params, critic.Critic) and state.critic.params.trunk.embedding is None
    assert state.judge.trunk.embedding is state.base.embedding
    batch = made.values(state.judge, tiny.batch(), np.ones((2, 4), np.float32))
    before = jax.device_get(state.critic.params)
    state, stats = made.update(state, batch, 1.0)
  assert stats["skipped"] == 0 and float(stats["critic/grad_norm"]) > 0
  assert np.abs(state.critic.params.value - before.value).max() > 0


def test_an_average_is_of_adapters_alone():
  made, mesh = programs(train=dataclasses.replace(tiny.settings().train, average_decay=0.5))
  with jax.set_mesh(mesh):
    state, _ = made.update(begun(made, mesh), tiny.batch(reference=True), 1.0)
  assert jax.tree.structure(state.average) == jax.tree.structure(state.params)
  assert state.model.embedding is state.base.embedding


@pytest.mark.system
def test_a_base_of_eight_bits_learns_and_is_eight_bits_to_the_end(tmp_path):
  trained(tmp_path, lora__base="int8", sft__steps=12, train__steps=0)
  losses = [row["loss"] for row in metrics.read(tmp_path) if row["phase"] == "sft"]
  assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.2
  run = run_of(lora__base="int8")
  _, base = weights.parts(run.initial_params(), run.config)
  for field in lora.MATRICES:
    held = getattr(base.blocks, field).base
    assert frozen.is_int8(held) and held.values.dtype == np.int8
  assert main.main(["generate", f"--workdir={tmp_path}", "--prompt=4+8=", "-q"]) == 0


def test_peft_adapters_of_another_model_are_told_in_one_line(tmp_path):
  config = dataclasses.replace(CONFIG, lora=Lora(4, targets="gate_proj"))
  peft.save(weights.parts(weights.initialize(config, jax.random.key(0)), config)[0], config, tmp_path / "out", base="")
  run = run_of(lora__rank=0, lora__source=str(tmp_path / "out"))
  with pytest.raises(UserError, match=r"gate_proj.lora_B.weight expected shape"):
    run.initial_params()
