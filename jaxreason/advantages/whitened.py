"""Floor 0: advantages that are normalised over the whole batch.

What enters: rewards per token or per sample, and the masks. What leaves: advantages of the batch's mean 0 and variance 1.
B sequences = P prompts x G samples, T tokens, K rewards.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxreason.advantages.group import group_relative
from jaxreason.advantages.statistics import group_inputs, returns_to_go, token_inputs, whiten
from jaxreason.inputs import flags, floats, shaped, with_axes


def reinforce_plus_plus(
  token_rewards: jax.Array,
  mask: jax.Array,
  valid: jax.Array | None = None,
  *,
  gamma: float = 1.0,
  ddof: int = 1,
  variance_eps: float = 1e-8,
) -> jax.Array:
  """REINFORCE++: rewards from each token on, whitened over the tokens of the batch, with no group and no critic.

    Âₜ = (Gₜ - mean(G)) / √(var(G) + ε),   Gₜ = Σ_{s ≥ t} γˢ⁻ᵗ rₛ

  Args:
    token_rewards: [..., B, T] float; the paper takes β k1 of the KL to the reference off each (AReaL's example 1e-3).
    mask: [..., B, T] bool or 0/1; what is masked is passed over with no discount.
    valid: [..., B] bool, False for a sample without a verdict: it enters no mean. None: all.
    gamma: γ; 1 in the paper, verl and AReaL.
    ddof: what is taken off the count of tokens in the variance.
    variance_eps: ε.

  Returns:
    [..., B, T] float32 (float64 for float64), 0 where masked.

  Raises:
    ValueError: integer rewards, or shapes that do not match.

  Source: Hu et al. 2025, https://arxiv.org/abs/2501.03262.
  """
  mask, rewards = token_inputs("reinforce_plus_plus", mask, valid, token_rewards=token_rewards)
  with_axes("reinforce_plus_plus", "[..., B, T]", mask=mask)
  return whiten(returns_to_go(rewards, mask, gamma=gamma), mask, ddof=ddof, variance_eps=variance_eps)


def reinforce_plus_plus_baseline(
  rewards: jax.Array, mask: jax.Array, valid: jax.Array | None = None, *, ddof: int = 1, variance_eps: float = 1e-8
) -> jax.Array:
  """REINFORCE++ with the group's mean as baseline: centred by group, whitened over the tokens of the batch.

    Âᵢₜ = (dᵢ - mean(d)) / √(var(d) + ε),   dᵢ = Rᵢ - mean_group(R), counted once for each of its tokens

  Long answers weigh more in mean(d), so that a group of equal rewards gets a small common number, not 0.

  Args:
    rewards: [..., P, G] float.
    mask: [..., P, G, T] bool or 0/1.
    valid: [..., P, G] bool, False for a sample without a verdict. None: all. A lone valid sample has d = 0.
    ddof: what is taken off the count of tokens in the variance.
    variance_eps: ε.

  Returns:
    [..., P, G, T] float32 (float64 for float64), 0 where masked.

  Raises:
    ValueError: integer rewards, an empty group, or shapes that do not match.

  Source: Hu et al. 2025, https://arxiv.org/abs/2501.03262 (REINFORCE++-baseline). verl takes no mean off a lone sample.
  """
  rewards, valid = group_inputs("reinforce_plus_plus_baseline", rewards, valid)
  mask = jnp.asarray(mask)
  if mask.shape[:-1] != rewards.shape:
    raise ValueError(f"reinforce_plus_plus_baseline expected a mask of shape {(*rewards.shape, 'T')}, got {mask.shape}")
  mask = mask.astype(bool) & valid[..., None]
  tokens = jnp.where(mask, group_relative(rewards, valid, std=None)[..., None], 0)
  return whiten(tokens, mask, axis=(-3, -2, -1), ddof=ddof, variance_eps=variance_eps)


def gdpo(
  rewards: jax.Array,
  valid: jax.Array | None = None,
  *,
  weights: Sequence[float] | jax.Array | None = None,
  batch_normalize: bool = True,
  ddof: int = 1,
  eps: float = 1e-4,
) -> jax.Array:
  """Several rewards, each normalised in its group before they are added, so that none drowns another.

    Âᵢ = (zᵢ - mean_batch(z)) / (std_batch(z) + ε),   zᵢ = Σₖ wₖ (Rᵢₖ - mean_group(Rₖ)) / (std_group(Rₖ) + ε)

  Args:
    rewards: [..., P, G, K] float, K rewards of each sample.
    valid: [..., P, G, K] bool, False where a reward has no verdict: it adds nothing; a sample with none at all gets 0 and
      enters nobody's statistics. None: all.
    weights: [K], wₖ. None: 1 each.
    batch_normalize: False leaves z (verl whitens it over the tokens of the batch instead: `whiten`).
    ddof: what is taken off the counts in both variances; 1 in TRL and verl.
    eps: ε; 1e-4 in TRL, 1e-6 in verl.

  Returns:
    [..., P, G] float32 (float64 for float64). With `batch_normalize` a group of equal rewards gets -mean_batch(z), which
    is 0 only while no verdict is missing.

  Raises:
    ValueError: integer rewards, an empty group, or shapes that do not match.

  Source: Liu et al. 2026, https://arxiv.org/abs/2601.05242.
  """
  (rewards,) = floats("gdpo", rewards=rewards)
  if rewards.ndim < 3 or 0 in rewards.shape[-2:]:
    raise ValueError(f"gdpo expected rewards [..., P, G, K] with G, K >= 1, got shape {rewards.shape}; reshape them by group")
  (valid,) = flags("gdpo", rewards.shape, valid=jnp.ones(rewards.shape, bool) if valid is None else valid)
  (weights,) = shaped("gdpo", rewards.shape[-1:], weights=jnp.ones(rewards.shape[-1]) if weights is None else weights)
  # Each reward is a group of its own: [..., K, P, G].
  apart = group_relative(jnp.moveaxis(rewards, -1, -3), jnp.moveaxis(valid, -1, -3), ddof=ddof, eps=eps)
  weights = weights.astype(apart.dtype).reshape((1,) * (rewards.ndim - 3) + (-1, 1, 1))
  total, judged = jnp.sum(weights * apart, axis=-3), valid.any(-1)
  return whiten(total, judged, ddof=ddof, eps=eps, variance_eps=0.0) if batch_normalize else total
