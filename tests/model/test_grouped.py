"""Laws of grouped products: both ways give the sentence's numbers and slopes, whatever the groups' sizes.

m rows, E groups, O and I sizes of a matrix.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason.model import grouped

O, I = 24, 12
WAYS = {"blocks": (grouped._rows_by_blocks, grouped._sums_by_blocks), "at once": (grouped._rows_at_once, grouped._sums_at_once)}
# Rows, and those of each group; fewer than all where the rest belongs to nobody.
SIZES = {
  "uneven": (300, (100, 1, 17, 182)), "empty": (96, (0, 90, 0, 6)), "one has all": (2100, (0, 2100)), "none": (40, (0, 0, 0)),
  "rows behind the last": (200, (33, 64, 5)), "whole blocks": (128, (32, 32, 32, 32)), "a row": (1, (0, 1, 0)),
}  # fmt: skip
sizes = pytest.mark.parametrize("given", SIZES.values(), ids=SIZES)


def drawn(given, axis, dtype=jnp.float32):
  """(x [m, I], matrix, sizes [E], slope [m, O])"""
  (m, groups), draw = given, np.random.default_rng(0).normal
  shape = (O, I) if axis == grouped.ROWS else (I, O)
  x, matrix, slope = (jnp.asarray(draw(size=size), dtype) for size in ((m, I), (len(groups), *shape), (m, O)))
  return x, matrix, jnp.asarray(groups, jnp.int32), slope


def sentence(x, matrix, sizes, slope, axis):
  """(products [m, O], slopes of x and of the matrix), group by group in float64; rows of nobody are zeros."""
  x, matrix, slope = (np.asarray(array, np.float64) for array in (x, matrix, slope))
  out, of_x, of_matrix, start = np.zeros(slope.shape), np.zeros(x.shape), np.zeros(matrix.shape), 0
  for group, count in enumerate(np.asarray(sizes)):
    at = slice(start, start + count)
    by = matrix[group] if axis == grouped.ROWS else matrix[group].T
    out[at], of_x[at], of_outer = x[at] @ by.T, slope[at] @ by, slope[at].T @ x[at]
    of_matrix[group] = of_outer if axis == grouped.ROWS else of_outer.T
    start += count
  return out, of_x, of_matrix


def of_groups(array, sizes):
  """The rows that belong to a group."""
  return np.asarray(array, np.float64)[: int(np.sum(np.asarray(sizes)))]


@sizes
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("axis", [grouped.ROWS, grouped.COLUMNS], ids=["rows", "columns"])
def test_each_way_is_the_sentence(given, way, axis):
  rows_of, sums_of = WAYS[way]
  x, matrix, groups, slope = drawn(given, axis)
  out, of_x, of_matrix = sentence(x, matrix, groups, slope, axis)
  swapped = grouped.ROWS + grouped.COLUMNS - axis
  np.testing.assert_allclose(of_groups(rows_of(x, matrix, groups, axis), groups), of_groups(out, groups), atol=2e-5)
  np.testing.assert_allclose(of_groups(rows_of(slope, matrix, groups, swapped), groups), of_groups(of_x, groups), atol=2e-5)
  pair = (slope, x) if axis == grouped.ROWS else (x, slope)
  np.testing.assert_allclose(sums_of(*pair, groups), of_matrix, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_derivative_is_the_sentences_in_the_factors_dtype(dtype):
  x, matrix, groups, slope = drawn(SIZES["uneven"], grouped.ROWS, dtype)
  run = jax.jit(lambda x, matrix: jax.vjp(lambda *both: grouped.product(*both, groups, grouped.ROWS), x, matrix))
  out, back = run(x, matrix)
  assert out.dtype == jnp.float32
  got = back(slope.astype(jnp.float32))
  assert {gradient.dtype for gradient in got} == {jnp.dtype(dtype)}
  for one, other in zip((out, *got), sentence(x, matrix, groups, slope, grouped.ROWS), strict=True):
    atol = (1e-5 if dtype == jnp.float32 else 1e-2) * np.abs(other).max()
    np.testing.assert_allclose(np.asarray(one, np.float64), other, atol=atol)


@pytest.mark.parametrize(
  ("platform", "rows", "products", "slopes"),
  [
    ("cpu", 8, True, True), ("cuda", 8, False, False), ("cuda", 64, True, True), ("tpu", 8, False, False),
    ("tpu", 64, False, True),
  ],
)  # fmt: skip
def test_each_platform_has_its_way(platform, rows, products, slopes):
  """A loop over blocks, but for TPUs' own grouped product and for few rows on an accelerator."""
  x, matrix, groups, slope = drawn((2 * rows, (rows, rows)), grouped.ROWS)
  for way, arrays, loops in (
    (functools.partial(grouped.product, axis=grouped.ROWS), (x, matrix, groups), products),
    (grouped._sums, (slope, x, groups), slopes),
  ):
    text = jax.jit(way).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in text) == loops
