"""Floor 0: policy-gradient surrogates, one value per token.

What enters: log-probabilities of the taken tokens under the policy and under the behaviour policy, and advantages. What
leaves: the token's loss. T tokens; leading axes are free.
"""

import chex
import jax
import jax.numpy as jnp


def clipped_surrogate(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """PPO's clipped surrogate, one value per token.

    Lₜ = -min(rₜ Âₜ, clip(rₜ, 1 - ε_low, 1 + ε_high) Âₜ),   rₜ = π(aₜ|sₜ) / μ(aₜ|sₜ)

  No mask and no mean here: see `masks` for the reductions.

  Args:
    logprobs: [..., T] float32, log π of the taken tokens, in nats. Gradients flow here only.
    behavior_logprobs: [..., T] float32, log μ of the same tokens, in nats.
    advantages: [..., T] float32.
    clip_low: ε_low in [0, 1).
    clip_high: ε_high >= 0; above ε_low this is DAPO's clip-higher (Yu et al. 2025, section 3.1).
    log_ratio_cap: log rₜ is clipped to ±this many nats so that exp stays finite (verl caps at 20, TRL does not);
      None turns it off.

  Returns:
    [..., T] float32, to be minimised.

  Source: Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347.
  """
  chex.assert_equal_shape([logprobs, behavior_logprobs, advantages])
  behavior_logprobs, advantages = jax.lax.stop_gradient((behavior_logprobs, advantages))
  log_ratio = logprobs - behavior_logprobs
  if log_ratio_cap is not None:
    log_ratio = jnp.clip(log_ratio, -log_ratio_cap, log_ratio_cap)
  ratio = jnp.exp(log_ratio)
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  return -jnp.minimum(ratio * advantages, clipped * advantages)


def clip_fractions(
  logprobs: jax.Array, behavior_logprobs: jax.Array, advantages: jax.Array, *, clip_low: float, clip_high: float
) -> tuple[jax.Array, jax.Array]:
  """Which tokens the clip of `clipped_surrogate` silences: (low, high), [..., T] float32 of 0 and 1.

  Low: rₜ < 1 - ε_low with a negative advantage; high: rₜ > 1 + ε_high with a positive one. Both have no gradient.
  """
  log_ratio = jax.lax.stop_gradient(logprobs - behavior_logprobs)
  low = (log_ratio < jnp.log1p(-clip_low)) & (advantages < 0)
  high = (log_ratio > jnp.log1p(clip_high)) & (advantages > 0)
  return low.astype(jnp.float32), high.astype(jnp.float32)
