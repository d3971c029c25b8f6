"""Floor 0: estimators of KL(π ‖ π_ref) from one sampled token each.

What enters: log-probabilities of the taken tokens under both policies. What leaves: one value per token, in nats, an
estimate when the token was drawn from π. Source of the three names: Schulman 2020, http://joschu.net/blog/kl-approx.html.
"""

import jax
import jax.numpy as jnp


def kl_k1(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """log π - log π_ref: unbiased, of either sign; [..., T] float32, nats."""
  return logprobs - reference_logprobs


def kl_k2(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """(log π - log π_ref)² / 2: biased, small variance, and its gradient is that of the true KL; [..., T] float32."""
  return jnp.square(logprobs - reference_logprobs) / 2


def kl_k3(logprobs: jax.Array, reference_logprobs: jax.Array, *, log_ratio_cap: float | None = 20.0) -> jax.Array:
  """π_ref/π - 1 - log(π_ref/π): unbiased and never negative.

  Args:
    logprobs: [..., T] float32, nats.
    reference_logprobs: [..., T] float32, nats.
    log_ratio_cap: the log ratio is clipped to ±this many nats (verl: 20, and its value to ±10; TRL: no cap).

  Returns:
    [..., T] float32, nats.

  Source: GRPO, Shao et al. 2024, eq. 4, https://arxiv.org/abs/2402.03300.
  """
  log_ratio = reference_logprobs - logprobs
  if log_ratio_cap is not None:
    log_ratio = jnp.clip(log_ratio, -log_ratio_cap, log_ratio_cap)
  return jnp.exp(log_ratio) - 1 - log_ratio
