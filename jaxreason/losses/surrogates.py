"""Floor 0, losses: policy-gradient surrogates of one token each.

What enters: log-probabilities of the taken tokens under the policy and under the behaviour policy, and advantages. What
leaves: the token's loss. T tokens; leading axes are free, and shapes are equal. rₜ = π(aₜ|sₜ) / μ(aₜ|sₜ) throughout;
log rₜ is clipped to ±`log_ratio_cap` nats so that exp stays finite (verl caps at 20, TRL and AReaL do not; None: no cap).
Gradients flow to `logprobs` only.
"""

import jax
import jax.numpy as jnp

from jaxreason.losses.ratios import bounded, token_inputs


def clipped_surrogate(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  dual_clip: float | None = None,
  max_ratio: float | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """PPO's clipped surrogate, one value per token.

    Lₜ = -min(rₜ Âₜ, clip(rₜ, 1 - ε_low, 1 + ε_high) Âₜ),   rₜ = π(aₜ|sₜ) / μ(aₜ|sₜ)

  With `max_ratio` δ the first rₜ is min(rₜ, δ); with `dual_clip` c the loss of a negative advantage is at most -c Âₜ. Both
  bound the loss of an unlikely token that became likely, and both silence its gradient there.
  No mask and no mean here: see `masks` for the reductions.

  Args:
    logprobs: [..., T] float, log π of the taken tokens, in nats. Gradients flow here only.
    behavior_logprobs: [..., T] float, log μ of the same tokens, in nats.
    advantages: [..., T] float.
    clip_low: ε_low in [0, 1).
    clip_high: ε_high >= 0; above ε_low this is DAPO's clip-higher (0.28; Yu et al. 2025, section 3.1).
    dual_clip: c > 1, or None (verl: 3; TRL, AReaL and OpenRLHF: off).
    max_ratio: δ > 1 + ε_high, or None (TRL's `delta`: off; INTELLECT-2: 4).
    log_ratio_cap: nats, or None.

  Returns:
    [..., T] float32 (float64 of float64), to be minimised.

  Source: Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347; dual clip: Ye et al. 2020, eq. 5,
  https://arxiv.org/abs/1912.09729; two-sided clip: INTELLECT-2, 2025, https://arxiv.org/abs/2505.07291.
  """
  logprobs, behavior_logprobs, advantages = token_inputs("clipped_surrogate", logprobs, behavior_logprobs, advantages)
  ratio = _ratio(logprobs, behavior_logprobs, log_ratio_cap)
  return clip(ratio, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, max_ratio=max_ratio)


def clip(ratio, advantages, *, clip_low, clip_high, dual_clip=None, max_ratio=None):
  """The clipped surrogate of a ratio, whatever it is the ratio of; shapes are equal."""
  free = ratio if max_ratio is None else jnp.minimum(ratio, max_ratio)
  loss = -jnp.minimum(free * advantages, jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantages)
  if dual_clip is None:
    return loss
  return jnp.where(advantages < 0, jnp.minimum(loss, -dual_clip * advantages), loss)


def clip_fractions(
  logprobs: jax.Array, behavior_logprobs: jax.Array, advantages: jax.Array, *, clip_low: float, clip_high: float
) -> tuple[jax.Array, jax.Array]:
  """Which tokens the clip of `clipped_surrogate` silences: (low, high), [..., T] float32 of 0 and 1.

  Low: rₜ < 1 - ε_low with a negative advantage; high: rₜ > 1 + ε_high with a positive one. Both have no gradient.
  """
  logprobs, behavior_logprobs, advantages = token_inputs("clip_fractions", logprobs, behavior_logprobs, advantages)
  log_ratio = jax.lax.stop_gradient(logprobs) - behavior_logprobs
  low = (log_ratio < jnp.log1p(-clip_low)) & (advantages < 0)
  high = (log_ratio > jnp.log1p(clip_high)) & (advantages > 0)
  return low.astype(jnp.float32), high.astype(jnp.float32)


def cispo(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  min_ratio: float = 0.0,
  max_ratio: float = 5.0,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """CISPO: the weight is clipped, not the update, so that every token keeps its gradient.

    Lₜ = -sg(clip(rₜ, r_min, r_max)) Âₜ log π(aₜ|sₜ)

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [..., T] float.
    min_ratio: r_min, a bound of the ratio itself. 0, as in the paper, leaves small ratios alone.
    max_ratio: r_max, likewise. The paper tunes it and prints no value; ScaleRL found 4, 5 and 8 alike (appendix A.17.2),
      and TRL's settings for it have 5 (its `epsilon_high` is this bound). verl writes the bounds as 1 - ε_low and
      1 + ε_high, both ε 0.2 by default.
    log_ratio_cap: nats, or None.

  Returns:
    [..., T] float32, to be minimised.

  Source: MiniMax-M1, Chen et al. 2025, eq. 4 and 5, https://arxiv.org/abs/2506.13585; ScaleRL, Khatri et al. 2025, eq. 4,
  https://arxiv.org/abs/2510.13786.
  """
  logprobs, behavior_logprobs, advantages = token_inputs("cispo", logprobs, behavior_logprobs, advantages)
  weight = jnp.clip(_ratio(logprobs, behavior_logprobs, log_ratio_cap), min_ratio, max_ratio)
  return -jax.lax.stop_gradient(weight) * advantages * logprobs


def sapo(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  tau_positive: float = 1.0,
  tau_negative: float = 1.05,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """SAPO: a sigmoid gate where PPO has a clip; at rₜ = 1 its gradient is the policy gradient.

    Lₜ = -(4/τ) σ(τ (rₜ - 1)) Âₜ,   τ = τ_positive where Âₜ > 0, else τ_negative

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [..., T] float.
    tau_positive: sharpness of the gate (paper, TRL, verl and AReaL: 1.0).
    tau_negative: likewise; larger, since raising all other tokens is the noisier update (1.05 in all of them).
    log_ratio_cap: nats, or None.

  Returns:
    [..., T] float32, to be minimised.

  Source: Gao et al. 2025, https://arxiv.org/abs/2511.20347.
  """
  logprobs, behavior_logprobs, advantages = token_inputs("sapo", logprobs, behavior_logprobs, advantages)
  tau = jnp.where(advantages > 0, tau_positive, tau_negative).astype(logprobs.dtype)
  gate = jax.nn.sigmoid(tau * (_ratio(logprobs, behavior_logprobs, log_ratio_cap) - 1))
  return -4 / tau * gate * advantages


def _ratio(logprobs, behavior_logprobs, cap):
  return jnp.exp(bounded(logprobs - behavior_logprobs, cap))
