"""Laws of replaying the sampler's truncation: the update's log-probs are the truncated sampler's, and so is its gradient.

B sequences = P prompts x G samples, Tp prompt columns, T completion tokens, S = Tp + T, V vocab.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from sampler_law import law

from jaxreason import assemble, build, debug, losses, masks, packing, passes, phases, sampling, sharding, update
from jaxreason.model import decoder, weights
from jaxreason.objective import SFT, Objective
from jaxreason.records import BUDGET, Rollouts
from jaxreason.rollout.config import RolloutConfig
from jaxreason.sampling import Sampling
from jaxreason.sharding import MeshSizes
from jaxreason.truncation import Cut

P, G, TP, T = 4, 3, 5, 6
TEMPERATURE = 0.8
PLAIN, REPLAYED = Objective(), Objective(replay_truncation=True)
CUTS = {
  "top_p": Cut(top_p=0.7), "top_k": Cut(top_k=5), "min_p": Cut(min_p=0.4), "all": Cut(top_k=9, top_p=0.8, min_p=0.1),
}  # fmt: skip
cuts = pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)


@jax.jit
def logits_of(params, tokens):
  """[B, S, V] before each next token."""
  positions = jnp.tile(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], (tokens.shape[0], 1))
  hidden = decoder.apply(params, tiny.CONFIG, tokens, positions).hidden
  return decoder.unembed(params, tiny.CONFIG, hidden)


def rows(count, cut):
  full = lambda value, dtype: np.full(count, value, dtype)
  return Sampling(
    full(TEMPERATURE, np.float32), full(cut.top_p or 1, np.float32), full(cut.top_k or 0, np.int32),
    full(cut.min_p or 0, np.float32),
  )  # fmt: skip


@functools.cache
def rollouts(cut) -> Rollouts:
  """G answers of ragged lengths to each of P prompts, drawn from the truncated tiny model."""
  generator = np.random.default_rng(0)
  prompt_lengths, lengths = np.array([5, 1, 3, 4], np.int32), generator.integers(2, T + 1, (P, G)).astype(np.int32)
  prompts = np.where(np.arange(TP) < prompt_lengths[:, None], tiny.tokens(1, P, TP), 0).astype(np.int32)
  starts, every = np.repeat(prompt_lengths, G), np.arange(P * G)
  sequences = np.pad(np.repeat(prompts, G, 0), ((0, 0), (0, T)))
  columns = []
  for step in range(T):
    logits = np.asarray(logits_of(tiny.params(), sequences))[every, starts + step - 1]
    columns.append(jax.jit(sampling.sample)(logits, generator.random(P * G, np.float32), rows(P * G, cut)))
    sequences[every, starts + step] = columns[-1][0]
  written = np.arange(T) < lengths[..., None]
  tokens, logprobs, log_mass = (
    np.where(written, np.stack(column, -1).reshape(P, G, T), 0) for column in zip(*columns, strict=True)
  )
  zeros = lambda value=0: np.full((P, G), value, np.int32)
  return Rollouts(
    prompts=prompts, prompt_lengths=prompt_lengths, visit_ids=np.arange(P, dtype=np.int32), tokens=tokens, lengths=lengths,
    logprobs=logprobs, log_mass=log_mass, versions=np.zeros((P, G, T), np.int32), stop=zeros(BUDGET),
    own=written,
    rewards=generator.random((P, G)).astype(np.float32), judged=np.ones((P, G), bool),
  )  # fmt: skip


@functools.partial(jax.jit, static_argnames="objective")
def batch_of(rollouts, objective=REPLAYED):
  return assemble.assemble(rollouts, objective=objective, width=T)


_STATIC = ("objective", "truncation", "micro_batches", "chunk_tokens")


@functools.partial(jax.jit, static_argnames=_STATIC)
def gradients_of(params, batch, objective=REPLAYED, truncation=None, micro_batches=1, chunk_tokens=1024):
  return update.value_and_gradients(
    params, batch, TEMPERATURE, config=tiny.CONFIG, objective=objective, truncation=truncation,
    micro_batches=micro_batches, chunk_tokens=chunk_tokens,
  )  # fmt: skip


@functools.partial(jax.jit, static_argnames="truncation")
def completions(params, batch, truncation=None):
  return passes.completions(params, batch, TEMPERATURE, config=tiny.CONFIG, truncation=truncation)


def same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def check_close(one, other, most=1e-5):
  distance = optax.tree.norm(jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), one, other))
  assert distance <= most * optax.tree.norm(other)


def moved(scale=0.05):
  """Parameters after a few steps, whose kept sets are others."""
  generator = np.random.default_rng(5)
  return jax.tree.map(lambda x: x + scale * generator.normal(size=x.shape).astype(np.float32), tiny.params())


@cuts
def test_at_the_sampling_parameters_every_ratio_is_one(cut):
  batch = batch_of(rollouts(cut))
  logprobs, entropy = completions(tiny.params(), batch, cut)
  np.testing.assert_allclose(logprobs[batch.mask], batch.behavior_logprobs[batch.mask], atol=1e-5)
  _, stats = gradients_of(tiny.params(), batch, truncation=cut)
  assert stats["sampling/sampling_logp_difference/max"] <= 1e-5
  assert stats["clip_ratio/region_mean"] == 0
  whole, same_entropy = completions(tiny.params(), batch)
  np.testing.assert_allclose(whole[batch.mask], rollouts(cut).logprobs.reshape(P * G, T)[batch.mask], atol=1e-5)
  assert np.abs(whole - logprobs)[batch.mask].max() > 0.1
  np.testing.assert_allclose(entropy, same_entropy, rtol=1e-6)


@cuts
@pytest.mark.parametrize("params", [tiny.params, moved], ids=["sampling", "moved"])
def test_the_gradient_is_that_of_the_truncated_softmax_written_out(cut, params):
  """The set of kept tokens, by a sort in float64, is constant; a token outside of it is measured by their mass too."""
  params, batch = params(), batch_of(rollouts(cut))
  at = np.minimum(np.asarray(batch.prompt_lengths)[:, None] + np.arange(T)[None], TP + T - 1)
  places, taken = (np.arange(P * G)[:, None], at - 1), np.take_along_axis(np.asarray(batch.tokens), at, 1)
  given = np.asarray(logits_of(params, batch.tokens))[places].reshape(-1, tiny.CONFIG.vocab_size)
  parameters = {name: value for name, value in cut._asdict().items() if value is not None}
  kept = np.stack([law(row, temperature=TEMPERATURE, **parameters)[1] > 0 for row in given]).reshape(P * G, T, -1)
  inside = np.take_along_axis(kept, taken[..., None], -1)[..., 0][batch.mask]
  assert inside.all() == (params is tiny.params())

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    scaled = logits_of(params, batch.tokens)[places] / TEMPERATURE
    logprobs = jnp.take_along_axis(scaled, taken[..., None], -1)[..., 0]
    logprobs -= jax.nn.logsumexp(jnp.where(kept, scaled, -jnp.inf), axis=-1)
    values = losses.clipped_surrogate(logprobs, batch.behavior_logprobs, batch.advantages)
    return masks.divide(*masks.token_mean(values, batch.mask))

  value, expected = loss(params)
  got, stats = gradients_of(params, batch, truncation=cut)
  assert stats["loss"] == pytest.approx(float(value), rel=1e-4, abs=1e-6)
  check_close(got, expected)


@cuts
def test_micro_batches_chunks_and_packing_change_nothing(cut):
  batch = batch_of(rollouts(cut))
  whole, stats = gradients_of(moved(), batch, truncation=cut)
  shape = dict(columns=TP + T, row_tokens=2 * (TP + T), micro_batches=2, group=G)
  packed = batch.replace(layout=packing.pack(np.asarray(batch.prompt_lengths), np.asarray(batch.lengths), **shape))
  for given, parts in ((batch, dict(micro_batches=4)), (batch, dict(chunk_tokens=12)), (packed, dict(micro_batches=2))):
    got, numbers = gradients_of(moved(), given, truncation=cut, **parts)
    check_close(got, whole)
    assert numbers["loss"] == pytest.approx(float(stats["loss"]), rel=1e-4, abs=1e-6)


def test_without_it_nothing_changes_to_the_bit():
  """Neither the record's log of the kept mass nor a truncation of nothing has a say."""
  source = rollouts(CUTS["all"])
  plain = batch_of(source, PLAIN)
  same(plain, batch_of(source.replace(log_mass=source.log_mass - 1), PLAIN))
  np.testing.assert_array_equal(plain.behavior_logprobs, source.logprobs.reshape(P * G, T))
  same(gradients_of(tiny.params(), plain, PLAIN), gradients_of(tiny.params(), plain, PLAIN, truncation=Cut()))
  same(batch_of(source).replace(behavior_logprobs=0), plain.replace(behavior_logprobs=0))  # with it, these alone change


@cuts
def test_the_mean_score_is_zero_under_the_law_that_was_drawn_from_and_only_there(cut):
  """E[∇ log π(a)] = 0 for a drawn from π: of truncated draws, for the truncated log-probs; the whole policy's are biased."""
  V, draws = tiny.CONFIG.vocab_size, 20_000
  prompt = tiny.tokens(3, 1, TP)
  logits = np.asarray(logits_of(tiny.params(), prompt))[0, -1]
  uniforms = np.random.default_rng(2).random(draws, np.float32)
  tokens = jax.jit(sampling.sample)(np.tile(logits, (draws, 1)), uniforms, rows(draws, cut))[0]
  share = np.bincount(tokens, minlength=V) / draws
  one = batch_of(rollouts(cut)).replace(
    tokens=np.concatenate([np.tile(prompt, (V, 1)), np.arange(V, dtype=np.int32)[:, None]], 1),
    prompt_lengths=np.full(V, TP, np.int32), lengths=np.full(V, TP + 1, np.int32), mask=np.ones((V, 1), bool),
    behavior_logprobs=np.zeros((V, 1), np.float32), prompt_tokens=None,
  )  # fmt: skip
  reinforce = Objective(surrogate="reinforce", reduction="sequence_sum", replay_truncation=True)

  def scores(truncation):
    """[V, parameters]: ∇ log π of each token."""
    of_one = lambda weights: gradients_of(tiny.params(), one.replace(advantages=weights), reinforce, truncation=truncation)[0]
    trees = jax.vmap(of_one)(-V * np.eye(V, dtype=np.float32)[..., None])
    return np.concatenate([np.asarray(leaf).reshape(V, -1) for leaf in jax.tree.leaves(trees)], 1)

  truncated, whole = scores(cut), scores(None)
  error = np.sqrt(share @ np.sum(truncated**2, 1) / draws)  # of the mean of so many scores, in its norm
  assert np.linalg.norm(share @ truncated) < 3 * error
  assert np.linalg.norm(share @ whole) > 20 * error
  names = {name: value for name, value in cut._asdict().items() if value is not None}
  exact = law(logits, temperature=TEMPERATURE, **names)[1]
  assert np.linalg.norm(exact @ truncated) < 1e-4 * np.linalg.norm(exact @ whole)


def run_of(cut, **changes):
  """Settings whose rollout truncates and whose objective replays it."""
  shape = RolloutConfig(P, G, top_p=cut.top_p or 1.0, top_k=cut.top_k or 0, min_p=cut.min_p or 0.0, temperature=TEMPERATURE)
  return tiny.settings(rollout=shape, objective=dataclasses.replace(REPLAYED, **changes))


@pytest.mark.parametrize(
  ("changes", "sizes"),
  [
    ({}, MeshSizes(1, 1, 1)),
    pytest.param({}, MeshSizes(2, 2, 1), marks=pytest.mark.system),
    ({}, MeshSizes(1, 2, 2)),  # the vocabulary is cut too
    pytest.param(dict(m2_threshold=1e-8), MeshSizes(1, 1, 1), marks=pytest.mark.system),
    (dict(proximal="policy", correction="truncated"), MeshSizes(1, 1, 1)),
  ],
  ids=str,
)
def test_a_run_replays_what_its_rollout_truncates_in_every_pass(changes, sizes):
  """Also the pass in which M2PO looks for tokens that moved: there are none. And the debugger runs the same step."""
  cut, chosen = CUTS["all"], run_of(CUTS["all"], **changes)
  assert phases.replayed_truncation(chosen, "train") == cut
  assert phases.replayed_truncation(chosen, "sft") is None
  mesh = sharding.make_mesh(sizes, jax.devices()[: sizes.data * sizes.fsdp * sizes.tensor])
  with jax.set_mesh(mesh):
    programs = build.compile_programs(chosen, tiny.CONFIG, mesh)
    batch = programs.assemble(rollouts(cut), width=T)
    params = jax.device_put(tiny.params(), weights.shardings(tiny.CONFIG, mesh))
    _, stats = programs.update(programs.start_rl(params), batch, TEMPERATURE)
  dumped = debug.Dump(jax.tree.map(jnp.asarray, tiny.params()), batch, chosen, tiny.CONFIG, "train", 0)
  numbers = debug.replay(dumped)
  assert debug.explain(dumped) is None
  assert stats["sampling/sampling_logp_difference/max"] <= 1e-5
  assert stats.get("rollout_corr/masked_fraction", 0) == 0
  assert numbers["loss"] == pytest.approx(float(stats["loss"]), rel=1e-4, abs=1e-6)


def test_a_run_that_does_not_replay_knows_no_truncation():
  chosen = run_of(CUTS["all"], replay_truncation=False)
  assert phases.replayed_truncation(chosen, "train") is None
  assert not SFT.replay_truncation
