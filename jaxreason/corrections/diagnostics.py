"""Floor 0: how far the trainer's policy is from the sampler's, in numbers to watch.

What enters: log-probs of the same tokens under both, and a mask. What leaves: scalars. B sequences, T tokens. The numbers
are of the ratios before any truncation: after it they cannot show what went wrong.
"""

import functools

import jax
import jax.numpy as jnp

from jaxreason.corrections.ratios import capped, leveled, log_ratios, masked_mean
from jaxreason.inputs import flags, floats, held, with_axes


def effective_sample_size(weights: jax.Array, mask: jax.Array, *, normalized: bool = True) -> jax.Array:
  """How many equal weights would average as well as these: (Σ w)² / Σ w².

  Args:
    weights: [..., B, T] float, importance weights, not negative.
    mask: [..., B, T] bool or 0/1.
    normalized: divided by the number of unmasked tokens, so that 1 says all count the same (verl); False: the number.

  Returns:
    [...] float32 (float64 for float64), without gradient; 0 under an empty mask or where all weights are 0.

  Raises:
    ValueError: integer weights, or shapes that do not match.

  Source: Kish 1965.
  """
  (weights,) = jax.lax.stop_gradient(floats("effective_sample_size", weights=weights))
  (mask,) = flags("effective_sample_size", weights.shape, mask=mask)
  with_axes("effective_sample_size", "[..., B, T]", weights=weights)
  weights = jnp.where(mask, weights, 0)
  # Relative to the largest, so that no square overflows.
  largest = jnp.max(weights, axis=(-2, -1), keepdims=True, initial=0)
  weights = weights / jnp.where(largest > 0, largest, 1)
  squares = jnp.sum(jnp.square(weights), axis=(-2, -1))
  size = jnp.square(jnp.sum(weights, axis=(-2, -1))) / jnp.where(squares > 0, squares, 1)
  return size / jnp.maximum(jnp.sum(mask, axis=(-2, -1)), 1).astype(size.dtype) if normalized else size


def diagnostics(
  logprobs: jax.Array,
  sampler_logprobs: jax.Array,
  mask: jax.Array,
  *,
  level: str = "token",
  lower: float | None = None,
  upper: float = 2.0,
  log_ratio_cap: float | None = 20.0,
) -> dict[str, jax.Array]:
  """The panel of one batch.

  Args:
    logprobs: [..., B, T] float, log π of the taken tokens under the trainer, nats.
    sampler_logprobs: [..., B, T] float, log q of them under the sampler, nats.
    mask: [..., B, T] bool or 0/1.
    level: of the ratios and fractions: "token", "sequence" or "geometric", as the correction's.
    lower: the correction's bounds; None: none.
    upper: the same.
    log_ratio_cap: log ratios, and sums of them, are held to ±this before they are exponentiated (verl 20, but for its k3
      and perplexities); None: no cap.

  Returns:
    [...] float32 (float64 for float64), scalars of [B, T], 0 under an empty mask, without gradient:
      ratio_mean, ratio_min, ratio_max: of ρ = π/q before truncation, over the unmasked tokens.
      clip_low, clip_high: the share of unmasked tokens whose ρ is below `lower` or above `upper`.
      effective_sample_size: of the ratios, as a share of the tokens.
      logprob_difference_mean, logprob_difference_max: of |log π - log q|, nats.
      kl_k1, kl_k3: estimates of KL(q ‖ π) a token, nats.
      chi2_token, chi2_sequence: mean(ρ²) - 1 over tokens, and over sequences with the product of their ratios.
      trainer_perplexity, sampler_perplexity: exp of a sequence's mean -log-prob, in the mean over sequences; and
      trainer_nll, sampler_nll (their logarithms, averaged), perplexity_ratio (mean over sequences of trainer over sampler),
      nll_difference_mean, _abs, _max, _min (of the sequences' -log π less -log q, nats a token). A sequence without a
      token enters none of these (verl counts it as one of perplexity 1).

  Raises:
    ValueError: an unknown level, integer log-probs, or shapes that do not match or have one axis only.

  Source: names and choices follow verl's `rollout_corr` metrics, TRL's `sampling` metrics and prime-rl's mismatch KL.
  """
  _, checked = log_ratios("diagnostics", logprobs, sampler_logprobs, mask)
  with_axes("diagnostics", "[..., B, T]", logprobs=checked)
  one = functools.partial(_of_batch, level=level, lower=lower, upper=upper, log_ratio_cap=log_ratio_cap)
  for _ in range(checked.ndim - 2):
    one = jax.vmap(one)
  return one(jnp.asarray(logprobs), jnp.asarray(sampler_logprobs), checked)


def _of_batch(logprobs, sampler_logprobs, mask, *, level, lower, upper, log_ratio_cap):
  """The panel of [B, T] log-probs."""
  log_ratio, mask = log_ratios("diagnostics", logprobs, sampler_logprobs, mask)
  ratio = jnp.exp(leveled("diagnostics", log_ratio, mask, level=level, log_ratio_cap=log_ratio_cap))
  token = capped(log_ratio, log_ratio_cap)
  some = mask.any()
  return {
    "ratio_mean": masked_mean(ratio, mask),
    "ratio_min": jnp.where(some, jnp.min(jnp.where(mask, ratio, jnp.inf), initial=jnp.inf), 0),
    "ratio_max": jnp.max(jnp.where(mask, ratio, 0), initial=0),
    "clip_low": masked_mean((ratio < (0 if lower is None else lower)).astype(ratio.dtype), mask),
    "clip_high": masked_mean((ratio > upper).astype(ratio.dtype), mask),
    "effective_sample_size": effective_sample_size(ratio, mask),
    "logprob_difference_mean": masked_mean(jnp.abs(log_ratio), mask),
    "logprob_difference_max": jnp.max(jnp.abs(log_ratio), initial=0),
    "kl_k1": masked_mean(-log_ratio, mask),
    "kl_k3": masked_mean(jnp.expm1(token) - token, mask),
    "chi2_token": jnp.where(some, masked_mean(jnp.exp(2 * token), mask) - 1, 0),
    **_of_sequences(logprobs, sampler_logprobs, log_ratio, mask, log_ratio_cap),
  }


def _of_sequences(logprobs, sampler_logprobs, log_ratio, mask, cap):
  """The numbers that compare whole sequences, in the mean over those that have a token."""
  present, dtype = mask.any(-1), log_ratio.dtype
  sums = capped(jnp.sum(log_ratio, axis=-1), cap)
  log_probs = (held(jax.lax.stop_gradient(jnp.asarray(array)).astype(dtype)) for array in (logprobs, sampler_logprobs))
  trainer, sampler = (-masked_mean(array, mask, axis=-1) for array in log_probs)
  difference = -masked_mean(log_ratio, mask, axis=-1)
  some = present.any()
  return {
    "chi2_sequence": jnp.where(some, masked_mean(jnp.exp(2 * sums), present) - 1, 0),
    "trainer_perplexity": masked_mean(jnp.exp(capped(trainer, cap)), present),
    "sampler_perplexity": masked_mean(jnp.exp(capped(sampler, cap)), present),
    "trainer_nll": masked_mean(trainer, present),
    "sampler_nll": masked_mean(sampler, present),
    "perplexity_ratio": masked_mean(jnp.exp(capped(difference, cap)), present),
    "nll_difference_mean": masked_mean(difference, present),
    "nll_difference_abs": masked_mean(jnp.abs(difference), present),
    "nll_difference_max": jnp.where(some, jnp.max(jnp.where(present, difference, -jnp.inf), initial=-jnp.inf), 0),
    "nll_difference_min": jnp.where(some, jnp.min(jnp.where(present, difference, jnp.inf), initial=jnp.inf), 0),
  }
