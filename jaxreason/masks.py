"""Floor 0, masks: reductions of per-token values.

What enters: values and a mask, [B, T] each. What leaves: a pair (sum, denominator), both float32 scalars; the caller
divides once, at the end. Sums add over micro-batches and devices and a denominator depends on the mask alone, so any
split of a batch gives the same step.
"""

import jax
import jax.numpy as jnp


def token_mean(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Every token of the batch weighs the same.

    Σᵢₜ mᵢₜ xᵢₜ  over  Σᵢₜ mᵢₜ

  Args:
    values: [B, T] float.
    mask: [B, T] bool or 0/1; values where it is 0 are never read, non-finite ones included.

  Returns:
    (sum, denominator), float32 scalars. The denominator of an empty mask is 0: divide with `divide`.

  Source: DAPO, Yu et al. 2025, eq. 8, https://arxiv.org/abs/2503.14476 (the mean over the tokens of the batch).
  """
  return jnp.sum(_masked(values, mask)), jnp.sum(mask.astype(jnp.float32))


def sequence_mean(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Every sequence weighs the same, and its tokens share that weight.

    Σᵢ (Σₜ mᵢₜ xᵢₜ / Σₜ mᵢₜ)  over  the number of sequences with a token

  Args:
    values: [B, T] float.
    mask: [B, T] bool or 0/1.

  Returns:
    (sum, denominator), float32 scalars.

  Source: GRPO, Shao et al. 2024, eq. 3, https://arxiv.org/abs/2402.03300. Fully masked sequences are left out of the
  denominator (as verl and OpenRLHF do; TRL counts them).
  """
  lengths = jnp.sum(mask.astype(jnp.float32), axis=-1)
  means = jnp.sum(_masked(values, mask), axis=-1) / jnp.maximum(lengths, 1.0)
  return jnp.sum(means), jnp.sum((lengths > 0).astype(jnp.float32))


def constant_norm(values: jax.Array, mask: jax.Array, *, length: float) -> tuple[jax.Array, jax.Array]:
  """Token sums over a constant: neither long nor short answers are favoured.

    Σᵢₜ mᵢₜ xᵢₜ  over  length · the number of sequences with a token

  Args:
    values: [B, T] float.
    mask: [B, T] bool or 0/1.
    length: tokens, the completion budget.

  Returns:
    (sum, denominator), float32 scalars.

  Source: Dr. GRPO, Liu et al. 2025, section 3.2, https://arxiv.org/abs/2503.20783.
  """
  present = jnp.any(mask.astype(bool), axis=-1)
  return jnp.sum(_masked(values, mask)), length * jnp.sum(present.astype(jnp.float32))


def divide(total: jax.Array, denominator: jax.Array) -> jax.Array:
  """total / denominator, and 0 where the denominator is 0 (an empty mask), with a finite gradient."""
  return jnp.where(denominator > 0, total / jnp.where(denominator > 0, denominator, 1.0), 0.0)


def _masked(values, mask):
  return jnp.where(mask.astype(bool), values, 0.0).astype(jnp.float32)
