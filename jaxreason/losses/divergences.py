"""Floor 0, losses: estimators of KL(π ‖ π_ref) from one sampled token each.

What enters: log-probabilities of the taken tokens under both policies. What leaves: one value per token, in nats, an
estimate when the token was drawn from π. d = log π - log π_ref throughout, clipped to ±`log_ratio_cap` nats, where its
gradient ends too (None: no cap). Source of the names k1, k2, k3: Schulman 2020, http://joschu.net/blog/kl-approx.html.

Tokens come from the behaviour policy μ, not from π. `unbiased=True` weighs each value by π/μ, differentiably: the value is
right again, and so is the gradient, which for k1 and k3 it is not even at μ = π. μ defaults to π itself, held fixed.
Source: DeepSeek-V3.2, 2025, eq. 7, https://arxiv.org/abs/2512.02556. TRL 1.16 does so by default, verl and AReaL do not.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import log_probabilities
from jaxreason.losses.ratios import bounded


def kl_k1(
  logprobs: jax.Array,
  reference_logprobs: jax.Array,
  *,
  unbiased: bool = False,
  behavior_logprobs: jax.Array | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """d: unbiased, of either sign. Its own gradient has mean 0; use it in the reward, or with `unbiased`.

  Args:
    logprobs: [..., T] float, nats.
    reference_logprobs: [..., T] float, nats; no gradient flows here.
    unbiased: weigh by π/μ.
    behavior_logprobs: [..., T] float, nats, log μ; read with `unbiased` only.
    log_ratio_cap: nats, or None (verl, TRL and AReaL: none for k1).

  Returns:
    [..., T] float32, nats.
  """
  d = _difference("kl_k1", logprobs, reference_logprobs, log_ratio_cap)
  return _weighed("kl_k1", d, logprobs, unbiased, behavior_logprobs, log_ratio_cap)


def kl_k2(
  logprobs: jax.Array,
  reference_logprobs: jax.Array,
  *,
  unbiased: bool = False,
  behavior_logprobs: jax.Array | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """d² / 2: biased, of small variance; without `unbiased` its gradient is that of the true KL.

  Args and returns: see `kl_k1`.
  """
  d = _difference("kl_k2", logprobs, reference_logprobs, log_ratio_cap)
  return _weighed("kl_k2", jnp.square(d) / 2, logprobs, unbiased, behavior_logprobs, log_ratio_cap)


def kl_k3(
  logprobs: jax.Array,
  reference_logprobs: jax.Array,
  *,
  unbiased: bool = False,
  behavior_logprobs: jax.Array | None = None,
  max_value: float | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """π_ref/π - 1 - log(π_ref/π) = exp(-d) - 1 + d: unbiased and never negative.

  Args:
    logprobs: [..., T] float, nats.
    reference_logprobs: [..., T] float, nats; no gradient flows here.
    unbiased: weigh by π/μ.
    behavior_logprobs: [..., T] float, nats, log μ; read with `unbiased` only.
    max_value: nats, an upper bound of exp(-d) - 1 + d (verl: 10), or None.
    log_ratio_cap: nats (verl: 20; TRL and AReaL: none), or None.

  Returns:
    [..., T] float32, nats. verl's "k3+" has this value and the gradient of k2.

  Source: GRPO, Shao et al. 2024, eq. 4, https://arxiv.org/abs/2402.03300.
  """
  d = _difference("kl_k3", logprobs, reference_logprobs, log_ratio_cap)
  value = jnp.exp(-d) - 1 + d
  if max_value is not None:
    value = jnp.minimum(value, max_value)
  return _weighed("kl_k3", value, logprobs, unbiased, behavior_logprobs, log_ratio_cap)


def kl_abs(
  logprobs: jax.Array,
  reference_logprobs: jax.Array,
  *,
  unbiased: bool = False,
  behavior_logprobs: jax.Array | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """|d|: no estimate of the KL but a distance, never negative and with a gradient of one size (verl's "abs").

  Args and returns: see `kl_k1`.
  """
  d = _difference("kl_abs", logprobs, reference_logprobs, log_ratio_cap)
  return _weighed("kl_abs", jnp.abs(d), logprobs, unbiased, behavior_logprobs, log_ratio_cap)


def _difference(function, logprobs, reference_logprobs, cap):
  logprobs, reference_logprobs = log_probabilities(function, logprobs=logprobs, reference_logprobs=reference_logprobs)
  return bounded(logprobs - jax.lax.stop_gradient(reference_logprobs), cap)


def _weighed(function, value, logprobs, unbiased, behavior_logprobs, cap):
  if not unbiased:
    return value
  behavior_logprobs = logprobs if behavior_logprobs is None else behavior_logprobs
  logprobs, behavior_logprobs = log_probabilities(function, logprobs=logprobs, behavior_logprobs=behavior_logprobs)
  return value * jnp.exp(bounded(logprobs - jax.lax.stop_gradient(behavior_logprobs), cap))
