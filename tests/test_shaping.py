"""Rewards are shaped as the papers say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import shaping


def test_the_overlong_penalty_grows_over_the_cache_and_stays_at_its_factor():
  got = shaping.overlong_penalty(jnp.asarray([0, 80, 90, 100, 500]), max_length=100, cache=20, factor=2.0)
  np.testing.assert_allclose(got, [0, 0, -1, -2, -2])
  with pytest.raises(ValueError, match=r"expected cache in \(0, max_length=10\], got 0"):
    shaping.overlong_penalty(jnp.asarray([1]), max_length=10, cache=0)


def test_an_answer_that_was_cut_off_has_no_token_left():
  got = shaping.overlong_filter(jnp.ones((2, 3)), jnp.asarray([True, False]))
  np.testing.assert_array_equal(got, [[False] * 3, [True] * 3])
  with pytest.raises(ValueError, match=r"expected truncated of shape \(2,\), got \(3,\)"):
    shaping.overlong_filter(jnp.ones((2, 3)), jnp.zeros(3, bool))


def test_the_cosine_goes_from_short_to_long():
  lengths = jnp.asarray([0, 50, 100, 0, 50, 100])
  correct = jnp.asarray([True] * 3 + [False] * 3)
  got = shaping.length_cosine(correct, lengths, max_length=100)
  np.testing.assert_allclose(got, [2, 1.5, -10, -10, -5, -10], atol=1e-5)
  np.testing.assert_allclose(shaping.length_cosine(correct.astype(jnp.float32), lengths, max_length=100), got)
  nearly = shaping.length_cosine(jnp.asarray([True, False]), jnp.asarray([99.99, 99.99]), max_length=100)
  np.testing.assert_allclose(nearly, [1, 0], atol=1e-4)
  with pytest.raises(ValueError, match=r"expected correct of shape \(2,\)"):
    shaping.length_cosine(jnp.asarray([True]), jnp.asarray([1, 2]), max_length=100)


def test_rewards_are_moved_scaled_and_clipped():
  got = shaping.reward_clip(jnp.asarray([0.0, 1.0, 9.0]), bias=-0.5, scale=10.0)
  np.testing.assert_allclose(got, [-5, 5, 20])
  with pytest.raises(ValueError, match="expected rewards of a float dtype, got int32"):
    shaping.reward_clip(jnp.asarray([1]))
  with pytest.raises(ValueError, match="expected low <= high, got 1 and 0"):
    shaping.reward_clip(jnp.asarray([1.0]), low=1, high=0)


def test_a_turn_is_worth_what_follows_it():
  rewards, taken = jnp.asarray([[1.0, 0.0, 1.0], [1.0, jnp.nan, 1.0]]), jnp.asarray([[True, True, True], [True, False, True]])
  got = jax.jit(shaping.turn_discount)(rewards, taken)
  np.testing.assert_allclose(got, [[1.81, 0.9, 1.0], [1.9, 0.0, 1.0]], rtol=1e-6)
  np.testing.assert_allclose(shaping.turn_discount(jnp.asarray([0.0, 0.0, 1.0]), discount=0.5), [0.25, 0.5, 1.0])
  with pytest.raises(ValueError, match=r"expected valid of shape \(2,\), got \(3,\)"):
    shaping.turn_discount(jnp.ones(2), jnp.ones(3))


def test_shaping_has_finite_gradients():
  for shaped in (shaping.reward_clip, shaping.turn_discount, lambda x: shaping.overlong_penalty(x, max_length=4, cache=2)):
    assert np.isfinite(jax.grad(lambda x, f=shaped: jnp.sum(f(x)))(jnp.asarray([0.0, 3.0, 90.0]))).all()
