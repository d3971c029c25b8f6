"""Laws of the sampler: it draws from exactly the distribution it says, and never a token of weight zero."""

import functools

import jax
import numpy as np
import pytest
from sampler_law import chance, law

from jaxreason import logprobs, sampling
from jaxreason.sampling import Sampling

V = 600  # three blocks of the two-level draw, the last one partly filled
DRAWS = 5_000
draw = jax.jit(sampling.sample, static_argnames="truncate")


def rows(count, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0):
  full = lambda value, dtype: np.full(count, value, dtype)
  return Sampling(full(temperature, np.float32), full(top_p, np.float32), full(top_k, np.int32), full(min_p, np.float32))


def uniforms_of(seed, count):
  return np.random.default_rng(seed).random(count, np.float32)


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
  policy, truncated = law(logits, **kind)
  tokens, taken, log_mass = map(np.asarray, draw(np.tile(logits, (DRAWS, 1)), uniforms_of(7, DRAWS), rows(DRAWS, **kind)))
  assert chance(tokens, truncated) > 1e-3
  np.testing.assert_allclose(taken, np.log(policy)[tokens], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(log_mass, np.log(policy[truncated > 0].sum()), atol=2e-5)


def test_the_uniform_walks_through_the_tokens_in_order():
  """The draw is the inverse of the running sum: a grid of uniforms meets each token for its share of the grid."""
  logits = logits_of(2)
  uniforms = ((np.arange(DRAWS) + 0.5) / DRAWS).astype(np.float32)
  tokens = np.asarray(draw(np.tile(logits, (DRAWS, 1)), uniforms, rows(DRAWS), truncate=False)[0])
  assert (np.diff(tokens) >= 0).all()
  share = np.bincount(tokens, minlength=V) / DRAWS
  np.testing.assert_allclose(share, law(logits)[0], atol=1.01 / DRAWS)


def test_skipping_the_thresholds_changes_nothing_when_none_truncates():
  logits, uniforms = np.random.default_rng(0).normal(size=(DRAWS, V)).astype(np.float32), uniforms_of(0, DRAWS)
  for one, other in zip(draw(logits, uniforms, rows(DRAWS), truncate=False), draw(logits, uniforms, rows(DRAWS)), strict=True):
    np.testing.assert_array_equal(one, other)


def test_no_uniform_draws_a_token_of_weight_zero():
  """Uniforms at every step of the running sum, and one rounding to either side, where sums computed in another order differ."""
  generator = np.random.default_rng(3)
  many = DRAWS
  logits = generator.normal(size=(many, V)).astype(np.float32) * 3
  kept = np.partition(logits, -40, axis=1)[:, -40:].min(1, keepdims=True)
  weights = np.where(logits >= kept, np.exp(logits - logits.max(1, keepdims=True)), 0)
  ends = np.cumsum(weights, axis=1) / weights.sum(1, keepdims=True)
  edge = np.take_along_axis(ends, generator.integers(0, V, (many, 1)), 1)[:, 0].astype(np.float32)
  chosen = rows(many, top_k=40)
  for step in range(-2, 3):
    uniforms = np.clip(edge + step * np.spacing(edge), 0, 1 - 2**-24).astype(np.float32)
    tokens = np.asarray(draw(logits, uniforms, chosen)[0])
    assert (weights[np.arange(many), tokens] > 0).all()


def test_a_certainty_is_drawn_wherever_it_stands():
  likely = np.repeat([0, 255, 256, V - 1], 8)
  logits = np.where(np.arange(V)[None] == likely[:, None], 5.0, -1e9).astype(np.float32)
  uniforms = np.tile(np.array([0, 1e-9, 0.3, 0.5, 0.7, 0.9, 0.99, 1 - 2**-24], np.float32), 4)
  tokens, taken, log_mass = map(np.asarray, draw(logits, uniforms, rows(32)))
  np.testing.assert_array_equal(tokens, likely)
  assert not taken.any()
  assert not log_mass.any()


def test_temperature_zero_is_argmax_and_says_the_policys_logprob():
  logits = np.random.default_rng(5).normal(size=(32, V)).astype(np.float32)
  tokens, taken, log_mass = draw(logits, uniforms_of(1, 32), rows(32, temperature=0.0, top_p=0.5, top_k=3))
  np.testing.assert_array_equal(tokens, logits.argmax(-1))
  np.testing.assert_allclose(taken, logprobs.token_logprobs(logits, tokens), rtol=1e-5)
  assert not np.asarray(log_mass).any()


def test_each_row_has_its_own_parameters():
  logits, uniforms = np.random.default_rng(6).normal(size=(32, V)).astype(np.float32), uniforms_of(6, 32)
  each = [rows(32, temperature=0.0), rows(32, top_k=5), rows(32, temperature=2.0, top_p=0.5), rows(32, min_p=0.3)]
  kind = np.arange(32) % 4
  got = draw(logits, uniforms, Sampling(*(np.choose(kind, parts) for parts in zip(*each, strict=True))))
  for number, alone in enumerate(each):
    for mixed, uniform in zip(got, draw(logits, uniforms, alone), strict=True):
      np.testing.assert_allclose(mixed[kind == number], uniform[kind == number], rtol=1e-5, atol=1e-6)


def test_top_p_keeps_at_least_one_token_and_top_k_one_is_argmax():
  logits = np.random.default_rng(8).normal(size=(32, V)).astype(np.float32)
  for chosen in (rows(32, top_p=1e-6), rows(32, top_k=1), rows(32, min_p=0.9999)):
    np.testing.assert_array_equal(draw(logits, uniforms_of(2, 32), chosen)[0], logits.argmax(-1))


def test_extreme_logits_give_finite_numbers():
  logits = np.array([[1e4, -1e4, 0.0], [-1e30, -1e30, -1e30], [88.0, 88.0, -88.0]], np.float32)
  for chosen in (rows(3), rows(3, temperature=0.01), rows(3, top_p=0.9)):
    token, taken, log_mass = draw(logits, np.array([0.99, 0.99, 0.01], np.float32), chosen)
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

  logits, uniforms = np.zeros((2, V), np.float32), np.array([0.1, 0.2], np.float32)
  for kind in KINDS.values():
    counted(logits, uniforms, rows(2, **kind))
  assert len(traces) == 1


def test_a_draw_is_named_by_visit_sample_and_position():
  """Each of the names gives another uniform, and the same names the same one wherever they are computed."""
  root = jax.random.key(0)
  uniform = lambda visit, sample, position: sampling.token_uniform(sampling.sample_key(root, visit, sample), position)
  draws = jax.jit(jax.vmap(uniform))
  names = np.stack(np.meshgrid(range(6), range(5), range(4), indexing="ij"), -1).reshape(-1, 3)
  many = np.asarray(draws(*names.T))
  assert len(set(many.tolist())) == len(names)
  assert ((many >= 0) & (many < 1)).all()
  order = np.random.default_rng(0).permutation(len(names))
  np.testing.assert_array_equal(draws(*names[order].T), many[order])
  assert jax.jit(uniform)(*names[17]) == many[17]
