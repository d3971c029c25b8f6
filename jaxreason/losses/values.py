"""Floor 0, losses: the critic's loss, one value per token.

What enters: predicted values, those predicted when the batch was made, and returns. What leaves: the token's loss.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import same_shape


def value_loss(
  values: jax.Array,
  old_values: jax.Array,
  returns: jax.Array,
  *,
  clip: float | None = 0.5,
  huber_delta: float | None = None,
) -> jax.Array:
  """The worse of two errors: of the prediction, and of the prediction kept near the old one.

    Lₜ = max(ℓ(Vₜ - Gₜ), ℓ(V_old + clip(Vₜ - V_old, -c, c) - Gₜ)),   ℓ(e) = e²/2, or Huber's

  Huber's ℓ(e) = e²/2 for |e| <= δ, else δ (|e| - δ/2).

  Args:
    values: [..., T] float, V. Gradients flow here only.
    old_values: [..., T] float, V_old.
    returns: [..., T] float, G.
    clip: c >= 0, in units of reward (verl and AReaL: 0.5; TRL's PPO and baselines: 0.2), or None for no clip.
    huber_delta: δ > 0 (AReaL's: 10), or None for the square.

  Returns:
    [..., T] float32, to be minimised; the half of the square is in it, as in verl.

  Source: the clip is that of OpenAI's baselines (ppo2, 2017), examined in Engstrom et al. 2020,
  https://arxiv.org/abs/2005.12729; Huber 1964, https://doi.org/10.1214/aoms/1177703732.
  """
  values, old_values, returns = same_shape("value_loss", values=values, old_values=old_values, returns=returns)
  old_values, returns = jax.lax.stop_gradient((old_values, returns))
  free = _error(values - returns, huber_delta)
  if clip is None:
    return free
  return jnp.maximum(free, _error(old_values + jnp.clip(values - old_values, -clip, clip) - returns, huber_delta))


def _error(e, huber_delta):
  if huber_delta is None:
    return jnp.square(e) / 2
  size = jnp.abs(e)
  return jnp.where(size <= huber_delta, jnp.square(jnp.minimum(size, huber_delta)) / 2, huber_delta * (size - huber_delta / 2))
