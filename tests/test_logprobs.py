"""Laws of log-probabilities: the chunked form is the plain one in value and gradient, and never holds all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import logprobs

B, T, D, V = 3, 10, 8, 23


def example(seed=0):
  generator = np.random.default_rng(seed)
  hidden, unembed = (generator.normal(size=shape).astype(np.float32) for shape in ((B, T, D), (V, D)))
  return hidden, unembed, generator.integers(0, V, (B, T))


@jax.jit
def plain(hidden, unembed, tokens, temperature):
  logits = jnp.einsum("btd,vd->btv", hidden, unembed)
  return logprobs.token_logprobs(logits, tokens, temperature), logprobs.entropy(logits, temperature)


def test_token_logprobs_and_entropy_are_their_sentences():
  logits = np.random.default_rng(0).normal(size=(4, V)) * 3
  tokens = np.array([0, 5, V - 1, 7])
  powers = np.exp(logits / 0.7)
  p = powers / powers.sum(-1, keepdims=True)
  taken = logprobs.token_logprobs(jnp.asarray(logits, jnp.float32), jnp.asarray(tokens), 0.7)
  np.testing.assert_allclose(taken, np.log(p)[np.arange(4), tokens], rtol=1e-5)
  np.testing.assert_allclose(logprobs.entropy(jnp.asarray(logits, jnp.float32), 0.7), -(p * np.log(p)).sum(-1), rtol=1e-5)


def test_probabilities_sum_to_one():
  logits = np.tile(example()[1][:, 0], (V, 1))
  assert jnp.exp(logprobs.token_logprobs(logits, jnp.arange(V), 1.3)).sum() == pytest.approx(1, rel=1e-5)


def test_entropy_of_the_uniform_is_log_v_and_of_a_certainty_zero():
  assert logprobs.entropy(jnp.zeros((V,))) == pytest.approx(np.log(V), rel=1e-6)
  assert logprobs.entropy(jnp.zeros((V,)).at[3].set(1e4)) == 0


def test_near_certainty_is_not_lost_in_the_rounding_of_large_logits():
  logits = np.array([40.0, 32.0, 31.0], np.float32)
  p = np.exp(logits.astype(np.float64) - 40)
  p /= p.sum()
  assert logprobs.entropy(jnp.asarray(logits)) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)
  assert logprobs.token_logprobs(jnp.asarray(logits), jnp.asarray(0)) == pytest.approx(np.log(p[0]), rel=1e-4)


def test_extreme_logits_stay_finite():
  logits = jnp.asarray([[1e4, -1e4, 0.0]])
  total = lambda x: (logprobs.token_logprobs(x, jnp.asarray([1])) + logprobs.entropy(x)).sum()
  value, gradient = jax.jit(jax.value_and_grad(total))(logits)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("chunk_tokens", [1, 4 * B, T * B])
def test_from_hidden_is_the_plain_form(chunk_tokens):
  hidden, unembed, tokens = example()
  weights = np.random.default_rng(9).normal(size=(2, B, T)).astype(np.float32)

  def total(function):
    def scalar(hidden, unembed, temperature):
      values = function(hidden, unembed, tokens, temperature)
      return sum(jnp.sum(weight * value) for weight, value in zip(weights, values, strict=True)), values

    return jax.jit(jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True))(hidden, unembed, 0.8)

  chunked = lambda *args: logprobs.from_hidden(*args[:3], temperature=args[3], chunk_tokens=chunk_tokens)
  (_, got), got_gradients = total(chunked)
  (_, expected), expected_gradients = total(plain)
  for one, other in zip((*got, *got_gradients), (*expected, *expected_gradients), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_from_hidden_of_one_column():
  hidden, unembed, tokens = example()
  got = jax.jit(logprobs.from_hidden)(hidden[:, :1], unembed, tokens[:, :1])
  for one, other in zip(got, plain(hidden[:, :1], unembed, tokens[:, :1], 1.0), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_training_never_holds_all_logits():
  """The compiled value-and-gradient has no array of B·T·V elements, and its temporary memory is below a third of one."""
  b, t, v = 4, 64, 4096
  hidden, unembed = jax.ShapeDtypeStruct((b, t, D), jnp.float32), jax.ShapeDtypeStruct((v, D), jnp.float32)
  tokens = jax.ShapeDtypeStruct((b, t), jnp.int32)

  def loss(chunk_tokens, hidden, unembed, tokens):
    taken, entropy = logprobs.from_hidden(hidden, unembed, tokens, chunk_tokens=chunk_tokens)
    return jnp.sum(taken) + jnp.sum(entropy)

  def compiled(chunk_tokens):
    gradient = jax.value_and_grad(lambda *args: loss(chunk_tokens, *args), argnums=(0, 1))
    return jax.jit(gradient).lower(hidden, unembed, tokens).compile()

  whole, chunked = compiled(b * t), compiled(b * t // 16)
  all_logits = b * t * v * 4
  assert whole.memory_analysis().temp_size_in_bytes >= all_logits
  assert chunked.memory_analysis().temp_size_in_bytes < all_logits / 3
  assert f"f32[{b},{t},{v}]" in whole.as_text()
  assert f"f32[{b},{t},{v}]" not in chunked.as_text()


def test_results_are_float32_from_bfloat16_states():
  hidden, unembed, tokens = example()
  for value in logprobs.from_hidden(jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(unembed), tokens):
    assert value.dtype == jnp.float32
