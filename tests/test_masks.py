"""Laws of the reductions: what the mask leaves out is never read, and any split of a batch gives the same number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import masks

REDUCTIONS = {
  "token_mean": masks.token_mean,
  "sequence_mean": masks.sequence_mean,
  "sequence_sum": masks.sequence_sum,
  "constant_norm": lambda values, mask: masks.constant_norm(values, mask, length=7.0),
  "masked_mean": masks.masked_mean,
  "prompt_mean": lambda values, mask: masks.prompt_mean(values[:, None], mask[:, None]),
}
reductions = pytest.mark.parametrize("reduce", REDUCTIONS.values(), ids=REDUCTIONS)


def example(seed=0, rows=8, tokens=6):
  """Values and a mask with holes, an empty row and a full one."""
  generator = np.random.default_rng(seed)
  mask = generator.random((rows, tokens)) < 0.6
  mask[1], mask[2] = False, True
  return generator.normal(size=(rows, tokens)).astype(np.float32), mask


def slow(name, values, mask):
  """The reductions as sentences; with one answer a prompt, the mean over prompts is that over sequences."""
  rows = [[value for value, kept in zip(*row, strict=True) if kept] for row in zip(values.tolist(), mask.tolist(), strict=True)]
  present = [row for row in rows if row]
  if name in ("token_mean", "masked_mean"):
    return sum(map(sum, present)) / sum(map(len, present))
  if name in ("sequence_mean", "prompt_mean"):
    return sum(sum(row) / len(row) for row in present) / len(present)
  if name == "sequence_sum":
    return sum(map(sum, present)) / len(present)
  return sum(map(sum, present)) / (7.0 * len(present))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_is_its_sentence(name):
  values, mask = example()
  got = masks.divide(*REDUCTIONS[name](jnp.asarray(values), jnp.asarray(mask)))
  assert got == pytest.approx(slow(name, values, mask), rel=1e-5)


@reductions
def test_sums_and_denominators_of_parts_add_up(reduce):
  values, mask = example()
  whole = reduce(jnp.asarray(values), jnp.asarray(mask))
  parts = [reduce(jnp.asarray(values[part]), jnp.asarray(mask[part])) for part in (slice(0, 3), slice(3, 4), slice(4, 8))]
  np.testing.assert_allclose(whole, np.sum(parts, axis=0), rtol=1e-6)


@reductions
def test_denominator_depends_on_the_mask_alone(reduce):
  values, mask = example()
  assert reduce(jnp.asarray(values), jnp.asarray(mask))[1] == reduce(jnp.asarray(7 - 3 * values), jnp.asarray(mask))[1]


@reductions
def test_masked_values_are_never_read(reduce):
  values, mask = example()
  poisoned = jnp.asarray(np.where(mask, values, np.nan))
  mean = lambda values: masks.divide(*reduce(values, jnp.asarray(mask)))
  assert mean(poisoned) == mean(jnp.asarray(values))
  gradient = jax.grad(mean)(poisoned)
  assert np.isfinite(gradient).all()
  assert not np.asarray(gradient)[~mask].any()


@reductions
def test_mask_of_numbers_is_a_mask_of_bools(reduce):
  values, mask = example()
  assert reduce(jnp.asarray(values), jnp.asarray(mask)) == reduce(jnp.asarray(values), jnp.asarray(mask, jnp.float32))


@reductions
def test_an_empty_mask_gives_zero_and_a_zero_gradient(reduce):
  values = jnp.asarray(example()[0])
  mean = lambda values: masks.divide(*reduce(values, jnp.zeros(values.shape, bool)))
  value, gradient = jax.value_and_grad(mean)(values)
  assert value == 0
  assert not np.asarray(gradient).any()


@reductions
def test_sums_are_float32_or_finer_whatever_the_values(reduce):
  values, mask = example()
  total, denominator = reduce(jnp.asarray(values, jnp.bfloat16), jnp.asarray(mask))
  assert total.dtype == denominator.dtype == jnp.float32
  with jax.enable_x64(True):
    total, denominator = reduce(jnp.asarray(values, jnp.float64), jnp.asarray(mask))
    assert total.dtype == denominator.dtype == jnp.float64


@reductions
def test_shapes_that_differ_are_named(reduce):
  values, mask = example()
  with pytest.raises(ValueError, match=r"expected mask of shape .*, got"):
    reduce(values, mask[:, 1:])


def test_rows_of_one_token_weigh_the_same_under_both_means():
  values = jnp.asarray([[3.0, 9.0], [5.0, 9.0]])
  mask = jnp.asarray([[True, False], [True, False]])
  assert masks.divide(*masks.token_mean(values, mask)) == masks.divide(*masks.sequence_mean(values, mask)) == 4.0


def test_prompt_mean_weighs_prompts_and_within_them_tokens():
  values, mask = (x.reshape(4, 2, 6) for x in example())
  mask[3] = False
  groups = [value[kept] for value, kept in zip(values, mask, strict=True) if kept.any()]
  expected = np.mean([group.mean() for group in groups])
  assert masks.divide(*masks.prompt_mean(values, mask)) == pytest.approx(expected, rel=1e-5)


def test_prompt_mean_adds_up_over_parts_that_cut_through_a_group():
  values, mask = example()
  tokens = np.repeat(mask.reshape(2, 4, 6).sum((1, 2)), 4)
  whole = masks.prompt_mean(values.reshape(2, 4, 6), mask.reshape(2, 4, 6))
  parts = [
    masks.prompt_mean(values[part], mask[part], prompt_tokens=tokens[part]) for part in (slice(0, 3), slice(3, 5), slice(5, 8))
  ]
  np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)
  with pytest.raises(ValueError, match="give prompt_tokens"):
    masks.prompt_mean(values, mask)
  with pytest.raises(ValueError, match="expected prompt_tokens of shape"):
    masks.prompt_mean(values, mask, prompt_tokens=tokens[1:])
