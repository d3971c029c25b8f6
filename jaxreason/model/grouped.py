"""Floor 2: products of rows with the matrix of the group that each row is in, no row too many for a group.

What enters: rows, those of the first group first, a matrix for each group and how many rows each group has. What leaves: the
products, and their derivatives written by hand as in `products`. `jax.lax.ragged_dot_general` is a grouped product on TPU, of
rows with matrices. Everywhere else, and on TPU for the matrices' own slopes, it is expanded to a product of every group with
all rows: E times the work, on GPU and CPU with E copies of the rows. So the rows are cut here in blocks of one group each,
multiplied one after the other, as many as there are; a group's last block is not full. A step of a loop takes an accelerator a
while to begin, and few rows are multiplied at once there.

m rows, E groups, O and I sizes of a matrix, X rows of a block.
"""

import functools

import jax
import jax.numpy as jnp

ROWS, COLUMNS = 2, 1  # the axis of a group's matrix that is summed over: [E, O, I], or [E, I, O] as it lies in a rollout

# Of rows a group, on average, where an accelerator takes blocks.
LEAST = 32
_SMALLEST, _LARGEST = 16, 1024  # rows of a block


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def product(x, matrix, sizes, axis: int) -> jax.Array:
  """Rows of each group times the group's matrix, with slopes rounded to the factors' dtype as in `products`.

  Args:
    x: [m, I] float, rows of the first group first.
    matrix: [E, O, I] of x's dtype with `ROWS`, [E, I, O] with `COLUMNS`.
    sizes: [E] int32, rows of each group; those behind the last have no meaning.
    axis: static, of the matrix that is summed over.

  Returns:
    [m, O] float32; float64 of float64.
  """
  return _rows(x, matrix, sizes, axis)


def _forward(x, matrix, sizes, axis):
  return product(x, matrix, sizes, axis), (x, matrix, sizes)


def _backward(axis, kept, slope):
  x, matrix, sizes = kept
  slope = slope.astype(x.dtype)
  of_x = _rows(slope, matrix, sizes, ROWS + COLUMNS - axis)
  of_matrix = _sums(*((slope, x) if axis == ROWS else (x, slope)), sizes)
  return of_x.astype(x.dtype), of_matrix.astype(matrix.dtype), None


product.defvjp(_forward, _backward)


def _rows(x, matrix, sizes, axis):
  """[m, O]: each row times the matrix of its group."""
  by_blocks, at_once = (functools.partial(way, axis=axis) for way in (_rows_by_blocks, _rows_at_once))
  many = by_blocks if _has_many(x, sizes) else at_once
  return jax.lax.platform_dependent(x, matrix, sizes, cpu=by_blocks, tpu=at_once, default=many)


def _sums(x, y, sizes):
  """[E, columns of x, columns of y]: of each group the sum of its rows' outer products; zeros of an empty one."""
  many = _sums_by_blocks if _has_many(x, sizes) else _sums_at_once
  return jax.lax.platform_dependent(x, y, sizes, cpu=_sums_by_blocks, default=many)


def _has_many(x, sizes) -> bool:
  return x.shape[0] >= LEAST * sizes.shape[0]


def _rows_at_once(x, matrix, sizes, axis):
  return _ragged(x, matrix, sizes, (((1,), (axis,)), ((), ())), (0,))


def _sums_at_once(x, y, sizes):
  return _ragged(x, y, sizes, (((0,), (0,)), ((), ())), ())


def _ragged(x, y, sizes, sums, groups: tuple[int, ...]):
  numbers = jax.lax.RaggedDotDimensionNumbers(sums, lhs_ragged_dimensions=(0,), rhs_group_dimensions=groups)
  return jax.lax.ragged_dot_general(x, y, sizes, numbers, preferred_element_type=_wide(x))


def _rows_by_blocks(x, matrix, sizes, axis):
  used, group, first, _, block = _blocks(x.shape[0], sizes)
  rows = _filled(x, block)

  def one(number, out):
    part = jax.lax.dynamic_slice_in_dim(rows, first[number], block)
    own = jax.lax.dynamic_index_in_dim(matrix, group[number], keepdims=False)
    found = jax.lax.dot_general(part, own, (((1,), (axis - 1,)), ((), ())), preferred_element_type=out.dtype)
    # What is written behind the end of a group, the next group's block writes over.
    return jax.lax.dynamic_update_slice_in_dim(out, found, first[number], 0)

  start = jnp.zeros((rows.shape[0], matrix.shape[ROWS + COLUMNS - axis]), _wide(x))
  return jax.lax.fori_loop(0, used, one, start)[: x.shape[0]]


def _sums_by_blocks(x, y, sizes):
  used, group, first, count, block = _blocks(x.shape[0], sizes)
  x, y = _filled(x, block), _filled(y, block)

  def one(number, out):
    of_x, of_y = (jax.lax.dynamic_slice_in_dim(rows, first[number], block) for rows in (x, y))
    real = jnp.arange(block, dtype=jnp.int32)[:, None] < count[number]
    of_x, of_y = (jnp.where(real, rows, jnp.zeros((), rows.dtype)) for rows in (of_x, of_y))
    found = jax.lax.dot_general(of_x, of_y, (((0,), (0,)), ((), ())), preferred_element_type=out.dtype)
    sums = jax.lax.dynamic_index_in_dim(out, group[number], keepdims=False) + found
    return jax.lax.dynamic_update_index_in_dim(out, sums, group[number], 0)

  return jax.lax.fori_loop(0, used, one, jnp.zeros((sizes.shape[0], x.shape[1], y.shape[1]), _wide(x)))


def _blocks(m: int, sizes):
  """(blocks in use, of each its group, first row and number of rows, X): the rows of every group in blocks of X."""
  E = sizes.shape[0]
  block = min(_LARGEST, max(_SMALLEST, 1 << max(m // (2 * E), 1).bit_length() - 1))
  counts = -(-sizes // block)
  ends, row_ends = jnp.cumsum(counts), jnp.cumsum(sizes)
  number = jnp.arange(m // block + E, dtype=jnp.int32)
  group = jnp.minimum(jnp.sum(ends[None] <= number[:, None], axis=1, dtype=jnp.int32), E - 1)
  first = (row_ends - sizes)[group] + (number - (ends - counts)[group]) * block
  return ends[-1], group, first, jnp.minimum(row_ends[group] - first, block), block


def _filled(x, more: int):
  """With rows of zeros behind, so that a block may reach beyond the last row."""
  return jnp.pad(x, ((0, more), (0, 0)))


def _wide(x):
  return jnp.promote_types(x.dtype, jnp.float32)
