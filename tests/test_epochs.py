"""Laws of several updates on one batch: who is in which, what stops them, and that a run may be left between any two."""

import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import tiny_run

from jaxreason import build, epochs, metrics, phases, progress, update
from jaxreason.checkpoint import Checkpoints
from jaxreason.cli import source
from jaxreason.errors import Preempted, UserError
from jaxreason.model import weights
from jaxreason.objective import Objective
from jaxreason.optimizer import OptimizerConfig
from jaxreason.records import TrainState
from jaxreason.report.display import display
from jaxreason.train import train

# Advantages are -1 for wrong answers, so that a model that knows nothing has a gradient.
SHORT = dict(
  sft__steps=2, train__steps=2, train__save_every=100, evaluation__every=0, objective__advantage="signed",
)  # fmt: skip
# Two epochs of two minibatches, whose ratios are taken to the policy before the first.
FOUR = dict(
  SHORT, objective__proximal="policy", objective__correction="truncated", train__epochs=2, train__minibatches=2,
  train__average_decay=0.5, objective__kl_coef=0.01,
  reference__sync_every=1, reference__sync_mix=0.5, optimizer__peak_lr=1e-2,
)  # fmt: skip


@functools.cache
def built(**changes):
  return build.build(tiny_run.settings(**changes), devices=jax.devices()[:1])


def trained(run, workdir, watch=None):
  with display({}, quiet=True) as show:
    return train(run, workdir, show=show, watch=watch)


def kept(run, workdir):
  """(arrays, host data) of the newest checkpoint of a finished run."""
  like = progress.saved_tree(
    phases.abstract_state(run.settings, run.config, run.mesh, "train"),
    phases.abstract_reference(run.settings, run.config, run.mesh),
  )
  with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
    return checkpoints.restore(like)[1:]


def rows_of(workdir, phase="train"):
  return [row for row in metrics.read(workdir) if row["phase"] == phase]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
  """(results, working directory, what a watch saw) of a run of four updates a batch that nothing disturbed."""
  workdir, seen = tmp_path_factory.mktemp("four"), []

  def watch(step, phase, state, batch, stats):
    told = {name: float(value) for name, value in stats.items()}
    seen.append((step, phase, int(state.step), np.asarray(batch.tokens), batch.layout, told, jax.device_get(state)))

  return trained(built(**FOUR), workdir, watch), workdir, seen


@pytest.mark.parametrize("minibatches", [1, 2, 4])
def test_each_epoch_deals_every_group_whole_to_one_minibatch(minibatches):
  chosen = tiny_run.settings(train__epochs=3, train__minibatches=minibatches, rollout__group=3, rollout__prompts=8)
  planned = epochs.plan(chosen, 5)
  assert len(planned) == 3 * minibatches
  for epoch in range(3):
    parts = planned[epoch * minibatches : (epoch + 1) * minibatches]
    assert sorted(np.concatenate(parts)) == list(range(24))
    for part in parts:
      assert (part.reshape(-1, 3) == part[::3, None] + np.arange(3)).all()
      assert (part[::3] % 3 == 0).all()
  jax.tree.map(np.testing.assert_array_equal, planned, epochs.plan(chosen, 5))
  if minibatches > 1:
    first = [set(planned[epoch * minibatches].tolist()) for epoch in range(3)]
    assert any(one != first[0] for one in first[1:])


def test_a_batch_is_trained_on_in_each_of_its_updates(four):
  _, workdir, seen = four
  assert [(step, phase, count) for step, phase, count, *_ in seen] == [
    (0, "sft", 1), (1, "sft", 2), *((2, "train", n) for n in (1, 2, 3, 4)), *((3, "train", n) for n in (5, 6, 7, 8)),
  ]  # fmt: skip
  for of_step in (seen[2:6], seen[6:]):
    sizes = [tokens.shape[0] for _, _, _, tokens, *_ in of_step]
    assert sizes == [8] * 4
    first, second = (sorted(map(bytes, np.concatenate([of_step[i][3], of_step[i + 1][3]]))) for i in (0, 2))
    assert first == second
    assert all(layout is not None for _, _, _, _, layout, *_ in of_step)
  for row, of_step in zip(rows_of(workdir), (seen[2:6], seen[6:]), strict=True):
    told = [stats for *_, stats, _ in of_step]
    assert row["updates"] == 4
    assert row["loss"] == pytest.approx(np.mean([stats["loss"] for stats in told]), rel=1e-5)
    largest = max(stats["sampling/importance_sampling_ratio/max"] for stats in told)
    assert np.float32(row["sampling/importance_sampling_ratio/max"]) == largest
    assert np.float32(row["ppo_kl"]) == told[-1]["ppo_kl"] > 0
    assert np.float32(row[epochs.DIFFERENCE]) == told[0][epochs.DIFFERENCE] < 1e-5


def test_the_average_is_that_of_every_update_and_is_what_is_evaluated(four):
  _, workdir, seen = four
  states = [state for *_, state in seen[2:]]
  average = seen[1][-1].params
  for state in states:
    average = jax.tree.map(lambda old, new: 0.5 * old + 0.5 * new, average, state.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), state.average, average)
  run = built(**FOUR)
  held, _ = kept(run, workdir)
  restored = source.restored(source.Chosen(run.settings, workdir / "checkpoints", 4), run.config, run.mesh)
  jax.tree.map(np.testing.assert_array_equal, restored, held["state"].average)
  assert float(optax.tree.norm(jax.tree.map(jnp.subtract, held["state"].average, held["state"].params))) > 0


def test_the_reference_moves_towards_the_policy(four):
  _, workdir, seen = four
  reference = seen[1][-1].params
  for *_, state in (seen[5], seen[9]):
    reference = jax.tree.map(lambda old, new: 0.5 * old + 0.5 * new, reference, state.params)
  held, _ = kept(built(**FOUR), workdir)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), held["reference"], reference)


def test_a_reference_that_is_the_policy_has_no_divergence(tmp_path):
  trained(built(**SHORT, reference__sync_every=1), tmp_path)
  assert [row["kl"] for row in rows_of(tmp_path)] == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize(("after", "step", "goes_on"), [(1, 2, 1), (3, 2, 1), (4, 3, 5), (5, 3, 6), (7, 3, 8)])
def test_a_run_that_was_asked_to_end_goes_on_to_the_same_bits(four, tmp_path, after, step, goes_on):
  """Between two updates of a batch, whose rollouts are not done again, and between two batches. The first batch begins at the
  checkpoint between the two stages: it is done again from there."""
  results, workdir, _ = four

  def end(step, phase, state, *_):
    if phase == "train" and int(state.step) == after:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.raises(Preempted, match=f"saved at step {step}"):
    trained(built(**FOUR), tmp_path, end)
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
  seen = []
  assert trained(built(**FOUR), tmp_path, lambda step, phase, state, *_: seen.append(int(state.step))) == results
  assert seen == list(range(goes_on, 9))
  assert metrics.deterministic(metrics.read(tmp_path)) == metrics.deterministic(metrics.read(workdir))
  (arrays, host), (others, other_host) = kept(built(**FOUR), tmp_path), kept(built(**FOUR), workdir)
  assert host == other_host
  jax.tree.map(np.testing.assert_array_equal, arrays, others)


@pytest.mark.system
def test_so_does_a_run_with_a_critic_rows_over_two_devices_rollouts_of_eight_bits_and_factored_moments_on_the_host(tmp_path):
  changes = dict(
    SHORT, sft__steps=24, objective__advantage="gae", train__epochs=2, mesh__sequence=2, rollout__matmul="int8",
    optimizer__name="adafactor", optimizer__peak_lr=1e-2, critic__optimizer__name="adafactor", train__moments="host",
    train__save_every=1,
  )  # fmt: skip
  run = build.build(tiny_run.settings(**changes), devices=jax.devices()[:2])
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  results = trained(run, whole)

  def end(step, phase, state, *_):
    if phase == "train" and int(state.step) == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.raises(Preempted, match="saved at step 25"):
    trained(run, parts, end)
  assert trained(run, parts) == results
  assert metrics.deterministic(metrics.read(parts)) == metrics.deterministic(metrics.read(whole))
  (arrays, host), (others, other_host) = kept(run, parts), kept(run, whole)
  assert host == other_host
  assert not np.array_equal(arrays["state"].critic.params.trunk.embedding, arrays["state"].params.embedding)
  jax.tree.map(np.testing.assert_array_equal, arrays, others)


def test_the_ratio_of_later_updates_is_to_the_policy_before_the_first(four):
  """At the first update nothing is clipped and the KL is 0; at later ones the ratio is what the policy has moved by."""
  _, _, seen = four
  told = [stats for *_, stats, _ in seen[2:6]]
  assert told[0]["ppo_kl"] == 0
  assert all(stats["ppo_kl"] > 1e-6 for stats in told[1:])


def test_the_old_policys_pass_is_left_out_where_sampler_and_trainer_agree(four, tmp_path):
  """Nobody has measured it before the first batch. A tolerance of 0 always runs it, to the same numbers but for rounding."""
  assert [row["old_policy_pass"] for row in rows_of(four[1])] == [1, 0]
  run = tiny_run.changed(built(**FOUR), train=dict(old_policy_tolerance=0.0))
  trained(run, tmp_path)
  assert [row["old_policy_pass"] for row in rows_of(tmp_path)] == [1, 1]
  for one, other in zip(rows_of(four[1]), rows_of(tmp_path), strict=True):
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-5)


def test_one_update_a_batch_needs_no_pass_and_no_batch_of_its_own(tmp_path):
  trained(built(**SHORT, objective__proximal="policy", objective__correction="truncated"), tmp_path)
  (row, _) = rows_of(tmp_path)
  assert not {"old_policy_pass", "updates", "ppo_kl"} & row.keys()


def test_a_batch_is_done_with_where_the_policy_has_moved_too_far(tmp_path):
  """The update that finds it changes nothing; the first one cannot."""
  seen = []

  def watch(step, phase, state, batch, stats):
    if phase == "train":
      seen.append((step, int(state.step), float(stats["stopped"]), jax.device_get(state)))

  run = built(**(FOUR | dict(train__max_kl=1e-6)))
  trained(run, tmp_path, watch)
  assert [(step, count, stopped) for step, count, stopped, _ in seen] == [(2, 1, 0), (2, 1, 1), (3, 2, 0), (3, 2, 1)]
  jax.tree.map(np.testing.assert_array_equal, seen[0][-1], seen[1][-1])
  assert [(row["updates"], row["stopped"], row["skipped"]) for row in rows_of(tmp_path)] == [(1, 1, 0)] * 2
  assert all(row["ppo_kl"] > 1e-6 for row in rows_of(tmp_path))


@pytest.mark.system
def test_a_sampler_that_is_no_policy_of_the_trainers_stops_nothing(tmp_path):
  """max_kl is of what the updates did, not of the eight bits that the samples were drawn in."""
  slow = dict(train__epochs=2, train__max_kl=1e-5, optimizer__peak_lr=1e-9, rollout__matmul="int8")
  trained(built(**(SHORT | slow)), tmp_path)
  for row in rows_of(tmp_path):
    assert row[epochs.DIFFERENCE] > 1e-4
    assert (row["updates"], row["stopped"], row["old_policy_pass"]) == (2, 0, 1)


@pytest.mark.system
def test_moments_and_reference_on_the_host_change_no_number(four, tmp_path):
  changes = FOUR | dict(train__moments="host", reference__memory="host")
  run = built(**changes)
  kinds = set()

  def watch(step, phase, state, *_):
    kinds.add((leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)).__next__())
    kinds.update("moments " + leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)

  assert trained(run, tmp_path, watch) == four[0]
  assert kinds == {"device", "moments pinned_host"}
  assert metrics.deterministic(metrics.read(tmp_path)) == metrics.deterministic(metrics.read(four[1]))
  (arrays, _), (others, _) = kept(run, tmp_path), kept(built(**FOUR), four[1])
  assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(arrays["reference"])} == {"pinned_host"}
  jax.tree.map(np.testing.assert_array_equal, arrays, others)


def test_the_samples_of_skipped_updates_are_named(tmp_path):
  """A learning rate out of all bounds: no update may be taken, also where a batch was left between two of them."""
  run = built(**(FOUR | dict(sft__optimizer__peak_lr=1e39, optimizer__peak_lr=1e39)))
  states = []

  def end(step, phase, state, *_):
    states.append(jax.device_get(state.params))
    if step == 3 and len(states) == 2 + 4 + 2:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.raises(Preempted):
    trained(run, tmp_path, end)
  trained(run, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, states[-1], jax.device_get(run.initial_params()))
  told = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
  assert [(row["step"], row["phase"]) for row in told] == [(0, "sft"), (1, "sft"), *[(2, "train")] * 4, *[(3, "train")] * 4]
  assert [row["skipped"] for row in metrics.read(tmp_path) if "skipped" in row] == [1, 1, 4, 4]
  assert {row["why"] for row in told} == {"not finite"}
  assert [len(row["samples"]) for row in told] == [16] * 2 + [8] * 8
  ids = {str(row["id"]) for row in run.rows.train}
  assert all(name in ids for row in told for name, _, _ in row["samples"])
  assert sorted({sample for _, _, sample in told[2]["samples"]}) == [0, 1, 2, 3]


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (dict(train__minibatches=3), "minibatches=3 expected to divide rollout.prompts=4.*make it a divisor of 4"),
    (dict(train__minibatches=2, train__micro_batches=3), "in 2 minibatches.*divisor of 8"),
    (dict(train__average_decay=1.0), r"average_decay expected in \[0, 1\)"),
    (dict(train__moments="disk"), "train.moments expected one of device, host, got 'disk'"),
    (dict(reference__sync_mix=1.5), "sync_mix expected at least 0 and at most 1"),
    (dict(reference__sync_every=1, objective__kl_coef=0.0), "there is no reference to move"),
    (dict(train__max_kl=0.1), "max_kl expected 0 with one update a batch"),
    (dict(reference__sync_mix=0.5), "sync_every expected above 0 with config.reference.sync_mix=0.5"),
    (dict(reference__memory="host", objective__kl_coef=0.0), "there is no reference to keep"),
    (dict(preference__kind="reward_model", preference__form="ipo"), "form expected sigmoid with preference.kind reward_model"),
    (dict(preference__steps=1, train__epochs=2), "train.epochs expected 1 with preference.steps=1.* got 2"),
  ],
)
def test_what_does_not_go_together_is_told(changes, told):
  with pytest.raises(UserError, match=told):
    tiny_run.settings(**changes)


def test_matrices_cast_once_give_the_gradient_of_matrices_cast_in_each_layer(monkeypatch):
  config = tiny.CONFIG.__class__(**(vars(tiny.CONFIG) | {"compute_dtype": "bfloat16"}))
  gradients = functools.partial(
    update.value_and_gradients, tiny.params(), tiny.batch(), 1.0, config=config, objective=Objective(), micro_batches=2
  )
  once = jax.jit(lambda: gradients()[0])()
  monkeypatch.setattr(weights, "computing", lambda params, config: params)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), once, jax.jit(lambda: gradients()[0])())


def test_one_sample_is_a_batch():
  batch = tiny.batch(rows=1)
  _, stats = tiny.update(settings=OptimizerConfig(peak_lr=1e-3))(
    update.initialize(jax.tree.map(jnp.asarray, tiny.params()), tiny.optimizer()), batch, 1.0
  )
  assert stats["update_norm"] > 0
  assert stats["skipped"] == stats["empty"] == 0


def test_a_second_batch_compiles_nothing():
  """Every program between assembling a batch and the next one; packed rows of as many as the first had."""
  run = built(**FOUR)
  batch = tiny.batch(rows=16).replace(reference_logprobs=None)
  batch = batch.replace(tokens=batch.tokens % 17, prompt_tokens=np.ones(16, np.float32))
  rows = jnp.arange(8, dtype=jnp.int32)

  def once():
    held = progress.Held(state=TrainState(run.initial_params(), None, None, None))
    progress.begin_rl(run, held)
    rewards = np.zeros((4, 4), np.float32)
    given = run.programs.reference(held.reference, batch, 1.0, rewards, rewards == 0)
    given = run.programs.old_policy(held.state.params, given, 1.0)
    held.state, stats = run.programs.update(held.state, run.programs.take(given, rows), 1.0)
    told = epochs.one_row(epochs.one_row({}, stats, 0), stats, 1)
    return run.programs.sync_reference(held.reference, held.state.params), told

  with jax.set_mesh(run.mesh):
    once()
    with tiny.compilations() as compiled:
      once()
  assert compiled == []


@pytest.mark.parametrize("staleness", [0, pytest.param(1, marks=pytest.mark.system)])
def test_a_run_that_is_asked_to_end_within_a_rollout_leaves_between_two_chunks(staleness, tmp_path):
  """A synchronous one does the step again, to the bit; samples that may be stale go on behind what they have written."""
  stale = dict(objective__proximal="policy", objective__correction="truncated") if staleness else {}
  changes = dict(SHORT, rollout__chunk=4, rollout__max_staleness=staleness, **stale)
  run = build.build(tiny_run.settings(**changes), devices=jax.devices()[:1])
  decode, calls = run.programs.rollout.decode, []

  def signalled(params, state, stop_ids, version, **static):
    calls.append(int(version))
    if calls.count(1) == 1 and calls[-1] == 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return decode(params, state, stop_ids, version, **static)

  programs = run.programs._replace(rollout=run.programs.rollout._replace(decode=signalled))
  with pytest.raises(Preempted, match="saved at step 3"):
    trained(run._replace(programs=programs), tmp_path / "parts")
  assert calls.count(1) == 1
  with Checkpoints(tmp_path / "parts" / "checkpoints", read_only=True) as checkpoints:
    going = checkpoints.read_host()["collector"]["groups"]
  assert bool(going) == bool(staleness)
  results = trained(run, tmp_path / "parts")
  if staleness:
    assert any(one["written"] for one in going)
    return
  assert trained(run, tmp_path / "whole") == results
  rows = [metrics.deterministic(metrics.read(tmp_path / name)) for name in ("parts", "whole")]
  assert rows[0] == rows[1]
  (arrays, host), (others, other_host) = kept(run, tmp_path / "parts"), kept(run, tmp_path / "whole")
  assert host == other_host
  jax.tree.map(np.testing.assert_array_equal, arrays, others)
