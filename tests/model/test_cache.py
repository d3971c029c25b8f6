"""Laws of the cache: each row writes at its own place, and a slot is seen by the position it holds and nothing else."""

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
  assert held.keys[0].shape == held.values[1].shape == (2, tiny.CONFIG.kv_heads, 5, tiny.CONFIG.head_dim)
  assert (held.positions == -1).all()
  assert not held.used.any()


def test_rows_write_at_their_own_slot():
  array = jnp.zeros((2, 1, 5, 2))
  new = jnp.arange(1.0, 9.0).reshape(2, 1, 2, 2)
  got = np.asarray(cache.write(array, new, jnp.asarray([0, 3])))
  np.testing.assert_array_equal(got[0, 0], [[1, 2], [3, 4], [0, 0], [0, 0], [0, 0]])
  np.testing.assert_array_equal(got[1, 0], [[0, 0], [0, 0], [0, 0], [5, 6], [7, 8]])


def test_writing_keeps_the_dtype_of_the_cache():
  assert cache.write(jnp.zeros((1, 1, 3, 2), jnp.bfloat16), jnp.ones((1, 1, 1, 2)), jnp.asarray([1])).dtype == jnp.bfloat16


def test_positions_are_recorded_where_valid_and_rows_move_on(held):
  held = held.replace(used=jnp.asarray([0, 2]))
  valid = jnp.asarray([[True, False], [True, True]])
  held = cache.write_positions(held, jnp.asarray([[0, 1], [7, 8]]), valid)
  np.testing.assert_array_equal(held.positions, [[0, -1, -1, -1, -1], [-1, -1, 7, 8, -1]])
  np.testing.assert_array_equal(held.used, [2, 4])


def test_a_query_sees_the_slots_with_a_position_up_to_its_own():
  positions = jnp.asarray([[3, -1, 0, 5, 4]])
  got = attention.cache_mask(positions, jnp.asarray([[4, 0]]))
  np.testing.assert_array_equal(got[0, 0], [[True, False, True, False, True], [False, False, True, False, False]])


def test_slots_have_no_order():
  """Keys, values and positions permuted together: the same attention."""
  generator = np.random.default_rng(0)
  q, k, v = (generator.normal(size=shape).astype(np.float32) for shape in ((1, 1, 4, 8), (1, 2, 5, 8), (1, 2, 5, 8)))
  positions, order = np.array([[0, 1, 2, -1, -1]]), np.array([4, 2, 0, 3, 1])
  at = lambda held: attention.cache_mask(jnp.asarray(held), jnp.asarray([[2]]))
  expected = attention.attend(q, k, v, at(positions))
  np.testing.assert_allclose(attention.attend(q, k[:, :, order], v[:, :, order], at(positions[:, order])), expected, rtol=1e-5)


def test_layers_are_separate_arrays():
  """Nothing stacks them: a stacked cache is copied whole by every decoding step."""
  many = dataclasses.replace(tiny.CONFIG, layers=5)
  assert len(jax.tree.leaves(jax.eval_shape(lambda: cache.empty(many, 1, 4)))) == 2 * 5 + 2
