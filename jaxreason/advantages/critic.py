"""Floor 0: advantages from a critic's values.

What enters: rewards and values per token, and the mask of the policy's tokens. What leaves: advantages and the returns that
the critic is trained towards. T tokens; leading axes are free.
"""

import jax
import jax.numpy as jnp

from jaxreason.advantages.statistics import recurrence, token_inputs
from jaxreason.inputs import floats, shaped


def gae(
  token_rewards: jax.Array,
  values: jax.Array,
  mask: jax.Array,
  valid: jax.Array | None = None,
  bootstrap_values: jax.Array | None = None,
  *,
  gamma: float = 1.0,
  lam: float = 0.95,
) -> tuple[jax.Array, jax.Array]:
  """Generalised advantage estimation.

    Âₜ = δₜ + γ λ Âₜ₊₁,   δₜ = rₜ + γ V(sₜ₊₁) - V(sₜ),   returns Âₜ + V(sₜ)

  t + 1 is the next unmasked token: what a tool said is passed over with no discount, as in verl and AReaL.

  Args:
    token_rewards: [..., T] float.
    values: [..., T] float, V before each token is taken.
    mask: [..., T] bool or 0/1, the policy's own tokens.
    valid: [...] bool, False for a sequence without a verdict: 0 everywhere. None: all.
    bootstrap_values: [...] float, V after the last token of a sequence that was cut off. None: 0, the end of the episode
      (verl; AReaL puts the last position's value here for sequences that fill the buffer).
    gamma: γ in [0, 1].
    lam: λ in [0, 1]; 0.95 in PPO's paper and TRL, 1 in verl and AReaL. At γ = λ = 1 an advantage is return less value.

  Returns:
    (advantages, returns), each [..., T] float32 (float64 for float64) and 0 where masked. Whitening is apart: see `whiten`
    (verl and TRL whiten advantages always; the returns are taken before).

  Raises:
    ValueError: integer rewards or values, or shapes that do not match.

  Source: Schulman et al. 2015, eq. 16, https://arxiv.org/abs/1506.02438; λ from Schulman et al. 2017.
  """
  mask, rewards, values = token_inputs("gae", mask, valid, token_rewards=token_rewards, values=values)
  dtype = jnp.promote_types(rewards.dtype, values.dtype)
  kept, values = mask.astype(dtype), values.astype(dtype)
  # V at the first unmasked token from t on, one place further: the value that follows t.
  from_here = recurrence(values, 1 - kept)
  last = jnp.zeros(mask.shape[:-1], dtype)
  if bootstrap_values is not None:
    (last,) = floats("gae", bootstrap_values=bootstrap_values)
    last = shaped("gae", mask.shape[:-1], bootstrap_values=last)[0].astype(dtype)
    from_here = from_here + jnp.where(_none_from_here(mask), last[..., None], 0)
  following = jnp.concatenate([from_here[..., 1:], last[..., None]], axis=-1)
  errors = jnp.where(mask, rewards + gamma * following - values, 0)
  advantages = jnp.where(mask, recurrence(errors, jnp.where(mask, gamma * lam, 1.0).astype(dtype)), 0)
  return advantages, advantages + values


def _none_from_here(mask):
  """[..., T] bool: no unmasked token at t or after it."""
  return jnp.flip(jnp.cumsum(jnp.flip(mask, -1), axis=-1), -1) == 0
