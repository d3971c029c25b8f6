"""Laws of truncation: the threshold is exactly a sort's, ties stay together, and the kept mass is the sampler's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import logprobs, sampling, truncation

ROWS, V = 64, 600
CUTS = {
  "top_k": dict(top_k=4),
  "top_p": dict(top_p=0.7),
  "min_p": dict(min_p=0.2),
  "all": dict(top_k=12, top_p=0.9, min_p=0.01),
}
cuts = pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
smallest = jax.jit(truncation.smallest_kept)


def weights(seed=0, spread=8.0):
  """From 1 down to about 1e-20, where a bisection of values instead of bit patterns would see nothing but zeros."""
  logits = np.random.default_rng(seed).normal(size=(ROWS, V)).astype(np.float32) * spread
  return np.exp(logits - logits.max(-1, keepdims=True))


@pytest.mark.parametrize("k", [1, 2, 37, V - 1, V])
def test_top_k_is_the_kth_largest_to_the_last_bit(k):
  given = weights()
  np.testing.assert_array_equal(smallest(given, np.full(ROWS, k)), np.sort(given, -1)[:, -k])


@pytest.mark.parametrize("top_k", [0, V + 7])
def test_all_are_kept_where_nothing_truncates(top_k):
  given = weights()
  ones = np.ones(ROWS, np.float32)
  for cut in (dict(top_k=np.full(ROWS, top_k)), dict(top_p=ones), dict(min_p=0 * ones), {}):
    assert (given >= np.asarray(smallest(given, **cut))[:, None]).all()


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.999])
def test_top_p_stops_at_the_token_that_reaches_it(p):
  given = weights(spread=2.0).astype(np.float64)
  ordered = -np.sort(-given, -1)
  reached = np.argmax(np.cumsum(ordered, -1) >= p * given.sum(-1, keepdims=True) * (1 - 1e-6), axis=-1)
  got = smallest(given.astype(np.float32), top_p=np.full(ROWS, p, np.float32))
  np.testing.assert_array_equal(got, np.take_along_axis(ordered, reached[:, None], -1)[:, 0].astype(np.float32))


def test_ties_are_kept_or_dropped_together():
  given = np.array([[1, 0.5, 0.5, 0.5, 0.25, 0.25]], np.float32)
  for cut, expected in ((dict(top_k=2), 0.5), (dict(top_k=5), 0.25), (dict(top_p=0.4), 0.5), (dict(top_k=2, top_p=0.3), 1.0)):
    assert smallest(given, **{name: np.array([value]) for name, value in cut.items()}) == np.float32(expected)


@cuts
def test_the_kept_mass_is_that_of_the_samplers_tokens(cut):
  """Of a row's parameters as the sampler has them, and of plain numbers; logits have many ties."""
  logits = np.round(np.random.default_rng(8).normal(size=(ROWS, V)).astype(np.float32) * 2, 1)
  full = lambda name, off, dtype: np.full(ROWS, cut.get(name, off), dtype)
  temperature = np.linspace(0.5, 1.5, ROWS, dtype=np.float32)
  rows = dict(top_p=full("top_p", 1, np.float32), top_k=full("top_k", 0, np.int32), min_p=full("min_p", 0, np.float32))
  uniforms = np.random.default_rng(1).random(ROWS, np.float32)
  tokens, taken, log_mass = jax.jit(sampling.sample)(logits, uniforms, sampling.Sampling(temperature, **rows))
  close = dict(rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(logprobs.token_logprobs(logits, tokens, temperature), taken, **close)
  np.testing.assert_allclose(jax.jit(lambda *args: logprobs.log_mass(*args, **cut))(logits, temperature), log_mass, **close)
  np.testing.assert_allclose(jax.jit(logprobs.log_mass)(logits, temperature, **rows), log_mass, **close)
  # And through hidden states whose logits these are.
  identity = jnp.eye(V)
  of_hidden = jax.jit(lambda *args: logprobs.from_hidden(*args, temperature=temperature, **rows, chunk_tokens=16)[2])
  np.testing.assert_allclose(of_hidden(logits, identity, tokens), log_mass, **close)
