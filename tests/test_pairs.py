"""Laws of learning from pairs: a step is that of the formula written out, and how the pairs are cut, packed or spread changes
nothing.

P pairs are B = 2 P samples, the preferred answer before the other one; S their columns, T completion tokens.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxreason import critic, losses, packing, passes, sharding, update
from jaxreason.errors import UserError
from jaxreason.model import decoder
from jaxreason.objective import PairObjective, pairs
from jaxreason.settings import PreferenceSettings
from jaxreason.sharding import MeshSizes

DPO = PreferenceSettings(beta=0.3).objective
SCORES = PreferenceSettings(kind="reward_model").objective
KINDS = pytest.mark.parametrize("objective", [DPO, SCORES], ids=["dpo", "reward_model"])


@functools.cache
def made(count: int = 4):
  """P pairs with a prompt each, their reference's log-probs and a margin."""
  batch = tiny.batch(3, rows=2 * count, reference=True)
  first = np.arange(2 * count) // 2 * 2
  prompt_lengths, columns = batch.prompt_lengths[first], np.arange(batch.tokens.shape[1])
  lengths = (prompt_lengths + batch.lengths - batch.prompt_lengths).astype(np.int32)
  own = tiny.tokens(4, *batch.tokens.shape)
  tokens = np.where(columns < prompt_lengths[:, None], own[first], own)
  return batch.replace(
    tokens=np.where(columns < lengths[:, None], tokens, 0).astype(np.int32), prompt_lengths=prompt_lengths, lengths=lengths,
    margin=np.repeat(np.random.default_rng(5).uniform(0, 2, count), 2).astype(np.float32),
  )  # fmt: skip


def params_of(objective):
  """A policy's parameters, or a reward model's."""
  params = jax.tree.map(jnp.asarray, tiny.params())
  if objective.kind == "dpo":
    return params
  return critic.like(params, jnp.asarray(np.random.default_rng(6).normal(size=tiny.CONFIG.embed).astype(np.float32)))


@functools.partial(jax.jit, static_argnames=("objective", "micro_batches", "chunk_tokens"))
def gradients_of(params, batch, objective, micro_batches=1, chunk_tokens=1024):
  shape = dict(micro_batches=micro_batches, chunk_tokens=chunk_tokens)
  return update.value_and_gradients(params, batch, 1.0, config=tiny.CONFIG, objective=objective, **shape)


measured = jax.jit(functools.partial(passes.measured_pairs, config=tiny.CONFIG), static_argnames="objective")


def error(one, other) -> float:
  """Relative distance of two trees."""
  distance = optax.tree.norm(jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), one, other))
  return float(distance / optax.tree.norm(other))


def same(one, other, tolerance):
  """The gradients and the numbers of one step are those of another."""
  assert error(one[0], other[0]) < tolerance
  assert one[1].keys() == other[1].keys()
  for name, value in other[1].items():
    assert one[1][name] == pytest.approx(float(value), rel=1e-5, abs=1e-5), name


def hidden_of(params, batch):
  positions = np.tile(np.arange(batch.tokens.shape[1], dtype=np.int32), (len(batch.tokens), 1))
  return decoder.apply(params, tiny.CONFIG, batch.tokens, positions).hidden


def answers(logits, batch, i):
  """log π of answer i, and how many tokens it has."""
  span = np.arange(batch.prompt_lengths[i], batch.lengths[i])
  return jnp.sum(jax.nn.log_softmax(logits[i, span - 1])[np.arange(len(span)), batch.tokens[i, span]]), len(span)


@pytest.mark.parametrize("per_token", [False, True])
def test_a_step_of_dpo_is_the_formula_written_out(per_token):
  """-log σ(β (log π/π_ref of the preferred answer - that of the other)), the mean over pairs, from whole logits."""
  batch = made()

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    logits, total = decoder.unembed(params, tiny.CONFIG, hidden_of(params, batch)), 0.0
    for i in range(0, len(batch.tokens), 2):
      ratios = []
      for each in (i, i + 1):
        taken, length = answers(logits, batch, each)
        ratio = taken - jnp.sum(batch.reference_logprobs[each, :length])
        ratios.append(ratio / length if per_token else ratio)
      total -= jnp.log(jax.nn.sigmoid(0.3 * (ratios[0] - ratios[1])))
    return total / (len(batch.tokens) // 2)

  value, expected = loss(params_of(DPO))
  got, stats = gradients_of(params_of(DPO), batch, PreferenceSettings(beta=0.3, per_token=per_token).objective)
  assert stats["loss"] == pytest.approx(float(value), rel=1e-5)
  assert error(got, expected) < 1e-5


def test_a_step_of_a_reward_model_is_the_formula_written_out():
  """-log σ(score of the preferred answer - score of the other - margin), each read at its answer's last token."""
  batch = made()

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    hidden, total = hidden_of(params.trunk, batch), 0.0
    for i in range(0, len(batch.tokens), 2):
      better, worse = (jnp.dot(hidden[each, batch.lengths[each] - 1], params.value) for each in (i, i + 1))
      total -= jnp.log(jax.nn.sigmoid(better - worse - batch.margin[i]))
    return total / (len(batch.tokens) // 2)

  value, expected = loss(params_of(SCORES))
  got, stats = gradients_of(params_of(SCORES), batch, SCORES)
  assert stats["loss"] == pytest.approx(float(value), rel=1e-5)
  assert error(got, expected) < 1e-5
  plain = gradients_of(params_of(SCORES), batch.replace(margin=None), SCORES)[1]["loss"]
  assert plain < stats["loss"]


@KINDS
def test_micro_batches_and_chunks_change_nothing(objective):
  params, batch = params_of(objective), made()
  whole = gradients_of(params, batch, objective)
  same(gradients_of(params, batch, objective, micro_batches=4, chunk_tokens=8), whole, 1e-5)


@KINDS
@pytest.mark.parametrize(("micro_batches", "row_tokens"), [(1, 12), (2, 40)])
def test_packed_is_unpacked(objective, micro_batches, row_tokens):
  """Rows that hold one answer, and rows in which pairs share their prompt."""
  params, batch = params_of(objective), made()
  layout = packing.pack(
    batch.prompt_lengths, batch.lengths, columns=batch.tokens.shape[1], row_tokens=row_tokens, micro_batches=micro_batches,
    group=2, multiple=3,
  )  # fmt: skip
  shared = (layout.prompt_of != np.arange(len(batch.lengths)) % (len(batch.lengths) // micro_batches)).sum()
  assert shared == len(batch.lengths) // 2 or row_tokens == 12
  packed = gradients_of(params, batch.replace(layout=layout), objective, micro_batches=micro_batches)
  same(packed, gradients_of(params, batch, objective), 1e-6)


@KINDS
def test_devices_change_nothing(objective):
  params, batch = params_of(objective), made()
  with jax.set_mesh(sharding.make_mesh(MeshSizes(data=2, fsdp=2), jax.devices()[:4])):
    spread = gradients_of(params, batch, objective, micro_batches=2)
  same(spread, gradients_of(params, batch, objective), 1e-5)


def test_at_its_reference_a_policy_prefers_nothing():
  """Loss log 2, every pair a tie, and still a gradient that parts them."""
  batch, params = made(), params_of(DPO)
  batch = jax.jit(functools.partial(passes.with_reference, temperature=1.0, config=tiny.CONFIG))(params, batch)
  values, chosen, rejected = measured(params, batch, objective=DPO)
  np.testing.assert_allclose(values, math.log(2), rtol=1e-6)
  assert not np.any(chosen) and not np.any(rejected)
  assert np.all(pairs.ranked(chosen, rejected) == 0.5)
  gradient, stats = gradients_of(params, batch, DPO)
  assert stats["loss"] == pytest.approx(math.log(2), rel=1e-6)
  after = optax.tree.add_scale(params, -1e-3 / optax.tree.norm(gradient), gradient)
  assert np.mean(measured(after, batch, objective=DPO)[0]) < math.log(2)


def test_a_reward_model_begins_without_an_opinion():
  values, chosen, rejected = measured(critic.initialize(params_of(DPO)), made().replace(margin=None), objective=SCORES)
  np.testing.assert_allclose(values, math.log(2), rtol=1e-6)
  assert np.all(pairs.ranked(chosen, rejected) == 0.5)


@KINDS
def test_the_numbers_of_a_step_are_those_of_its_pairs(objective):
  params, batch = params_of(objective), made()
  values, chosen, rejected = map(np.asarray, measured(params, batch, objective=objective))
  stats = gradients_of(params, batch, objective)[1]
  assert stats["loss"] == pytest.approx(values.mean(), rel=1e-5)
  assert stats["rewards/chosen"] == pytest.approx(chosen.mean(), rel=1e-4)
  assert stats["rewards/rejected"] == pytest.approx(rejected.mean(), rel=1e-4)
  assert stats["rewards/margins"] == pytest.approx((chosen - rejected).mean(), rel=1e-4, abs=1e-5)
  assert stats["rewards/accuracies"] == np.mean(chosen > rejected) and 0 < stats["rewards/accuracies"] < 1


@KINDS
def test_a_pair_that_does_not_count_has_no_say(objective):
  """Neither in the loss nor in the denominator nor in the numbers."""
  params, batch = params_of(objective), made()
  counted = np.ones(len(batch.tokens), bool)
  counted[[3, 6]] = False  # one answer of each pair is enough
  keep = np.delete(np.arange(len(batch.tokens)), [2, 3, 6, 7])
  few = jax.tree.map(lambda x: x[keep], batch)
  got, expected = gradients_of(params, batch.replace(counted=counted), objective), gradients_of(params, few, objective)
  assert error(got[0], expected[0]) < 1e-5
  for name in ("loss", "rewards/margins", "rewards/accuracies"):
    assert got[1][name] == pytest.approx(float(expected[1][name]), rel=1e-5), name


@KINDS
def test_a_step_prefers_more_and_a_broken_one_is_skipped(objective):
  params, batch = params_of(objective), made()
  step = functools.partial(update.update, config=tiny.CONFIG, objective=objective, transformation=optax.sgd(1e-3))
  step = jax.jit(step)
  state, stats = step(update.initialize(params, optax.sgd(1e-3)), batch, 1.0)
  assert stats["skipped"] == 0
  assert np.mean(measured(state.params, batch, objective=objective)[0]) < stats["loss"]
  broken = jax.tree.map(lambda x: x * jnp.nan, params)
  state, stats = step(update.initialize(broken, optax.sgd(1e-3)), batch, 1.0)
  assert stats["skipped"] == 1
  jax.tree.map(np.testing.assert_array_equal, state.params, broken)


@pytest.mark.parametrize("form", ["sigmoid", "hinge", "ipo", "robust", "apo_zero"])
def test_each_form_and_divergence_is_that_of_the_losses(form):
  """A pair's loss is `losses.dpo` of the sums over its answers."""
  batch, smoothing = made(), 0.1 if form == "robust" else 0.0
  told = (batch.behavior_logprobs, batch.behavior_logprobs)
  sums = [np.sum(np.where(batch.mask, x, 0), axis=1) for x in (batch.behavior_logprobs, batch.reference_logprobs)]
  for divergence in ("reverse_kl", "forward_kl", "js", "alpha"):
    objective = PairObjective("dpo", 0.2, form, divergence, 0.4, smoothing, per_token=False)
    expected = losses.dpo(
      sums[0][0::2], sums[0][1::2], sums[1][0::2], sums[1][1::2], beta=0.2, form=form, divergence=divergence, alpha=0.4,
      label_smoothing=smoothing,
    )  # fmt: skip
    np.testing.assert_allclose(pairs.pair_losses(objective, told, batch), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (dict(kind="dop"), r"config.preference.kind expected one of dpo, reward_model, got 'dop' \(did you mean 'dpo'\?\)"),
    (dict(form="hing"), r"config.preference.form expected one of .* got 'hing' \(did you mean 'hinge'\?\)"),
    (dict(divergence="kl"), "config.preference.divergence expected one of reverse_kl, .* got 'kl'"),
    (dict(beta=0.0), "config.preference.beta expected above 0, got 0.0"),
    (dict(label_smoothing=0.5), r"config.preference.label_smoothing expected in \[0, 0.5\), got 0.5"),
    (dict(label_smoothing=0.1, form="ipo"), "label_smoothing expected 0 with form ipo, which has none, got 0.1"),
    (dict(label_smoothing=0.1, kind="reward_model"), "label_smoothing expected 0 with kind reward_model"),
  ],
)
def test_settings_of_pairs_that_are_none_are_told(changes, told):
  with pytest.raises(UserError, match=told):
    PreferenceSettings(**changes)
