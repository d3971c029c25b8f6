"""Floor 0, losses: objectives whose ratio belongs to a whole answer.

What enters: log-probabilities of the taken tokens under the policy and under the behaviour policy, advantages, and the
mask of the answer's tokens. What leaves: one loss an answer, [...], to be reduced by a mean over answers, or one a token,
[..., T], where the docstring says so. T tokens; leading axes are free. Advantages are one an answer, [...], or one a
token, [..., T], of which the answer's mean counts. Gradients flow to `logprobs` only. An answer without tokens has log
ratio 0, and no gradient.
"""

import math

import jax
import jax.numpy as jnp

from jaxreason.losses.ratios import answer_inputs, bounded, row_mean, tokenwise
from jaxreason.losses.surrogates import clip


def sequence_ratio(
  logprobs: jax.Array, behavior_logprobs: jax.Array, mask: jax.Array, *, log_ratio_cap: float | None = 20.0
) -> jax.Array:
  """The geometric mean of an answer's token ratios: s = exp(Σₜ mₜ log rₜ / Σₜ mₜ).

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    mask: [..., T] bool or 0/1.
    log_ratio_cap: nats, of the mean (verl: at most 10; TRL and AReaL: none); or None.

  Returns:
    [...] float32, with the gradient of the mean: each token's share is s / Σₜ mₜ.

  Source: GSPO, Zheng et al. 2025, eq. 7, https://arxiv.org/abs/2507.18071.
  """
  logprobs, behavior_logprobs, mask = answer_inputs("sequence_ratio", logprobs, behavior_logprobs, mask)
  return _mean_ratio(logprobs, behavior_logprobs, mask, log_ratio_cap)


def sequence_surrogate(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 3e-4,
  clip_high: float = 4e-4,
  dual_clip: float | None = None,
  max_ratio: float | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """GSPO: PPO's clipped surrogate of the answer's ratio, one value per answer.

    L = -min(s Â, clip(s, 1 - ε_low, 1 + ε_high) Â),   s = exp(Σₜ mₜ log rₜ / Σₜ mₜ)

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [...] or [..., T] float.
    mask: [..., T] bool or 0/1.
    clip_low: ε_low (paper: 3e-4; TRL and verl leave PPO's 0.2 as default, AReaL's recipe says 0.4).
    clip_high: ε_high (paper: 4e-4).
    dual_clip: c of `clipped_surrogate` (AReaL's `c_clip`), or None.
    max_ratio: δ of `clipped_surrogate` (TRL's `delta`), or None.
    log_ratio_cap: nats, of the mean; or None.

  Returns:
    [...] float32, to be minimised. The paper takes the mean over answers; AReaL weighs each by its length.

  Source: Zheng et al. 2025, eq. 5, https://arxiv.org/abs/2507.18071.
  """
  bounds = dict(clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, max_ratio=max_ratio)
  return _surrogate("sequence_surrogate", logprobs, behavior_logprobs, advantages, mask, log_ratio_cap, **bounds)


def gspo_token(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 3e-4,
  clip_high: float = 4e-4,
  dual_clip: float | None = None,
  max_ratio: float | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """GSPO-token: the answer's ratio as a value, each token's own gradient; for advantages that differ within an answer.

    Lₜ = -min(sₜ Âₜ, clip(sₜ, 1 - ε_low, 1 + ε_high) Âₜ),   sₜ = sg(s) π(aₜ|sₜ) / sg(π(aₜ|sₜ))

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [...] or [..., T] float, one a token here.
    mask: [..., T] bool or 0/1.
    clip_low: ε_low (paper: 3e-4; verl: 0.2).
    clip_high: ε_high (paper: 4e-4; verl: 0.2).
    dual_clip: c of `clipped_surrogate` (AReaL's `c_clip`), or None.
    max_ratio: δ of `clipped_surrogate` (TRL's `delta`), or None.
    log_ratio_cap: nats, of log sₜ (verl: at most 10); or None.

  Returns:
    [..., T] float32, 0 where masked, to be minimised; `masks.sequence_mean` is the paper's reduction. With one advantage an
    answer, value and gradient are those of `sequence_surrogate`.

  Source: Zheng et al. 2025, eq. 13 and 14, https://arxiv.org/abs/2507.18071. verl's `gspo` is this one.
  """
  logprobs, behavior_logprobs, mask = answer_inputs("gspo_token", logprobs, behavior_logprobs, mask)
  mean = jax.lax.stop_gradient(row_mean(logprobs - behavior_logprobs, mask))
  own = logprobs - jax.lax.stop_gradient(logprobs)  # 0, with the token's gradient
  ratio = jnp.exp(bounded(own + mean[..., None], log_ratio_cap))
  bounds = dict(clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, max_ratio=max_ratio)
  return clip(ratio, tokenwise("gspo_token", advantages, mask), **bounds)


def luspo(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 2e-3,
  clip_high: float = 2.5e-3,
  dual_clip: float | None = None,
  max_ratio: float | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """LUSPO: GSPO's loss times the answer's length, so that a long answer's tokens weigh as much as a short one's.

    L = -|y| min(s Â, clip(s, 1 - ε_low, 1 + ε_high) Â),   |y| = Σₜ mₜ

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [...] or [..., T] float.
    mask: [..., T] bool or 0/1.
    clip_low: ε_low (paper: 2e-3; TRL: 0.2).
    clip_high: ε_high (paper: 2.5e-3; TRL: 0.2).
    dual_clip: c of `clipped_surrogate` (AReaL's `c_clip`), or None.
    max_ratio: δ of `clipped_surrogate` (TRL's `delta`), or None.
    log_ratio_cap: nats, of the mean; or None.

  Returns:
    [...] float32, to be minimised by its mean over answers. TRL's `luspo` is this one at its sequence level, and
    `clipped_surrogate` under `masks.sequence_sum` at its token level.

  Source: Liu et al. 2026, https://arxiv.org/abs/2602.05261.
  """
  bounds = dict(clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, max_ratio=max_ratio)
  loss = _surrogate("luspo", logprobs, behavior_logprobs, advantages, mask, log_ratio_cap, **bounds)
  return loss * jnp.sum(jnp.asarray(mask).astype(bool), axis=-1).astype(loss.dtype)


def geometric_mean_surrogate(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 0.4,
  clip_high: float = 0.4,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """GMPO: the geometric mean of token ratios, each clipped on the side that its advantage pushes to.

    L = -Â exp(Σₜ mₜ cₜ / Σₜ mₜ),   cₜ = min(log rₜ, ε_high) where Âₜ > 0,   max(log rₜ, -ε_low) where Âₜ < 0

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [...] or [..., T] float. Signs count token by token (cₜ = 0 where Âₜ = 0, as in verl); the factor Â is the
      answer's mean.
    mask: [..., T] bool or 0/1.
    clip_low: ε_low, nats: bounds are of the log ratio (paper and TRL: 0.4; verl: 0.2).
    clip_high: ε_high, nats.
    log_ratio_cap: nats, of each token; or None.

  Returns:
    [...] float32, to be minimised by its mean over answers (verl and TRL count fully masked rows in that mean).

  Source: Zhao et al. 2025, https://arxiv.org/abs/2507.20673.
  """
  logprobs, behavior_logprobs, mask = answer_inputs("geometric_mean_surrogate", logprobs, behavior_logprobs, mask)
  advantages = tokenwise("geometric_mean_surrogate", advantages, mask)
  log_ratio = bounded(logprobs - behavior_logprobs, log_ratio_cap)
  clipped = jnp.where(advantages > 0, jnp.minimum(log_ratio, clip_high), jnp.maximum(log_ratio, -clip_low))
  clipped = jnp.where(advantages == 0, 0.0, clipped)
  return -row_mean(advantages, mask) * jnp.exp(row_mean(clipped, mask))


def vespo(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  k_positive: float = 2.0,
  lambda_positive: float = 3.0,
  k_negative: float = 3.0,
  lambda_negative: float = 2.0,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """VESPO: the policy gradient, each answer weighed by a smooth bump of its whole ratio; one value per token.

    Lₜ = -sg(φ(w)) Âₜ log π(aₜ|sₜ),   log φ(w) = λ + k log w - λ w,   w = exp(Σₜ mₜ log rₜ)

  φ(1) = 1, and φ goes to 0 for both small and large w. `vespo_weight` gives φ alone.

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats: of the policy that sampled. (TRL adds the log of its sampler correction to
      log w; here that is the same as taking it from `behavior_logprobs`.)
    advantages: [...] or [..., T] float; the sign of its mean over the answer picks (k, λ), 0 counting as positive.
    mask: [..., T] bool or 0/1.
    k_positive: k where Â >= 0 (paper and TRL: 2; the other three are theirs too).
    lambda_positive: λ there (3).
    k_negative: k where Â < 0 (3).
    lambda_negative: λ there (2).
    log_ratio_cap: nats, of each token and of log w from above; log w is never below log 1e-8 (both are TRL's); or None.

  Returns:
    [..., T] float32, 0 where masked, to be minimised (TRL: token mean over the global batch).

  Source: Shen et al. 2026, https://arxiv.org/abs/2602.10693.
  """
  logprobs, behavior_logprobs, mask = answer_inputs("vespo", logprobs, behavior_logprobs, mask)
  advantages = tokenwise("vespo", advantages, mask)
  weight = vespo_weight(
    logprobs, behavior_logprobs, advantages, mask, k_positive=k_positive, lambda_positive=lambda_positive,
    k_negative=k_negative, lambda_negative=lambda_negative, log_ratio_cap=log_ratio_cap,
  )  # fmt: skip
  return -weight[..., None] * advantages * logprobs


def vespo_weight(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  k_positive: float = 2.0,
  lambda_positive: float = 3.0,
  k_negative: float = 3.0,
  lambda_negative: float = 2.0,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """φ of `vespo`: the same arguments, [...] float32, without gradient."""
  logprobs, behavior_logprobs, mask = answer_inputs("vespo_weight", logprobs, behavior_logprobs, mask)
  positive = row_mean(tokenwise("vespo_weight", advantages, mask), mask) >= 0
  log_ratio = jax.lax.stop_gradient(bounded(logprobs - behavior_logprobs, log_ratio_cap))
  log_w = jnp.clip(jnp.sum(log_ratio, axis=-1), math.log(1e-8), log_ratio_cap)
  k = jnp.where(positive, k_positive, k_negative).astype(log_w.dtype)
  scale = jnp.where(positive, lambda_positive, lambda_negative).astype(log_w.dtype)
  return jnp.exp(scale + k * log_w - scale * jnp.exp(log_w))


def _mean_ratio(logprobs, behavior_logprobs, mask, cap):
  return jnp.exp(bounded(row_mean(logprobs - behavior_logprobs, mask), cap))


def _surrogate(function, logprobs, behavior_logprobs, advantages, mask, cap, **bounds):
  """The clipped surrogate of the mean ratio, [...]."""
  logprobs, behavior_logprobs, mask = answer_inputs(function, logprobs, behavior_logprobs, mask)
  advantages = row_mean(tokenwise(function, advantages, mask), mask)
  return clip(_mean_ratio(logprobs, behavior_logprobs, mask, cap), advantages, **bounds)
