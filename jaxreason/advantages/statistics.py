"""Floor 0: what advantages are centred and divided by, counted over the valid entries alone.

What enters: values, which of them are valid, and the axes to look over. What leaves: centred values, deviations, returns.
Whatever lies at an invalid entry, NaN included, is never read. P prompts, G samples, T tokens.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import flags, floats, shaped


def group_inputs(function: str, rewards: jax.Array, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """Rewards [..., P, G] and their validity, checked; rewards are 0 where they are not valid. NaN is no verdict, as in TRL.

  Returns:
    (rewards, valid): in float32, or in float64 where that came; bool.

  Raises:
    ValueError: rewards that are no floats, have fewer than two axes or an empty group, or another shape than `valid`.
  """
  (rewards,) = floats(function, rewards=rewards)
  if rewards.ndim < 2 or not rewards.shape[-1]:
    raise ValueError(f"{function} expected rewards [..., P, G] with G >= 1, got shape {rewards.shape}; reshape them by group")
  (valid,) = flags(function, rewards.shape, valid=jnp.ones(rewards.shape, bool) if valid is None else valid)
  valid = valid & ~jnp.isnan(rewards)
  return jnp.where(valid, rewards, 0), valid


def token_inputs(function: str, mask: jax.Array, valid: jax.Array | None, **values: jax.Array) -> tuple[jax.Array, ...]:
  """Values [..., T] of one shape and their mask, which `valid` [...] empties for whole sequences; checked as above.

  Returns:
    (mask, value, ...): bool; float32 or float64, 0 where masked.
  """
  mask = jnp.asarray(mask)
  if not mask.ndim or not mask.shape[-1]:
    raise ValueError(f"{function} expected a mask [..., T] with T >= 1, got shape {mask.shape}; give each row a token")
  mask = mask.astype(bool)
  if valid is not None:
    (valid,) = flags(function, mask.shape[:-1], valid=valid)
    mask = mask & valid[..., None]
  checked = shaped(function, mask.shape, **dict(zip(values, floats(function, **values), strict=True)))
  return (mask, *(jnp.where(mask, value, 0) for value in checked))


def centre(values: jax.Array, valid: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
  """values - their mean over the valid entries of `axis`, and 0 at the others.

  Exactly 0 where the valid values are equal, or apart by float noise alone (4 units in the last place), so that no small
  deviation blows a rounding up: distances from the smallest value are averaged, not the values.
  """
  low, high = _extremes(values, valid, axis)
  distances = jnp.where(valid, values - low, 0)
  mean = jnp.sum(distances, axis=axis, keepdims=True) / jnp.maximum(count(valid, axis, values.dtype), 1)
  noise = 4 * jnp.finfo(values.dtype).eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
  return jnp.where(valid & (high - low > noise), distances - mean, 0)


def deviation(centred: jax.Array, valid: jax.Array, axis: int | tuple[int, ...] = -1, *, ddof: int = 1, variance_eps=0.0):
  """√(Σ x² / (n - ddof) + variance_eps) over the valid entries, 0 under the root with a finite gradient."""
  squares = jnp.sum(jnp.where(valid, jnp.square(centred), 0), axis=axis, keepdims=True)
  return root(squares / jnp.maximum(count(valid, axis, centred.dtype) - ddof, 1) + variance_eps)


def count(valid: jax.Array, axis: int | tuple[int, ...], dtype) -> jax.Array:
  """How many entries are valid, kept as axes of length 1."""
  return jnp.sum(valid, axis=axis, keepdims=True).astype(dtype)


def root(values: jax.Array) -> jax.Array:
  """√values, with gradient 0 where a value is 0."""
  return jnp.where(values > 0, jnp.sqrt(jnp.where(values > 0, values, 1)), 0)


def quotient(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """numerator / denominator, and 0 where the denominator is 0."""
  return jnp.where(denominator != 0, numerator / jnp.where(denominator != 0, denominator, 1), 0)


def whiten(
  values: jax.Array,
  mask: jax.Array,
  *,
  axis: int | tuple[int, ...] = (-2, -1),
  shift_mean: bool = True,
  ddof: int = 1,
  variance_eps: float = 1e-8,
  eps: float = 0.0,
) -> jax.Array:
  """Values with mean 0 and variance 1 over the valid entries of a batch.

    (x - mean(x)) / (√(var(x) + ε_var) + ε)

  Args:
    values: [..., B, T] advantages per token, or [..., P, G] per sample.
    mask: of the same shape, bool or 0/1.
    axis: the axes that make up the batch.
    shift_mean: False divides only.
    ddof: what is taken off the count in the variance; 1 in verl, AReaL and TRL's PPO.
    variance_eps: ε_var, 1e-8 in verl and TRL's PPO.
    eps: ε. TRL and AReaL add theirs here (1e-4, 1e-5) and have no ε_var.

  Returns:
    float32 (float64 for float64), 0 where the mask is 0. With `shift_mean`, exactly 0 where all values are equal.

  Raises:
    ValueError: integer values, or another shape of the mask.

  Source: Andrychowicz et al. 2020, https://arxiv.org/abs/2006.05990 (per-minibatch advantage normalisation).
  """
  (values,) = floats("whiten", values=values)
  (mask,) = flags("whiten", values.shape, mask=mask)
  if values.ndim < (1 if isinstance(axis, int) else len(axis)):
    raise ValueError(f"whiten expected values with the axes {axis}, got shape {values.shape}; give axis=-1 for one row")
  values = jnp.where(mask, values, 0)
  centred = centre(values, mask, axis)
  scale = deviation(centred, mask, axis, ddof=ddof, variance_eps=variance_eps) + eps
  return quotient(centred if shift_mean else values, scale)


def returns_to_go(
  token_rewards: jax.Array, mask: jax.Array, valid: jax.Array | None = None, *, gamma: float = 1.0
) -> jax.Array:
  """The discounted rewards from each token on.

    Gₜ = rₜ + γ Gₜ₊₁, where t + 1 is the next unmasked token

  Args:
    token_rewards: [..., T] float.
    mask: [..., T] bool or 0/1. Masked tokens (padding, what a tool said) take no discount (verl until January 2026 started
      anew after each of them).
    valid: [...] bool, False for a sequence without a verdict: 0 everywhere. None: all.
    gamma: γ in [0, 1].

  Returns:
    [..., T] float32 (float64 for float64), 0 where masked.

  Raises:
    ValueError: integer rewards, or shapes that do not match.
  """
  mask, rewards = token_inputs("returns_to_go", mask, valid, token_rewards=token_rewards)
  return jnp.where(mask, recurrence(rewards, jnp.where(mask, gamma, 1.0).astype(rewards.dtype)), 0)


def recurrence(additions: jax.Array, factors: jax.Array) -> jax.Array:
  """xₜ = aₜ + cₜ xₜ₊₁ from the end, where x is 0: [..., T] of both.

  In log T steps, which an accelerator takes sooner than T; and with no carry, which shard_map would want typed.
  """

  def join(later, sooner):
    (later_factor, later_sum), (factor, total) = later, sooner
    return factor * later_factor, total + factor * later_sum

  return jax.lax.associative_scan(join, (factors, additions), axis=additions.ndim - 1, reverse=True)[1]


def _extremes(values, valid, axis):
  """The smallest and largest valid value, 0 where there is none; constants of any gradient."""
  infinity = jnp.asarray(jnp.inf, values.dtype)
  low = jnp.min(jnp.where(valid, values, infinity), axis=axis, keepdims=True, initial=infinity)
  high = jnp.max(jnp.where(valid, values, -infinity), axis=axis, keepdims=True, initial=-infinity)
  some = jnp.any(valid, axis=axis, keepdims=True)
  return jax.lax.stop_gradient((jnp.where(some, low, 0), jnp.where(some, high, 0)))
