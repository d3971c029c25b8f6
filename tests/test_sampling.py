"""Laws of the sampler: it draws from exactly the distribution it says, and never a token of weight zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxreason import logprobs, sampling
from jaxreason.sampling import Sampling

V = 600  # three blocks of the two-level draw, the last one partly filled
DRAWS = 20_000
draw = jax.jit(sampling.sample, static_argnames="truncate")


def rows(count, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0):
  full = lambda value, dtype: jnp.full((count,), value, dtype)
  return Sampling(full(temperature, jnp.float32), full(top_p, jnp.float32), full(top_k, jnp.int32), full(min_p, jnp.float32))


def slow(logits, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0):
  """(policy, truncated) distributions in float64: temperature, top-k, top-p among what is left, min-p."""
  powers = np.exp((logits - logits.max()).astype(np.float64) / temperature)
  kept = powers.copy()
  order = np.argsort(-powers, kind="stable")
  if top_k:
    kept[order[top_k:]] = 0
  before = np.cumsum(kept[order]) - kept[order]
  kept[order[before >= top_p * kept.sum()]] = 0
  kept[powers < min_p * powers.max()] = 0
  return powers / powers.sum(), kept / kept.sum()


def logits_of(seed, spread=2.0):
  return np.random.default_rng(seed).normal(size=V).astype(np.float32) * spread


KINDS = {
  "plain": {},
  "cold": dict(temperature=0.6),
  "top_p": dict(top_p=0.8),
  "top_k": dict(top_k=20),
  "min_p": dict(min_p=0.05),
  "all": dict(temperature=1.3, top_k=200, top_p=0.9, min_p=0.01),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_draws_follow_the_exact_distribution(kind):
  logits = logits_of(1)
  policy, truncated = slow(logits, **kind)
  uniforms = jax.random.uniform(jax.random.key(7), (DRAWS,))
  tokens, taken, log_mass = draw(jnp.broadcast_to(jnp.asarray(logits), (DRAWS, V)), uniforms, rows(DRAWS, **kind))
  counts = np.bincount(tokens, minlength=V)
  assert not counts[truncated == 0].any()
  # Rare tokens share a cell, so that every expected count is large enough for the test.
  rare = truncated * DRAWS < 10
  cells = lambda x: np.append(x[~rare], x[rare].sum()) if x[rare].sum() else x[~rare]
  assert stats.chisquare(cells(counts), cells(truncated * DRAWS), sum_check=False).pvalue > 1e-3
  np.testing.assert_allclose(taken, np.log(policy)[tokens], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(log_mass, np.log(policy[truncated > 0].sum()), atol=2e-5)


def test_the_uniform_walks_through_the_tokens_in_order():
  """The draw is the inverse of the running sum: a grid of uniforms meets each token for its share of the grid."""
  logits = logits_of(2)
  uniforms = (jnp.arange(DRAWS) + 0.5) / DRAWS
  tokens, _, _ = draw(jnp.broadcast_to(jnp.asarray(logits), (DRAWS, V)), uniforms, rows(DRAWS), truncate=False)
  assert (np.diff(tokens) >= 0).all()
  share = np.bincount(tokens, minlength=V) / DRAWS
  np.testing.assert_allclose(share, slow(logits)[0], atol=1.01 / DRAWS)


def test_skipping_the_thresholds_changes_nothing_when_none_truncates():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(512, V)), jnp.float32)
  uniforms = jax.random.uniform(jax.random.key(0), (512,))
  for one, other in zip(draw(logits, uniforms, rows(512), truncate=False), draw(logits, uniforms, rows(512)), strict=True):
    np.testing.assert_array_equal(one, other)


def test_no_uniform_draws_a_token_of_weight_zero():
  """Uniforms at every step of the running sum, and one rounding to either side, where sums computed in another order differ."""
  generator = np.random.default_rng(3)
  many = 4096
  logits = generator.normal(size=(many, V)).astype(np.float32) * 3
  kept = np.partition(logits, -40, axis=1)[:, -40:].min(1, keepdims=True)
  weights = np.where(logits >= kept, np.exp(logits - logits.max(1, keepdims=True)), 0)
  ends = np.cumsum(weights, axis=1) / weights.sum(1, keepdims=True)
  edge = np.take_along_axis(ends, generator.integers(0, V, (many, 1)), 1)[:, 0].astype(np.float32)
  chosen = rows(many, top_k=40)
  for step in range(-3, 4):
    uniforms = np.clip(edge + step * np.spacing(edge), 0, 1 - 2**-24).astype(np.float32)
    tokens, _, _ = draw(jnp.asarray(logits), jnp.asarray(uniforms), chosen)
    assert (weights[np.arange(many), tokens] > 0).all()


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("likely", [0, 255, 256, V - 1])
def test_a_certainty_is_drawn_wherever_it_stands(uniform, likely):
  logits = jnp.full((1, V), -1e9).at[0, likely].set(5.0)
  token, taken, log_mass = draw(logits, jnp.asarray([uniform]), rows(1))
  assert (int(token[0]), float(taken[0]), float(log_mass[0])) == (likely, 0.0, 0.0)


def test_temperature_zero_is_argmax_and_says_the_policys_logprob():
  logits = jnp.asarray(np.random.default_rng(5).normal(size=(64, V)), jnp.float32)
  greedy = rows(64, temperature=0.0, top_p=0.5, top_k=3)
  tokens, taken, log_mass = draw(logits, jax.random.uniform(jax.random.key(1), (64,)), greedy)
  np.testing.assert_array_equal(tokens, jnp.argmax(logits, -1))
  np.testing.assert_allclose(taken, logprobs.token_logprobs(logits, tokens), rtol=1e-5)
  assert not np.asarray(log_mass).any()


def test_each_row_has_its_own_parameters():
  logits = jnp.asarray(np.random.default_rng(6).normal(size=(4, V)), jnp.float32)
  uniforms = jnp.asarray([0.3, 0.9, 0.7, 0.2])
  each = [rows(1, temperature=0.0), rows(1, top_k=5), rows(1, temperature=2.0, top_p=0.5), rows(1, min_p=0.3)]
  together = Sampling(*(jnp.concatenate(parts) for parts in zip(*each, strict=True)))
  got = draw(logits, uniforms, together)
  for row, alone in enumerate(each):
    one = draw(logits[row : row + 1], uniforms[row : row + 1], alone)
    for a, b in zip(got, one, strict=True):
      np.testing.assert_allclose(a[row], b[0], rtol=1e-5, atol=1e-6)


def test_top_p_keeps_at_least_one_token_and_top_k_one_is_argmax():
  logits = jnp.asarray(np.random.default_rng(8).normal(size=(32, V)), jnp.float32)
  uniforms = jax.random.uniform(jax.random.key(2), (32,))
  for chosen in (rows(32, top_p=1e-6), rows(32, top_k=1), rows(32, min_p=0.9999)):
    np.testing.assert_array_equal(draw(logits, uniforms, chosen)[0], jnp.argmax(logits, -1))


def test_extreme_logits_give_finite_numbers():
  logits = jnp.asarray([[1e4, -1e4, 0.0], [-1e30, -1e30, -1e30], [88.0, 88.0, -88.0]])
  for chosen in (rows(3), rows(3, temperature=0.01), rows(3, top_p=0.9)):
    token, taken, log_mass = draw(logits, jnp.asarray([0.99, 0.99, 0.01]), chosen)
    assert np.isfinite(taken).all()
    assert np.isfinite(log_mass).all()
    assert int(token[0]) == 0


def test_parameters_are_traced():
  """Other temperatures, budgets of mass and counts use the same compiled sampler."""
  traces = []

  @functools.partial(jax.jit)
  def counted(*args):
    traces.append(None)
    return sampling.sample(*args)

  logits, uniforms = jnp.zeros((2, V)), jnp.asarray([0.1, 0.2])
  for kind in KINDS.values():
    counted(logits, uniforms, rows(2, **kind))
  assert len(traces) == 1


def test_a_draw_is_named_by_visit_sample_and_position():
  """Each of the names gives another uniform, and the same names the same one wherever they are computed."""
  root = jax.random.key(0)
  uniform = lambda visit, sample, position: sampling.token_uniform(sampling.sample_key(root, visit, sample), position)
  names = np.stack(np.meshgrid(range(6), range(5), range(4), indexing="ij"), -1).reshape(-1, 3)
  many = jax.jit(jax.vmap(uniform))(*jnp.asarray(names).T)
  assert len(set(many.tolist())) == len(names)
  assert ((many >= 0) & (many < 1)).all()
  order = np.random.default_rng(0).permutation(len(names))
  np.testing.assert_array_equal(jax.jit(jax.vmap(uniform))(*jnp.asarray(names[order]).T), many[order])
  assert uniform(*map(jnp.int32, names[17])) == many[17]
