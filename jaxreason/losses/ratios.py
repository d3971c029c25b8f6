"""Floor 0, losses: log ratios that stay finite, and means over an answer.

What enters: log-probabilities of the taken tokens, advantages and masks, as users have them. What leaves: the same, checked
(`jaxreason.inputs`) and with gradients for the policy only, and log ratios in nats. T tokens.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import flags, floats, held, log_probabilities, same_shape, with_axes


def token_inputs(function: str, logprobs, behavior_logprobs, advantages) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(log π, log μ, Â) of one shape; gradients flow to the first only."""
  logprobs, behavior_logprobs, advantages = same_shape(
    function, logprobs=logprobs, behavior_logprobs=behavior_logprobs, advantages=advantages
  )
  return held(logprobs), *jax.lax.stop_gradient((held(behavior_logprobs), advantages))


def answer_inputs(function: str, logprobs, behavior_logprobs, mask) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(log π, log μ, mask), [..., T]: 0 where masked, so that nothing which lies there is read."""
  logprobs, behavior_logprobs = log_probabilities(function, logprobs=logprobs, behavior_logprobs=behavior_logprobs)
  with_axes(function, "[..., T]", logprobs=logprobs)
  (mask,) = flags(function, logprobs.shape, mask=mask)
  logprobs, behavior_logprobs = (jnp.where(mask, array, 0.0) for array in (logprobs, behavior_logprobs))
  return logprobs, jax.lax.stop_gradient(behavior_logprobs), mask


def tokenwise(function: str, advantages, mask: jax.Array) -> jax.Array:
  """Advantages [...] of whole answers or [..., T] of tokens as [..., T], 0 where masked; no gradient either way."""
  (advantages,) = floats(function, advantages=advantages)
  if advantages.shape not in (mask.shape, mask.shape[:-1]):
    raise ValueError(
      f"{function} expected advantages of shape {mask.shape[:-1]}, one an answer, or {mask.shape}, one a token, "
      f"got {advantages.shape}; reshape them"
    )
  if advantages.ndim < mask.ndim:
    advantages = jnp.broadcast_to(advantages[..., None], mask.shape)
  return jax.lax.stop_gradient(jnp.where(mask, advantages, 0.0))


def bounded(log_ratio: jax.Array, cap: float | None) -> jax.Array:
  """Clipped to ±cap nats, where its gradient ends too; what is no number, at padding, counts as 0. None: as it is."""
  if cap is None:
    return log_ratio
  return jnp.clip(jnp.where(jnp.isnan(log_ratio), 0.0, log_ratio), -cap, cap)


def row_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """[..., T] -> [...]: the mean over a row's tokens, 0 for a row without any."""
  lengths = jnp.sum(mask, axis=-1).astype(values.dtype)
  return jnp.sum(jnp.where(mask, values, 0.0), axis=-1) / jnp.maximum(lengths, 1.0)
