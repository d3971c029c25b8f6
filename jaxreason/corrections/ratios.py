"""Floor 0: the trainer's probability over the sampler's, by token or by sequence.

What enters: log-probs of the same tokens under both policies, and a mask. What leaves: log ratios, 0 where masked. B
sequences, T tokens; leading axes are free. None of it has a gradient: a correction is a constant of the loss.
"""

import jax
import jax.numpy as jnp

LEVELS = ("token", "sequence", "geometric")

# What a log ratio is held to before it is summed, so that infinities of both signs do not meet.
FINITE = 1e4


def log_ratios(function: str, logprobs, sampler_logprobs, mask, *, log_ratio_cap) -> tuple[jax.Array, jax.Array]:
  """(log π - log q, mask), [..., T], 0 where masked; held to a finite range, not yet to the cap, unless that is None.

  Raises:
    ValueError: integer log-probs, or shapes that do not match.
  """
  arrays = [jnp.asarray(array) for array in (logprobs, sampler_logprobs)]
  mask = jnp.asarray(mask)
  for name, array in zip(("logprobs", "sampler_logprobs"), arrays, strict=True):
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(f"{function} expected {name} of a float dtype, got {array.dtype}")
    if array.shape != mask.shape or not mask.ndim:
      raise ValueError(f"{function} expected {name} [..., T] of the mask's shape {mask.shape}, got {array.shape}")
  mask, arrays = mask.astype(bool), jax.lax.stop_gradient(arrays)
  dtype = jnp.promote_types(jnp.promote_types(arrays[0].dtype, arrays[1].dtype), jnp.float32)
  trainer, sampler = (jnp.where(mask, array.astype(dtype), 0) for array in arrays)
  difference = trainer - sampler
  return (difference if log_ratio_cap is None else jnp.clip(difference, -FINITE, FINITE)), mask


def leveled(function: str, log_ratio: jax.Array, mask: jax.Array, *, level: str, log_ratio_cap) -> jax.Array:
  """The log ratio of each token, of its whole sequence (a product of ratios), or their mean over it; [..., T] and capped.

  Raises:
    ValueError: an unknown level.
  """
  if level not in LEVELS:
    raise ValueError(f"{function} expected level 'token', 'sequence' or 'geometric', got {level!r}")
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
