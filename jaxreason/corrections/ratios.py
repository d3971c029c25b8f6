"""Floor 0: the trainer's probability over the sampler's, by token or by sequence.

What enters: log-probs of the same tokens under both policies, and a mask. What leaves: log ratios, 0 where masked. B
sequences, T tokens; leading axes are free. None of it has a gradient: a correction is a constant of the loss.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import flags, log_probabilities, one_of, with_axes


def log_ratios(function: str, logprobs, sampler_logprobs, mask) -> tuple[jax.Array, jax.Array]:
  """(log π - log q, mask), [..., T], 0 where masked; finite, and not yet held to the cap.

  Raises:
    ValueError: integer log-probs, or shapes that do not match.
  """
  arrays = log_probabilities(function, logprobs=logprobs, sampler_logprobs=sampler_logprobs)
  with_axes(function, "[..., T]", logprobs=arrays[0])
  (mask,) = flags(function, arrays[0].shape, mask=mask)
  trainer, sampler = (jnp.where(mask, array, 0) for array in jax.lax.stop_gradient(arrays))
  return trainer - sampler, mask


def leveled(function: str, log_ratio: jax.Array, mask: jax.Array, *, level: str, log_ratio_cap) -> jax.Array:
  """The log ratio of each token, of its whole sequence (a product of ratios), or their mean over it; [..., T] and capped.

  Raises:
    ValueError: an unknown level.
  """
  one_of(function, ("token", "sequence", "geometric"), level=level)
  if level != "token":
    total = jnp.sum(log_ratio, axis=-1, keepdims=True)
    lengths = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1).astype(total.dtype)
    log_ratio = jnp.where(mask, total / lengths if level == "geometric" else total, 0)
  return capped(log_ratio, log_ratio_cap)


def capped(values: jax.Array, cap: float | None) -> jax.Array:
  """Values held to ±cap; None leaves them."""
  return values if cap is None else jnp.clip(values, -cap, cap)


def masked_mean(values: jax.Array, mask: jax.Array, axis=None, keepdims: bool = False) -> jax.Array:
  """Mean over the mask, 0 where it is empty."""
  total = jnp.sum(jnp.where(mask, values, 0), axis=axis, keepdims=keepdims)
  return total / jnp.maximum(jnp.sum(mask, axis=axis, keepdims=keepdims), 1).astype(values.dtype)
