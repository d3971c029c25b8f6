"""Floor 0, inputs: what every function of arrays does to its arguments first.

What enters: arrays as users have them, and the name of the function that takes them. What leaves: the arrays in float32
(float64 stays: half precision is widened, because ratios are exponentials of small differences and sums are long), masks as
bool, log-probabilities without infinities; or a ValueError that says what was expected, what came and what to change.
Nothing broadcasts in silence, and no integer passes for a reward.
"""

import jax
import jax.numpy as jnp

# Nats that log-probabilities are held to, far beyond those of any answer, so that no infinity meets a zero or another one.
HELD = 1e6


def floats(function: str, **arrays) -> list[jax.Array]:
  """The arrays, at least float32 each; integers and booleans are an error."""
  found = []
  for name, array in arrays.items():
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(f"{function} expected {name} of a float dtype, got {array.dtype}; cast it to float32")
    found.append(_widened(array))
  return found


def counts(function: str, **arrays) -> list[jax.Array]:
  """Numbers of tokens, which may be integers, in float32 or float64: half precision does not hold 2,049."""
  found = []
  for name, array in arrays.items():
    array = jnp.asarray(array)
    if not (jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
      raise ValueError(f"{function} expected {name} in tokens, as integers or floats, got {array.dtype}; cast it to int32")
    found.append(_widened(array))
  return found


def shaped(function: str, shape: tuple[int, ...], **arrays) -> list[jax.Array]:
  """The arrays, each of this shape, of whatever dtype."""
  found = {name: jnp.asarray(array) for name, array in arrays.items()}
  for name, array in found.items():
    if array.shape != shape:
      raise ValueError(f"{function} expected {name} of shape {shape}, got {array.shape}; reshape it or broadcast it first")
  return list(found.values())


def flags(function: str, shape: tuple[int, ...], **arrays) -> list[jax.Array]:
  """Masks, of bool or of 0 and 1, as bool."""
  return [array.astype(bool) for array in shaped(function, shape, **arrays)]


def with_axes(function: str, form: str, **arrays) -> None:
  """Each array has at least the axes of a form like "[..., B, T]"."""
  least = form.count(",") if "..." in form else form.count(",") + 1
  for name, array in arrays.items():
    if array.ndim < least:
      raise ValueError(f"{function} expected {name} {form}, got shape {array.shape}; reshape it")


def same_shape(function: str, **arrays) -> list[jax.Array]:
  """`floats`, all of one shape."""
  found = floats(function, **arrays)
  if len({array.shape for array in found}) > 1:
    shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(arrays, found, strict=True))
    raise ValueError(f"{function} expected arrays of one shape, got {shapes}; reshape them or broadcast them first")
  return found


def log_probabilities(function: str, **arrays) -> list[jax.Array]:
  """`same_shape`, in nats, held: two impossible tokens are equally likely, and neither has a gradient."""
  return [held(array) for array in same_shape(function, **arrays)]


def held(logprobs: jax.Array) -> jax.Array:
  """Log-probabilities, or differences of them, within ±HELD, where the gradient ends too."""
  return jnp.clip(logprobs, -HELD, HELD)


def one_of(function: str, options: tuple, **choices) -> None:
  """Each choice is one of the options."""
  for name, choice in choices.items():
    if choice not in options:
      named = ", ".join(map(repr, options[:-1])) + f" or {options[-1]!r}"
      raise ValueError(f"{function} expected {name} {named}, got {choice!r}")


def _widened(array):
  return array.astype(jnp.promote_types(array.dtype, jnp.float32))
