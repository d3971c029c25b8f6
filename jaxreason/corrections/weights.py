"""Floor 0: importance weights for samples of a policy that is not quite the trainer's.

What enters: log-probs of the same tokens under the trainer's policy π (the one that the update starts from) and the sampler's
q, and a mask. What leaves: a weight for each token, without gradient. B sequences, T tokens.
"""

import jax
import jax.numpy as jnp

from jaxreason.corrections.ratios import leveled, log_ratios, masked_mean
from jaxreason.inputs import with_axes


def truncated_importance_weights(
  logprobs: jax.Array,
  sampler_logprobs: jax.Array,
  mask: jax.Array,
  *,
  level: str = "token",
  upper: float = 2.0,
  lower: float | None = None,
  batch_normalize: bool = False,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """Truncated importance sampling (TIS): the ratio, held between two bounds.

    wₜ = clip(ρ, lower, upper),   ρ = πₜ/qₜ ("token"),  Πₛ πₛ/qₛ ("sequence"),  (Πₛ πₛ/qₛ)^(1/length) ("geometric")

  Args:
    logprobs: [..., B, T] float, log π of the taken tokens, nats.
    sampler_logprobs: [..., B, T] float, log q of them, nats.
    mask: [..., B, T] bool or 0/1.
    level: "token" (TIS; verl's and slime's usual), "sequence": the product (TRL, verl, SkyRL), "geometric": the mean log
      ratio (what NeMo RL, AReaL and open-instruct call the sequence level).
    upper: C; 2 in verl, SkyRL (5 for sequences), slime and open-instruct, 3 in TRL, 5 in OpenRLHF.
    lower: None: no lower bound (TRL, verl; slime and open-instruct 0), 0.5 in OpenRLHF.
    batch_normalize: divide by the mean weight of the batch, over its tokens, or over its sequences where each has one
      (verl, off by default; it does so after the truncation).
    log_ratio_cap: log ρ is held to ±this (verl 20, open-instruct 10, TRL not); None: no cap.

  Returns:
    [..., B, T] float32 (float64 for float64), 0 where masked (verl, AReaL; TRL has 1 there). No gradient.

  Raises:
    ValueError: an unknown level, integer log-probs, or shapes that do not match.

  Source: Yao et al. 2025, https://fengyao.notion.site/off-policy-rl; Ionides 2008 (truncated importance sampling).
  """
  weights, mask = _ratio("truncated_importance_weights", logprobs, sampler_logprobs, mask, level, log_ratio_cap)
  weights = jnp.minimum(weights, upper)
  weights = jnp.where(mask, weights if lower is None else jnp.maximum(weights, lower), 0)
  return _normalized("truncated_importance_weights", weights, mask, level) if batch_normalize else weights


def masked_importance_weights(
  logprobs: jax.Array,
  sampler_logprobs: jax.Array,
  mask: jax.Array,
  *,
  level: str = "sequence",
  upper: float = 3.0,
  lower: float | None = None,
  batch_normalize: bool = False,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """Masked importance sampling (MIS): the ratio between two bounds, and 0 outside of them.

    wₜ = ρ · 1[lower ≤ ρ ≤ upper]

  A weight of 0 takes a token out of the numerator of a mean, not out of its denominator: see `rejection_mask` for that.

  Args:
    logprobs: [..., B, T] float, log π of the taken tokens, nats.
    sampler_logprobs: [..., B, T] float, log q of them, nats.
    mask: [..., B, T] bool or 0/1.
    level: what ρ is, as in `truncated_importance_weights`. "sequence" is TRL's default, "token" AReaL's.
    upper: C; 3 in TRL, 5 in AReaL and IcePop.
    lower: None: no lower bound (TRL, AReaL).
    batch_normalize: as in `truncated_importance_weights`.
    log_ratio_cap: log ρ is held to ±this; None: no cap.

  Returns:
    [..., B, T] float32 (float64 for float64), 0 where masked. No gradient.

  Raises:
    ValueError: an unknown level, integer log-probs, or shapes that do not match.

  Source: Liu, Li et al. 2025, https://richardli.xyz/rl-collapse.
  """
  weights, mask = _ratio("masked_importance_weights", logprobs, sampler_logprobs, mask, level, log_ratio_cap)
  inside = mask & (weights <= upper) & (True if lower is None else weights >= lower)
  weights = jnp.where(inside, weights, 0)
  return _normalized("masked_importance_weights", weights, mask, level) if batch_normalize else weights


def icepop(
  logprobs: jax.Array,
  sampler_logprobs: jax.Array,
  mask: jax.Array,
  *,
  lower: float = 0.5,
  upper: float = 5.0,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """IcePop: a token's ratio where it is between α and β, and 0 outside: `masked_importance_weights` by token, two-sided.

  Args:
    logprobs: [..., T] float, log π, nats.
    sampler_logprobs: [..., T] float, log q, nats.
    mask: [..., T] bool or 0/1.
    lower: α; 0.5 in the paper and verl's preset.
    upper: β; 5 in both.
    log_ratio_cap: the log ratio is held to ±this; None: no cap.

  Returns:
    [..., T] float32 (float64 for float64), 0 where masked. No gradient.

  Raises:
    ValueError: integer log-probs, or shapes that do not match.

  Source: Ling team 2025 (Ring-1T), section 2.3, eq. 1 and 2, https://arxiv.org/abs/2510.18855.
  """
  bounds = dict(level="token", lower=lower, upper=upper)
  return masked_importance_weights(logprobs, sampler_logprobs, mask, log_ratio_cap=log_ratio_cap, **bounds)


def _ratio(function, logprobs, sampler_logprobs, mask, level, log_ratio_cap):
  log_ratio, mask = log_ratios(function, logprobs, sampler_logprobs, mask)
  return jnp.exp(leveled(function, log_ratio, mask, level=level, log_ratio_cap=log_ratio_cap)), mask


def _normalized(function, weights, mask, level):
  """Over the mean weight of the last two axes: of tokens, or of sequences that have a token. A mean of 0 divides nothing."""
  with_axes(function, "[..., B, T]", logprobs=mask)
  if level == "token":
    mean = masked_mean(weights, mask, axis=(-2, -1), keepdims=True)
  else:
    present = mask.any(-1, keepdims=True)
    mean = masked_mean(masked_mean(weights, mask, axis=-1, keepdims=True), present, axis=(-2, -1), keepdims=True)
  return jnp.where(mean > 1e-8, weights / jnp.where(mean > 1e-8, mean, 1), weights)
