"""Laws of the cache: each row writes at its own place, and sees its prefix and its own tokens up to itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxreason.model import attention, cache


@pytest.fixture
def held():
  return cache.empty(tiny.CONFIG, 2, 5)


def test_an_empty_cache_holds_nothing(held):
  assert len(held.keys) == len(held.values) == tiny.CONFIG.layers
  assert held.values[1].shape == (2, tiny.CONFIG.kv_heads, 5, tiny.CONFIG.head_dim)
  assert held.keys[0].shape == (2, tiny.CONFIG.kv_heads, tiny.CONFIG.head_dim, 5)
  assert not held.used.any()
  assert held.prefix is None


def test_kernels_find_the_slots_of_keys_where_those_of_values_are():
  held = cache.empty(dataclasses.replace(tiny.CONFIG, decode_kernel="pallas_gpu"), 2, 5)
  assert held.keys[0].shape == held.values[0].shape


@pytest.mark.parametrize("axis", [cache.SLOTS, cache.SLOTS_LAST])
def test_rows_write_at_their_own_slot(axis):
  rows = lambda x: x if axis == cache.SLOTS else jnp.swapaxes(x, 2, 3)
  new = jnp.arange(1.0, 9.0).reshape(2, 2, 1, 2)
  got = np.asarray(rows(cache.write(rows(jnp.zeros((2, 1, 5, 2))), new, jnp.asarray([0, 3]), axis)))
  np.testing.assert_array_equal(got[0, 0], [[1, 2], [3, 4], [0, 0], [0, 0], [0, 0]])
  np.testing.assert_array_equal(got[1, 0], [[0, 0], [0, 0], [0, 0], [5, 6], [7, 8]])


def test_writing_keeps_the_dtype_of_the_cache():
  assert cache.write(jnp.zeros((1, 1, 3, 2), jnp.bfloat16), jnp.ones((1, 1, 1, 2)), jnp.asarray([1])).dtype == jnp.bfloat16


def test_a_query_sees_what_its_row_holds_and_what_comes_with_it():
  got = attention.cache_bias(5, jnp.asarray([0, 2]), 2) == 0
  np.testing.assert_array_equal(got[0, 0], [[True] + 4 * [False], 2 * [True] + 3 * [False]])
  np.testing.assert_array_equal(got[1, 0], [3 * [True] + 2 * [False], 4 * [True] + [False]])


@pytest.mark.parametrize("axis", [cache.SLOTS, cache.SLOTS_LAST])
@pytest.mark.parametrize("g", [1, 3])
def test_a_prefix_is_read_as_if_each_row_had_its_own_copy(g, axis):
  """Prompts of 4, 0 and 2 of 4 tokens, and garbage behind them; rows that hold 1 to 4 tokens of 5."""
  P, K, S, T, H = 3, 2, 5, 2, 8
  generator = np.random.default_rng(0)
  draw = lambda *shape: generator.normal(size=shape).astype(np.float32)
  q, k, v = draw(P * g, T, 4, H), draw(P * g, K, S, H), draw(P * g, K, S, H)
  before, lengths = (draw(P, K, 4, H), draw(P, K, 4, H)), np.array([4, 0, 2])
  used = generator.integers(0, S - T + 1, P * g)
  bias = attention.cache_bias(S, jnp.asarray(used), T)
  keys = lambda x: x if axis == cache.SLOTS else np.swapaxes(x, 2, 3)
  prefix = keys(before[0]), before[1], attention.prefix_bias(4, jnp.asarray(lengths))
  got = attention.attend_after(q, keys(k), v, bias, *prefix, axis)
  for row in range(P * g):
    held = lambda prefix, own, row=row: np.concatenate([prefix[row // g][:, : lengths[row // g]], own[row]], 1)[None]
    seen = np.pad(np.asarray(bias[row] == 0), ((0, 0), (0, 0), (lengths[row // g], 0)), constant_values=True)[None]
    expected = attention.attend(q[row][None], held(before[0], k), held(before[1], v), seen)
    np.testing.assert_allclose(got[row], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [cache.SLOTS, cache.SLOTS_LAST])
def test_a_cache_is_resized_behind_what_it_holds(axis):
  rows = lambda x: x if axis == cache.SLOTS else jnp.swapaxes(x, 2, 3)
  held = jnp.arange(12.0).reshape(1, 2, 3, 2)
  resized = lambda slots: np.asarray(rows(cache.resized(rows(held), slots, axis)))
  np.testing.assert_array_equal(resized(5)[:, :, :3], held)
  assert not resized(5)[:, :, 3:].any()
  np.testing.assert_array_equal(resized(2), held[:, :, :2])


def test_layers_are_separate_arrays():
  """Nothing stacks them: a stacked cache is copied whole by every decoding step."""
  many = dataclasses.replace(tiny.CONFIG, layers=5)
  assert len(jax.tree.leaves(jax.eval_shape(lambda: cache.empty(many, 1, 4)))) == 2 * 5 + 1
