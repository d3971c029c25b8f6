"""Laws of models that are not ours: the page's programs learn, and nothing tells a stranger's model from ours.

B samples = P prompts x G, T completion tokens, V vocab.
"""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxreason import assemble, logprobs, losses, masks, packing, passes, policy, rollout_plan, sampled
from jaxreason import update as updates
from jaxreason.errors import UserError
from jaxreason.model import decoder, own
from jaxreason.model.own import OwnModel
from jaxreason.objective import Objective, PairObjective
from jaxreason.records import STOP_TOKEN
from jaxreason.rewards.verdict import Verdict
from jaxreason.rollout.config import Shape
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.slots import Slots
from jaxreason.truncation import Cut

PAGE = (Path(__file__).parents[1] / "docs" / "own_model.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"## flax\.(\w+)\n.*?```python\n(.*?)```", PAGE, re.DOTALL)
CONFIG, STOPS = tiny.CONFIG, (tiny.STOP, 12)
# Our decoder as a stranger's: what it gives here it must give there.
OURS = OwnModel(
  lambda params, tokens, positions: decoder.apply(params, CONFIG, tokens, positions).hidden,
  lambda params, hidden: decoder.unembed(params, CONFIG, hidden),
)


@functools.cache
def ran(which: str) -> dict:
  """The names that a program of the page leaves; flax broadcasts between ranks."""
  names = {"__name__": "page"}
  with jax.numpy_rank_promotion("allow"):
    exec(compile(dict(PROGRAMS)[which], f"docs/own_model.md, {which}", "exec"), names)
  return names


@pytest.fixture
def broadcasting():
  with jax.numpy_rank_promotion("allow"):
    yield


def ragged(names) -> list[list[int]]:
  """The page's prompts, cut to 1 to 4 tokens."""
  return [prompt[-1 - row % 4 :] for row, prompt in enumerate(names["prompts"])]


def test_the_page_has_a_program_for_each_library_of_under_sixty_lines():
  assert [which for which, _ in PROGRAMS] == ["nnx", "linen"]
  assert all(len(program.splitlines()) < 60 for _, program in PROGRAMS)


@pytest.mark.parametrize("which", ["nnx", "linen"])
def test_the_page_s_program_learns_from_verdicts_alone(which):
  rewards = ran(which)["rewards"]
  assert np.mean(rewards[:3]) < 0.2
  assert np.mean(rewards[-5:]) > np.mean(rewards[:3]) + 0.4
  assert int(ran(which)["state"].skipped) == 0


@pytest.mark.parametrize("which", ["nnx", "linen"])
def test_recorded_log_probs_are_the_update_s(which, broadcasting):
  names = ran(which)
  params, objective = names["state"].params, names["objective"]
  rollouts = names["sample"](params, ragged(names), names["judge"], names["draw"], version=99)
  batch = assemble.assemble(rollouts, objective=objective, width=3)
  found, _ = policy.completion_logprobs(
    params, names["model"], batch.tokens, batch.prompt_lengths, batch.lengths, 3, temperature=1.0
  )
  assert len(set(rollouts.lengths.reshape(-1).tolist())) > 1
  np.testing.assert_allclose(jnp.where(batch.mask, found, 0), jnp.where(batch.mask, batch.behavior_logprobs, 0), atol=1e-4)


@pytest.mark.parametrize("which", ["nnx", "linen"])
def test_gradients_are_those_of_plain_autodiff_over_all_logits(which, broadcasting):
  names = ran(which)
  params, model = names["state"].params, names["model"]
  rollouts = names["sample"](params, ragged(names), names["judge"], names["draw"], version=99)
  noise = 0.3 * jax.random.normal(jax.random.key(1), rollouts.logprobs.shape)  # so that some ratios are clipped
  batch = assemble.assemble(rollouts.replace(logprobs=rollouts.logprobs + noise), objective=names["objective"], width=3)
  step = functools.partial(updates.value_and_gradients, config=model, objective=names["objective"])
  gradients, stats = jax.jit(functools.partial(step, micro_batches=2, chunk_tokens=64))(params, batch, 1.0)
  assert 0 < float(stats["clip_ratio/region_mean"]) < 0.5

  def plain(params):
    columns = jnp.broadcast_to(jnp.arange(batch.tokens.shape[1]), batch.tokens.shape)
    logits = model.unembed(params, model.apply(params, batch.tokens, columns))[:, :-1]
    taken = logprobs.token_logprobs(logits, batch.tokens[:, 1:])
    at = jnp.minimum(batch.prompt_lengths[:, None] + jnp.arange(3) - 1, taken.shape[1] - 1)
    new = jnp.where(batch.mask, jnp.take_along_axis(taken, at, 1), 0.0)
    loss = losses.clipped_surrogate(new, batch.behavior_logprobs, batch.advantages, clip_low=0.2, clip_high=0.28)
    return masks.divide(*masks.token_mean(loss, batch.mask))

  value, expected = jax.jit(jax.value_and_grad(plain))(params)
  np.testing.assert_allclose(value, stats["loss"], atol=1e-5)
  for found, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-3)


@functools.cache
def programs_of(model):
  return rollout_plan.rollout_programs(model)


def spoken(model, *, lane: int, slots: int = 6) -> dict:
  """Samples of five prompts, in fewer slots than samples; every third is told something after its first turn and goes on."""
  programs = programs_of(model)
  sizes = Shape(slots, lane, 12, 3, (slots,), (slots // lane,), 8, 8, 0)
  line, params, found, told = Slots(programs, sizes, Draw(jax.random.key(4), STOPS)), programs.prepare(tiny.params()), {}, set()
  prompts = [tiny.tokens(row, 1 + row) for row in range(5)]
  for visit, prompt in enumerate(prompts):
    line.admit(visit, prompt, range(3))
  while line.running or line.waiting:
    for written in line.chunk(params, 7):
      goes_on = written.stop == STOP_TOKEN and len(written.record.tokens) < 8 and sum(written.name) % 3 == 0
      if goes_on and written.name not in told:
        told.add(written.name)
        line.reply(written, prompts[written.visit], [5, 6])
      else:
        line.release(written.name)
        found[written.name] = written
  assert told
  return found


@pytest.mark.parametrize("lane", [1, 3])
def test_our_decoder_given_as_a_stranger_s_writes_the_same_samples(lane):
  found, expected = (spoken(model, lane=lane) for model in (OURS, CONFIG))
  assert found.keys() == expected.keys() and len(found) == 15
  assert len({len(one.record.tokens) for one in found.values()}) > 3
  for name, written in found.items():
    assert written.stop == expected[name].stop
    for field, values in written.record.kept.items():
      np.testing.assert_allclose(values, getattr(expected[name].record, field), atol=1e-5, err_msg=f"{name} {field}")


@pytest.mark.parametrize("objective", [
  Objective(kl_coef=0.1, entropy_coef=0.01), Objective(surrogate="kl_cov", cov_fraction=0.2, replay_truncation=True),
  PairObjective("dpo", beta=0.1, form="sigmoid", divergence="reverse_kl", alpha=0.5, label_smoothing=0.0, per_token=False),
], ids=["clipped", "kl_cov", "dpo"])  # fmt: skip
def test_our_decoder_given_as_a_stranger_s_has_the_same_update(objective):
  batch, results = tiny.batch(reference=True), []
  options = dict(objective=objective, micro_batches=2, chunk_tokens=8)
  cut = Cut(top_k=9, top_p=0.9) if objective.looks_across else None
  for model in (OURS, CONFIG):
    reference = functools.partial(passes.with_reference, config=model, micro_batches=2)
    step = functools.partial(updates.value_and_gradients, config=model, truncation=cut, **options)
    results.append(jax.jit(step)(tiny.params(), jax.jit(reference)(tiny.params(seed=1), batch, 0.8), 0.8))
  for found, wanted in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk_tokens", [1, 9, 1000])
def test_chunks_of_a_stranger_s_logits_change_no_number(chunk_tokens):
  generator = np.random.default_rng(0)
  hidden, matrix = (generator.normal(size=shape).astype(np.float32) for shape in ((3, 10, 8), (23, 8)))
  tokens, model = generator.integers(0, 23, (3, 10)), OwnModel(apply=None, unembed=lambda matrix, hidden: hidden @ matrix.T)

  def total(function):
    return lambda hidden, matrix: sum(jnp.sum(x * x) for x in function(hidden, matrix))

  options = dict(temperature=0.7, top_k=5, chunk_tokens=chunk_tokens)
  strangers = lambda hidden, matrix: own.from_hidden(matrix, model, hidden, tokens, **options)
  ours = lambda hidden, matrix: logprobs.from_hidden(hidden, matrix, tokens, **options)
  for found, wanted in zip(strangers(hidden, matrix), ours(hidden, matrix), strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-5)
  for found, wanted in zip(*(jax.grad(total(f), (0, 1))(hidden, matrix) for f in (strangers, ours)), strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def test_all_logits_are_never_there():
  """The page says so: of 64 positions no array of a jitted update has more than 8 rows of V logits."""
  batch = tiny.batch(rows=8, prompt=3, completion=8)
  seen = []

  def unembed(params, hidden):
    seen.append(hidden.shape[:-1])
    return OURS.unembed(params, hidden)

  model = OwnModel(OURS.apply, unembed)
  step = functools.partial(updates.value_and_gradients, config=model, objective=Objective(), chunk_tokens=8)
  text = jax.jit(step).lower(tiny.params(), batch, 1.0).as_text()
  assert set(seen) == {(8, 1)}
  assert f"tensor<8x8x{CONFIG.vocab_size}xf32>" not in text


def test_what_a_row_holds_behind_its_tokens_is_not_seen_by_the_model():
  """Padding comes as token 0 at position 0, in the rollout and in the update, so that tables need not be longer than rows."""
  longest = 5

  def apply(params, tokens, positions):
    hidden = OURS.apply(params, tokens, positions)
    return jnp.where((positions < longest + 3)[..., None], hidden, jnp.nan)

  model = OwnModel(apply, OURS.unembed)
  prompts = [tiny.tokens(row, 1 + row) for row in range(longest)]
  wrong = lambda row, tokens: Verdict(0.0, "wrong")
  draw = Draw(jax.random.key(2), STOPS)
  rollouts = sampled.rollouts(programs_of(model), tiny.params(), prompts, wrong, draw, group=2, max_new_tokens=3)
  batch = assemble.assemble(rollouts, objective=Objective(), width=3)
  assert batch.tokens.shape[1] > longest + 3
  found, entropy = jax.jit(functools.partial(passes.completions, config=model))(tiny.params(), batch, 1.0)
  np.testing.assert_allclose(found[batch.mask], batch.behavior_logprobs[batch.mask], atol=1e-4)
  assert jnp.isfinite(entropy[batch.mask]).all()


def test_samples_without_a_verdict_are_left_out():
  verdicts = [Verdict(None, "refused"), Verdict(1.0, "correct"), Verdict(0.0, "wrong")]
  prompts, draw = [tiny.tokens(row, 4) for row in range(3)], Draw(jax.random.key(2), STOPS)
  options = dict(group=2, max_new_tokens=4, version=3)
  judge = lambda row, tokens: verdicts[row]
  rollouts = sampled.rollouts(programs_of(CONFIG), tiny.params(), prompts, judge, draw, **options)
  assert rollouts.judged.tolist() == [[False, False], [True, True], [True, True]]
  assert rollouts.rewards.tolist() == [[0, 0], [1, 1], [0, 0]]
  assert (rollouts.versions[rollouts.own] == 3).all() and rollouts.visit_ids.tolist() == [9, 10, 11]
  fewer = sampled.rollouts(programs_of(CONFIG), tiny.params(), prompts, judge, draw, slots=2, chunk=3, **options)
  assert fewer.tokens.tolist() == rollouts.tokens.tolist()  # a draw depends on no slot


def test_packed_rows_and_few_bits_are_refused_in_one_line():
  batch = tiny.batch()
  layout = packing.pack(batch.prompt_lengths, batch.lengths, columns=batch.tokens.shape[1], row_tokens=24)
  with pytest.raises(UserError, match="expected a sample in each row, got packed rows; leave the batch's layout None"):
    passes.completions(tiny.params(), batch.replace(layout=layout), 1.0, config=OURS)
  with pytest.raises(UserError, match="expected matmul=compute, got int8"):
    rollout_plan.rollout_programs(OURS, "int8").prepare_training(tiny.params())
