"""Floor 0, losses: DPPO, surrogates whose trust region is measured in probability instead of in ratio.

What enters: log-probabilities of the taken tokens under the policy and under the behaviour policy, and advantages. What
leaves: the token's loss, 0 where the token has left the trust region and its update would lead further out. Nothing else
of the two distributions is needed: each is taken as (this token, any other). T tokens; leading axes are free.
"""

import jax
import jax.numpy as jnp

from jaxreason.losses.ratios import bounded, token_inputs


def dppo_tv(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  threshold_low: float = 0.15,
  threshold_high: float = 0.15,
  max_ratio: float = 20.0,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """DPPO with the total variation between (token, others) under both policies, p = π(aₜ|sₜ) and q = μ(aₜ|sₜ).

    Lₜ = -sg(min(rₜ, c)) Âₜ log p · kₜ,   kₜ = [p - q <= δ_high] where Âₜ > 0, else [q - p <= δ_low]

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [..., T] float.
    threshold_low: δ_low in [0, 1], probability (paper and verl's example: 0.15; the paper's larger runs, SkyRL and
      prime-rl: 0.2).
    threshold_high: δ_high, likewise.
    max_ratio: c, bounds the weight (paper: none, and 5 in its larger runs; verl: 3 by its configuration, 20 where that
      has none, 10,000 in its examples; prime-rl: none). The paper finds small bounds harmful (section 5.4).
    log_ratio_cap: nats, or None.

  Returns:
    [..., T] float32, to be minimised. At Âₜ = 0 verl and prime-rl use the low side, as here; the loss is 0 anyway.
    prime-rl differentiates rₜ instead of log p: the same gradient below c, another value.

  Source: Qi et al. 2026, section 4.4 (the binary approximation) and appendix C.1, https://arxiv.org/abs/2602.04879. The
  paper asks for the policy that sampled as q, not one computed anew (section 5.2).
  """
  logprobs, behavior_logprobs, advantages = token_inputs("dppo_tv", logprobs, behavior_logprobs, advantages)
  moved = jnp.exp(logprobs) - jnp.exp(behavior_logprobs)
  inside = jnp.where(advantages > 0, moved <= threshold_high, -moved <= threshold_low)
  return _weighted(logprobs, behavior_logprobs, advantages, inside, max_ratio, log_ratio_cap)


def dppo_kl(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  threshold_low: float = 0.05,
  threshold_high: float = 0.05,
  max_ratio: float = 20.0,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """DPPO with the KL divergence between (token, others) under both policies, p = π(aₜ|sₜ) and q = μ(aₜ|sₜ).

    Lₜ = -sg(min(rₜ, c)) Âₜ log p · kₜ,   D = q log(q/p) + (1 - q) log((1 - q)/(1 - p))
    kₜ = [D <= δ_high or p <= q] where Âₜ > 0, else [D <= δ_low or p >= q]

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [..., T] float.
    threshold_low: δ_low, nats (paper and verl's example: 0.05).
    threshold_high: δ_high, nats.
    max_ratio: c, bounds the weight; see `dppo_tv`.
    log_ratio_cap: nats, or None.

  Returns:
    [..., T] float32, to be minimised.

  Source: Qi et al. 2026, section 4.4 (the binary approximation of KL(μ ‖ π)), https://arxiv.org/abs/2602.04879.
  """
  logprobs, behavior_logprobs, advantages = token_inputs("dppo_kl", logprobs, behavior_logprobs, advantages)
  divergence = _binary_kl(behavior_logprobs, logprobs)
  high = (divergence <= threshold_high) | (logprobs <= behavior_logprobs)
  low = (divergence <= threshold_low) | (logprobs >= behavior_logprobs)
  return _weighted(logprobs, behavior_logprobs, advantages, jnp.where(advantages > 0, high, low), max_ratio, log_ratio_cap)


def _weighted(logprobs, behavior_logprobs, advantages, inside, max_ratio, cap):
  weight = jnp.minimum(jnp.exp(bounded(logprobs - behavior_logprobs, cap)), max_ratio)
  return jnp.where(inside, -jax.lax.stop_gradient(weight * advantages) * logprobs, 0.0)


def _binary_kl(log_q, log_p):
  """q log(q/p) + (1 - q) log((1 - q)/(1 - p)); probabilities of 1 are taken a rounding below it, so that it is finite."""
  top = jnp.log1p(-jnp.finfo(log_q.dtype).eps)
  log_q, log_p = jnp.minimum(log_q, top), jnp.minimum(log_p, top)
  q = jnp.exp(log_q)
  taken = jnp.where(q > 0, q * (log_q - log_p), 0.0)
  return taken + (1 - q) * (jnp.log(-jnp.expm1(log_q)) - jnp.log(-jnp.expm1(log_p)))
