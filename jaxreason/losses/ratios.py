"""Floor 0, losses: what every loss does to its inputs first: check them, and take log ratios that stay finite.

What enters: arrays as users have them. What leaves: floating point arrays of one shape, and log ratios in nats. Half
precision becomes float32, because a ratio is an exponential of a small difference; float64 stays float64.
"""

import jax
import jax.numpy as jnp


def floats(**arrays) -> list[jax.Array]:
  """The arrays, at least float32 each; an integer or boolean one is an error that names it."""
  found = []
  for name, array in arrays.items():
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(f"{name} expected floating point, got {array.dtype}; convert it to float32")
    found.append(array.astype(jnp.promote_types(array.dtype, jnp.float32)))
  return found


def same_shape(**arrays) -> list[jax.Array]:
  """`floats`, all of one shape: nothing broadcasts in silence."""
  found = floats(**arrays)
  shapes = {name: array.shape for name, array in zip(arrays, found, strict=True)}
  if len(set(shapes.values())) > 1:
    raise ValueError(f"expected one shape, got {', '.join(f'{name} {shape}' for name, shape in shapes.items())}")
  return found


def kept(mask, like: jax.Array) -> jax.Array:
  """The mask as bool, in the shape of `like`."""
  mask = jnp.asarray(mask)
  if mask.shape != like.shape:
    raise ValueError(f"mask expected shape {like.shape}, got {mask.shape}")
  return mask.astype(bool)


def tokenwise(advantages, like: jax.Array) -> jax.Array:
  """Advantages [...] of whole sequences spread over [..., T]; [..., T] stay as they are; no gradient either way."""
  (advantages,) = floats(advantages=advantages)
  if advantages.shape not in (like.shape, like.shape[:-1]):
    raise ValueError(f"advantages expected shape {like.shape} or {like.shape[:-1]}, got {advantages.shape}")
  if advantages.ndim < like.ndim:
    advantages = jnp.broadcast_to(advantages[..., None], like.shape)
  return jax.lax.stop_gradient(advantages)


def bounded(log_ratio: jax.Array, cap: float | None) -> jax.Array:
  """Clipped to ±cap nats, where its gradient ends too; two impossible tokens (-∞ - -∞) count as equal. None: as it is."""
  if cap is None:
    return log_ratio
  return jnp.clip(jnp.where(jnp.isnan(log_ratio), 0.0, log_ratio), -cap, cap)


def row_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """[..., T] -> [...]: the mean over a row's tokens, 0 for a row without any."""
  lengths = jnp.sum(mask, axis=-1).astype(values.dtype)
  return jnp.sum(jnp.where(mask, values, 0.0), axis=-1) / jnp.maximum(lengths, 1.0)
