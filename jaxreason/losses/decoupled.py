"""Floor 0, losses: PPO on stale samples, with the policy to stay near to told apart from the policy that sampled.

What enters: log-probabilities of the taken tokens under the policy π, the proximal policy π_prox (the one at the start of
the step) and the behaviour policy μ, and advantages. What leaves: the token's loss, or an approximation of log π_prox.
T tokens; leading axes are free.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import log_probabilities, same_shape, shaped
from jaxreason.losses.ratios import bounded
from jaxreason.losses.surrogates import clipped_surrogate


def decoupled_surrogate(
  logprobs: jax.Array,
  proximal_logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  weights: jax.Array | None = None,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  dual_clip: float | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """Decoupled PPO: the clip is around π_prox, and the samples are weighed back to it.

    Lₜ = -wₜ min(uₜ Âₜ, clip(uₜ, 1 - ε_low, 1 + ε_high) Âₜ),   uₜ = π/π_prox,   wₜ = sg(π_prox/μ)

  Args:
    logprobs: [..., T] float, log π, nats. Gradients flow here only.
    proximal_logprobs: [..., T] float, log π_prox, nats. With one optimizer step a batch this is stop_gradient(logprobs).
    behavior_logprobs: [..., T] float, log μ, nats.
    advantages: [..., T] float.
    weights: [..., T] float in place of π_prox/μ, where it was truncated or masked (`corrections`). AReaL keeps tokens with
      a ratio of at most 5, drops the others, and weighs by nothing at all when `rejection_sampling` is unset.
    clip_low: ε_low (AReaL: 0.2, its recipes 0.4).
    clip_high: ε_high.
    dual_clip: c of `clipped_surrogate` (AReaL's `c_clip`, which bounds by c |Âₜ|), or None.
    log_ratio_cap: nats, of both log ratios; or None.

  Returns:
    [..., T] float32, to be minimised.

  Source: Hilton et al. 2022, https://arxiv.org/abs/2110.00641; AReaL, Fu et al. 2025, eq. 5,
  https://arxiv.org/abs/2505.24298.
  """
  logprobs, proximal_logprobs, behavior_logprobs = log_probabilities(
    "decoupled_surrogate", logprobs=logprobs, proximal_logprobs=proximal_logprobs, behavior_logprobs=behavior_logprobs
  )
  same_shape("decoupled_surrogate", logprobs=logprobs, advantages=advantages)
  loss = clipped_surrogate(
    logprobs, proximal_logprobs, advantages,
    clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, log_ratio_cap=log_ratio_cap,
  )  # fmt: skip
  if weights is None:
    weights = jnp.exp(bounded(proximal_logprobs - behavior_logprobs, log_ratio_cap))
  weights, _ = same_shape("decoupled_surrogate", weights=weights, logprobs=logprobs)
  return jax.lax.stop_gradient(weights) * loss


def prox_log_linear(
  logprobs: jax.Array, behavior_logprobs: jax.Array, versions: jax.Array, version: jax.Array | int
) -> jax.Array:
  """log π_prox without a forward pass: between log μ and log π, by how many versions lie between them.

    log π_prox ≈ log μ + α (log π - log μ),   α = (v - 1 - vₜ)/(v - vₜ) where v > vₜ >= 0, else 0

  Args:
    logprobs: [..., T] float, log π, nats.
    behavior_logprobs: [..., T] float, log μ, nats.
    versions: [..., T] int, vₜ: the version that produced the token; negative where none did (prompts).
    version: int, v: the version that π counts as, one above that of π_prox. AReaL passes the version before the update,
      which puts π_prox one version too low; pass one more than that for the version that π_prox really has.

  Returns:
    [..., T] float32, nats, without gradient.

  Source: A-3PO, Li et al. 2025, https://arxiv.org/abs/2512.06547, as in AReaL ("loglinear").
  """
  logprobs, behavior_logprobs = jax.lax.stop_gradient(
    log_probabilities("prox_log_linear", logprobs=logprobs, behavior_logprobs=behavior_logprobs)
  )
  (versions,) = shaped("prox_log_linear", logprobs.shape, versions=versions)
  if not jnp.issubdtype(versions.dtype, jnp.integer):
    raise ValueError(f"prox_log_linear expected versions of an integer dtype, got {versions.dtype}; cast them to int32")
  age = (version - versions).astype(logprobs.dtype)
  stale = (versions >= 0) & (age > 0)
  alpha = jnp.where(stale, (age - 1) / jnp.where(stale, age, 1.0), 0.0)
  return jnp.where(alpha > 0, behavior_logprobs + alpha * (logprobs - behavior_logprobs), behavior_logprobs)
