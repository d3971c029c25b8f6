"""Floor 0: which tokens and sequences are too far from the sampler's policy to be learned from.

What enters: log-probs of the same tokens under the trainer's policy π and the sampler's q, and a mask. What leaves: a
smaller mask; the caller says whether the denominator of a mean shrinks with it. B sequences, T tokens.
"""

import jax
import jax.numpy as jnp

from jaxreason.corrections.ratios import capped, log_ratios, masked_mean
from jaxreason.inputs import floats, one_of, shaped, with_axes


def rejection_mask(
  logprobs: jax.Array,
  sampler_logprobs: jax.Array,
  mask: jax.Array,
  *,
  upper: float,
  lower: float | None = None,
  estimator: str = "k3",
  level: str = "sequence",
  aggregate: str = "mean",
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """Keeps what an estimate of KL(q ‖ π) finds within bounds, tokens or whole sequences.

    lower ≤ k ≤ upper,   k1 = log q/π,   k2 = (log q/π)² / 2,   k3 = π/q - 1 - log π/q

  Args:
    logprobs: [..., T] float, log π of the taken tokens, nats.
    sampler_logprobs: [..., T] float, log q of them, nats.
    mask: [..., T] bool or 0/1.
    upper: nats. verl's presets: k3 0.01; k1 by its mean log 1.001.
    lower: nats. None: no bound for k2 and k3, which are never negative, and -upper for k1. Bounds that are ratios (verl's
      "0.999_1.001" for k1, AReaL's `ratio`) come as their logarithms; AReaL's k1
      has the other sign, and its k3 is e^k1 - 1 - k1 of that: swap the two log-probs for it.
    estimator: "k1", "k2" or "k3".
    level: "token", or "sequence", where a sequence is kept or rejected as a whole by its `aggregate`.
    aggregate: "mean", "sum" or "max" over the sequence's tokens.
    log_ratio_cap: each token's log ratio is held to ±this (verl 20); None: no cap.

  Returns:
    [..., T] bool: the mask, less what is rejected.

  Raises:
    ValueError: an unknown name, integer log-probs, or shapes that do not match.

  Source: Liu, Li et al. 2025, https://richardli.xyz/rl-collapse (geometric and sequence rejection); estimators of Schulman
  2020. verl's denominators shrink with the mask, those of AReaL and slime do not.
  """
  one_of("rejection_mask", ("k1", "k2", "k3"), estimator=estimator)
  one_of("rejection_mask", ("token", "sequence"), level=level)
  one_of("rejection_mask", ("mean", "sum", "max"), aggregate=aggregate)
  log_ratio, mask = log_ratios("rejection_mask", logprobs, sampler_logprobs, mask)
  divergence = _estimate(log_ratio, estimator, log_ratio_cap)
  if level == "sequence" and aggregate == "max":
    divergence = jnp.max(jnp.where(mask, divergence, -jnp.inf), axis=-1, keepdims=True, initial=-jnp.inf)
  elif level == "sequence" and aggregate == "mean":
    divergence = masked_mean(divergence, mask, axis=-1, keepdims=True)
  elif level == "sequence":
    divergence = jnp.sum(jnp.where(mask, divergence, 0), axis=-1, keepdims=True)
  if estimator == "k1":
    lower = -upper if lower is None else lower
  inside = divergence <= upper
  return mask & (inside if lower is None else inside & (divergence >= lower))


def opsm(
  logprobs: jax.Array, sampler_logprobs: jax.Array, advantages: jax.Array, mask: jax.Array, *, threshold: float
) -> jax.Array:
  """Off-policy sequence masking: bad answers that the policy has moved away from are left out.

    kept where Â ≥ 0 or meanₜ(log q - log π) ≤ δ

  Args:
    logprobs: [..., T] float, log π of the taken tokens, nats; the policy that is being trained.
    sampler_logprobs: [..., T] float, log q of them, nats.
    advantages: [...] float, one for each sequence, or [..., T] one for each token.
    mask: [..., T] bool or 0/1.
    threshold: δ, nats per token. The paper names no number; slime has 1e-4, TRL leaves it to the user.

  Returns:
    [..., T] bool: the mask, less the sequences (or with advantages per token, the tokens) left out.

  Raises:
    ValueError: integer log-probs, or shapes that do not match.

  Source: DeepSeek-V3.2 2025, section 3.1, eq. 9, https://arxiv.org/abs/2512.02556.
  """
  log_ratio, mask = log_ratios("opsm", logprobs, sampler_logprobs, mask)
  (advantages,) = floats("opsm", advantages=advantages)
  if advantages.shape not in (mask.shape, mask.shape[:-1]):
    raise ValueError(f"opsm expected advantages of shape {mask.shape[:-1]} or {mask.shape}, got {advantages.shape}")
  if advantages.ndim < mask.ndim:
    advantages = advantages[..., None]
  away = masked_mean(-log_ratio, mask, axis=-1, keepdims=True)
  return mask & ((advantages >= 0) | (away <= threshold))


def m2po_mask(
  logprobs: jax.Array,
  sampler_logprobs: jax.Array,
  mask: jax.Array,
  *,
  advantages: jax.Array | None = None,
  threshold: float = 0.04,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """M2PO: leaves the tokens with the largest squared log ratios out, until the mean of the others is below τ.

    the most tokens, smallest (log π/q)² first, with mean((log π/q)²) < τ; one token at least

  The choice is made over the whole batch: give it all of a minibatch, not micro-batches, or the mask depends on the split
  (as it does in AReaL, which chooses in each micro-batch).

  With `advantages` this is the paper's rule: only tokens whose update leads further out, π/q > 1 with Â > 0 or π/q < 1 with
  Â < 0, are counted and left out. Without, all are, as in AReaL. The paper clips nothing else, and its mean is over all tokens,
  those left out included; AReaL's is over the others.

  Args:
    logprobs: [..., B, T] float, log π of the taken tokens, nats; the policy that the update starts from.
    sampler_logprobs: [..., B, T] float, log q of them, nats.
    mask: [..., B, T] bool or 0/1.
    advantages: [..., B, T] float, or None.
    threshold: τ, nats²; 0.04 in the paper and AReaL.
    log_ratio_cap: the log ratio is held to ±this; None: no cap.

  Returns:
    [..., B, T] bool: the mask, less the tokens left out. Of equal ones at the border the first in the array stay.

  Raises:
    ValueError: integer log-probs, shapes that do not match or that have one axis only.

  Source: Zheng et al. 2025, https://arxiv.org/abs/2510.01161.
  """
  log_ratio, mask = log_ratios("m2po_mask", logprobs, sampler_logprobs, mask)
  with_axes("m2po_mask", "[..., B, T]", logprobs=mask)
  counted = mask
  if advantages is not None:
    (advantages,) = floats("m2po_mask", advantages=advantages)
    shaped("m2po_mask", mask.shape, advantages=advantages)
    counted = mask & (jnp.sign(log_ratio) * jnp.sign(advantages) > 0)
  flat = (*mask.shape[:-2], mask.shape[-2] * mask.shape[-1])
  squares = jnp.where(counted, jnp.square(capped(log_ratio, log_ratio_cap)), jnp.inf).reshape(flat)
  order = jnp.argsort(squares, axis=-1, stable=True)
  ascending = jnp.take_along_axis(squares, order, axis=-1)
  places = jnp.arange(1, flat[-1] + 1, dtype=squares.dtype).reshape((1,) * (len(flat) - 1) + (-1,))
  # A running mean of ascending numbers only rises, and those that are not counted are infinite and last.
  small = jnp.cumsum(ascending, axis=-1) / places < threshold
  kept_places = small | (places == 1)
  kept = jnp.take_along_axis(kept_places, jnp.argsort(order, axis=-1), axis=-1)
  return mask & (~counted | kept.reshape(mask.shape))


def _estimate(log_ratio, estimator, cap):
  """The estimate of each token, from log π/q."""
  log_ratio = capped(log_ratio, cap)
  if estimator == "k1":
    return -log_ratio
  return jnp.square(log_ratio) / 2 if estimator == "k2" else jnp.expm1(log_ratio) - log_ratio
