"""Laws of the corrections and slow sentences of their papers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import corrections

GENERATOR = np.random.default_rng(0)
B, T = 6, 8
LOGPROBS = -GENERATOR.random((B, T)).astype(np.float32) * 3
SAMPLER = (LOGPROBS + GENERATOR.standard_normal((B, T)) * 0.4).astype(np.float32)
MASK = GENERATOR.random((B, T)) < 0.7
MASK[0], MASK[1] = False, False
MASK[1, 3] = True
ADVANTAGES = GENERATOR.standard_normal(B).astype(np.float32)
RATIO = np.exp(LOGPROBS - SAMPLER)

WEIGHTS = {
  f"{name}_{level}": (lambda p, q, m, cap=20.0, f=f, level=level: f(p, q, m, level=level, lower=0.5, log_ratio_cap=cap))
  for name, f in (("truncated", corrections.truncated_importance_weights), ("masked", corrections.masked_importance_weights))
  for level in ("token", "sequence", "geometric")
} | {"icepop": lambda p, q, m, cap=20.0: corrections.icepop(p, q, m, log_ratio_cap=cap)}
MASKS = {
  f"{estimator}_{level}": (
    lambda p, q, m, cap=20.0, estimator=estimator, level=level: corrections.rejection_mask(
      p, q, m, upper=0.1, estimator=estimator, level=level.split("_")[0], aggregate=level.split("_")[-1], log_ratio_cap=cap
    )
  )
  for estimator in ("k1", "k2", "k3")
  for level in ("token_mean", "sequence_mean", "sequence_sum", "sequence_max")
} | {
  "opsm": lambda p, q, m, cap=20.0: corrections.opsm(p, q, jnp.asarray(ADVANTAGES[: len(m)]), m, threshold=0.01),
  "m2po": lambda p, q, m, cap=20.0: corrections.m2po_mask(p, q, m, log_ratio_cap=cap),
}
ALL = WEIGHTS | MASKS


def aggregated(level, row, mask):
  """The ratio of each token of a row as `level` has it."""
  total = row[mask].sum()
  return np.exp({"token": row, "sequence": total, "geometric": total / max(mask.sum(), 1)}[level] + 0 * row)


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_weights_are_their_sentence(level):
  expected = np.stack([aggregated(level, row, mask) for row, mask in zip(LOGPROBS - SAMPLER, MASK, strict=True)])
  truncated = corrections.truncated_importance_weights(LOGPROBS, SAMPLER, MASK, level=level, upper=1.5, lower=0.8)
  np.testing.assert_allclose(truncated, np.where(MASK, np.clip(expected, 0.8, 1.5), 0), rtol=1e-5)
  masked = corrections.masked_importance_weights(LOGPROBS, SAMPLER, MASK, level=level, upper=1.5, lower=0.8)
  np.testing.assert_allclose(masked, np.where(MASK & (expected >= 0.8) & (expected <= 1.5), expected, 0), rtol=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("aggregate", ["token", "mean", "sum", "max"])
def test_rejection_is_its_sentence(estimator, aggregate):
  difference = np.log(RATIO)
  value = {"k1": -difference, "k2": difference**2 / 2, "k3": RATIO - 1 - difference}[estimator]
  expected = np.zeros((B, T), bool)
  for b, t in itertools.product(range(B), range(T)):
    if MASK[b, t]:
      found = value[b, t] if aggregate == "token" else getattr(value[b][MASK[b]], aggregate)()
      expected[b, t] = (-0.1 if estimator == "k1" else 0) <= found <= 0.1
  level = dict(level="token") if aggregate == "token" else dict(level="sequence", aggregate=aggregate)
  np.testing.assert_array_equal(
    corrections.rejection_mask(LOGPROBS, SAMPLER, MASK, estimator=estimator, upper=0.1, **level), expected
  )


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.05, 10.0])
def test_m2po_leaves_the_largest_out_until_the_mean_is_small(threshold):
  squares = np.log(RATIO) ** 2
  left = sorted((squares[b, t], b, t) for b, t in np.argwhere(MASK))
  while len(left) > 1 and np.mean([square for square, *_ in left]) >= threshold:
    left.pop()
  expected = np.zeros((B, T), bool)
  for _, b, t in left:
    expected[b, t] = True
  np.testing.assert_array_equal(corrections.m2po_mask(LOGPROBS, SAMPLER, MASK, threshold=threshold), expected)


def test_opsm_keeps_good_answers_and_those_that_are_near():
  away = [(SAMPLER - LOGPROBS)[b][MASK[b]].mean() if MASK[b].any() else 0 for b in range(B)]
  keep = (ADVANTAGES >= 0) | (np.asarray(away) <= 0.01)
  assert 0 < keep.sum() < B
  got = corrections.opsm(LOGPROBS, SAMPLER, ADVANTAGES, MASK, threshold=0.01)
  np.testing.assert_array_equal(got, MASK & keep[:, None])
  per_token = np.repeat(ADVANTAGES[:, None], T, axis=1)
  np.testing.assert_array_equal(corrections.opsm(LOGPROBS, SAMPLER, per_token, MASK, threshold=0.01), got)


@pytest.mark.parametrize("name", ALL)
def test_equal_policies_need_no_correction(name):
  got = ALL[name](LOGPROBS, LOGPROBS, MASK)
  np.testing.assert_array_equal(got, MASK)


@pytest.mark.parametrize("name", ALL)
def test_what_is_masked_is_read_by_nobody_and_padding_changes_nothing(name):
  p, q = (np.where(MASK, x, np.nan) for x in (LOGPROBS, SAMPLER))
  got = np.asarray(jax.jit(ALL[name])(p, q, MASK))
  np.testing.assert_allclose(got, ALL[name](LOGPROBS, SAMPLER, MASK), rtol=1e-6)
  pad = lambda x, by: np.pad(x, ((0, 0), (0, 5)), constant_values=by)
  np.testing.assert_allclose(ALL[name](pad(p, 3), pad(q, -3), pad(MASK, False))[:, :T], got, rtol=1e-5)
  assert not got[~MASK].any()


@pytest.mark.parametrize("name", ALL)
def test_any_log_ratio_is_finite_under_the_cap(name):
  extreme = LOGPROBS.copy()
  extreme[2], extreme[3, ::2], extreme[3, 1::2], extreme[4] = -np.inf, -1e30, 1e30, 500.0
  sampler = SAMPLER.copy()
  sampler[5] = -np.inf
  for mask in (np.ones((B, T), bool), MASK, np.zeros((B, T), bool), np.eye(B, T, dtype=bool)):
    got = ALL[name](extreme, sampler, mask)
    assert np.isfinite(np.asarray(got, np.float32)).all()
  for number in corrections.diagnostics(extreme, sampler, np.ones((B, T), bool)).values():
    assert np.isfinite(number)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_has_no_gradient_and_leading_axes_are_free(name):
  gradient = jax.grad(lambda p: jnp.sum(WEIGHTS[name](p, SAMPLER, MASK)))(jnp.asarray(LOGPROBS))
  assert not np.asarray(gradient).any()
  stacked = [jnp.stack([x, x[::-1]]) for x in (LOGPROBS, SAMPLER, MASK)]
  np.testing.assert_allclose(WEIGHTS[name](*stacked)[1], WEIGHTS[name](LOGPROBS, SAMPLER, MASK)[::-1], rtol=1e-5)


def test_m2po_chooses_in_each_batch_of_a_stack():
  stacked = [jnp.stack([x, x[::-1]]) for x in (LOGPROBS, SAMPLER * 1.2, MASK)]
  got = corrections.m2po_mask(*stacked)
  np.testing.assert_array_equal(got, jax.vmap(corrections.m2po_mask)(*stacked))


def test_effective_sample_size_counts_what_weighs():
  mask = jnp.ones((2, 4), bool)
  np.testing.assert_allclose(corrections.effective_sample_size(jnp.full((2, 4), 3.0), mask), 1.0)
  one = jnp.zeros((2, 4)).at[0, 0].set(1e30)
  np.testing.assert_allclose(corrections.effective_sample_size(one, mask), 1 / 8)
  np.testing.assert_allclose(corrections.effective_sample_size(one, mask, normalized=False), 1.0)
  np.testing.assert_allclose(corrections.effective_sample_size(one, ~mask), 0.0)


def test_diagnostics_are_of_ratios_before_truncation_and_finite_without_tokens():
  got = corrections.diagnostics(LOGPROBS, SAMPLER, MASK, lower=0.8, upper=1.2)
  ratio = RATIO[MASK]
  expected = {
    "ratio_mean": ratio.mean(),
    "ratio_min": ratio.min(),
    "ratio_max": ratio.max(),
    "clip_low": (ratio < 0.8).mean(),
    "clip_high": (ratio > 1.2).mean(),
    "effective_sample_size": ratio.sum() ** 2 / (ratio**2).sum() / len(ratio),
    "logprob_difference_mean": np.abs(np.log(ratio)).mean(),
    "logprob_difference_max": np.abs(np.log(ratio)).max(),
    "kl_k1": -np.log(ratio).mean(),
    "kl_k3": (ratio - 1 - np.log(ratio)).mean(),
    "chi2_token": (ratio**2).mean() - 1,
  }
  for name, number in expected.items():
    np.testing.assert_allclose(got[name], number, rtol=1e-4, err_msg=name)
  nothing = corrections.diagnostics(LOGPROBS, SAMPLER, np.zeros((B, T), bool))
  assert {float(number) for name, number in nothing.items() if "perplexity" not in name} == {0.0}
  assert nothing.keys() == got.keys()


@pytest.mark.parametrize("name", ALL)
def test_bad_input_is_told(name):
  with pytest.raises(ValueError, match=r"expected logprobs of a float dtype, got int32"):
    ALL[name](jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3)), jnp.ones((2, 3)))
  with pytest.raises(ValueError, match=r"expected mask of shape \(2, 3\), got \(2, 4\)"):
    ALL[name](jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.ones((2, 4)))


def test_an_unknown_level_is_told():
  with pytest.raises(ValueError, match="expected level 'token', 'sequence' or 'geometric', got 'tokens'"):
    corrections.truncated_importance_weights(LOGPROBS, SAMPLER, MASK, level="tokens")


def test_k1_of_a_sequence_adds_what_each_token_is_held_to():
  """Log ratios of 30 and -20: held to 20, they are even, and the sequence is kept (as in verl)."""
  logprobs = np.array([[30.0, -20.0, 0.0, 0.0]], np.float32)
  for aggregate in ("sum", "mean"):
    kept = corrections.rejection_mask(
      logprobs, np.zeros_like(logprobs), np.ones((1, 4), bool), estimator="k1", aggregate=aggregate, upper=0.7
    )
    assert kept.all()


def test_diagnostics_of_several_batches_are_those_of_each():
  several = corrections.diagnostics(*(np.stack([array, array[::-1]]) for array in (LOGPROBS, SAMPLER, MASK)))
  single = corrections.diagnostics(LOGPROBS[::-1], SAMPLER[::-1], MASK[::-1])
  for name, value in several.items():
    assert value.shape == (2,)
    assert value[1] == pytest.approx(float(single[name]), rel=1e-6)
