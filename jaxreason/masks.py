"""Floor 0, masks: reductions of per-token values.

What enters: values and a mask, [B, T] each (other leading axes are free). What leaves: a pair (sum, denominator), both
float32 scalars (float64 of float64); the caller divides once, at the end. Sums add over micro-batches and devices and a
denominator depends on the mask alone, so any split of a batch gives the same step. A loss of whole answers, [B], is a
`masked_mean` over the answers that have a token.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import flags, shaped, with_axes


def masked_mean(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Σ m x over Σ m, whatever the axes are: tokens [B, T], or answers [B].

  Args:
    values: [...] float.
    mask: [...] bool or 0/1; values where it is 0 are never read, non-finite ones included.

  Returns:
    (sum, denominator), float32 scalars. The denominator of an empty mask is 0: divide with `divide`.
  """
  values, mask = _masked("masked_mean", values, mask, form="[...]")
  return jnp.sum(values), jnp.sum(mask)


def token_mean(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Every token of the batch weighs the same.

    Σᵢₜ mᵢₜ xᵢₜ  over  Σᵢₜ mᵢₜ

  Args:
    values: [B, T] float.
    mask: [B, T] bool or 0/1; values where it is 0 are never read, non-finite ones included.

  Returns:
    (sum, denominator), float32 scalars.

  Source: DAPO, Yu et al. 2025, section 3.3, eq. 12, https://arxiv.org/abs/2503.14476, as systems read it: its equation
  divides by the tokens of one prompt's answers, which is `prompt_mean`. verl's "token-mean" (its default), TRL's "dapo"
  (its default; "bnpo" is the mean over a micro-batch), AReaL's only one.
  """
  return masked_mean(values, mask)


def sequence_mean(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Every sequence weighs the same, and its tokens share that weight.

    Σᵢ (Σₜ mᵢₜ xᵢₜ / Σₜ mᵢₜ)  over  the number of sequences with a token

  Args:
    values: [B, T] float.
    mask: [B, T] bool or 0/1.

  Returns:
    (sum, denominator), float32 scalars.

  Source: GRPO, Shao et al. 2024, eq. 3, https://arxiv.org/abs/2402.03300. Fully masked sequences are left out of the
  denominator (as verl's "seq-mean-token-mean" and OpenRLHF do; TRL's "grpo" counts them).
  """
  values, mask = _masked("sequence_mean", values, mask)
  lengths = jnp.sum(mask, axis=-1)
  return jnp.sum(jnp.sum(values, axis=-1) / jnp.maximum(lengths, 1.0)), _present(lengths)


def sequence_sum(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Every sequence counts with the sum of its tokens, so a longer one weighs more.

    Σᵢₜ mᵢₜ xᵢₜ  over  the number of sequences with a token

  Args:
    values: [B, T] float.
    mask: [B, T] bool or 0/1.

  Returns:
    (sum, denominator), float32 scalars. verl's "seq-mean-token-sum"; TRL's "luspo" counts fully masked sequences too.
  """
  values, mask = _masked("sequence_sum", values, mask)
  return jnp.sum(values), _present(jnp.sum(mask, axis=-1))


def constant_norm(values: jax.Array, mask: jax.Array, *, length: float) -> tuple[jax.Array, jax.Array]:
  """Token sums over a constant: neither long nor short answers are favoured.

    Σᵢₜ mᵢₜ xᵢₜ  over  length · the number of sequences with a token

  Args:
    values: [B, T] float.
    mask: [B, T] bool or 0/1.
    length: tokens, the completion budget.

  Returns:
    (sum, denominator), float32 scalars.

  Source: Dr. GRPO, Liu et al. 2025, section 3.2, https://arxiv.org/abs/2503.20783. verl's "seq-mean-token-sum-norm" divides
  by the batch's width unless told otherwise; TRL's "dr_grpo" counts fully masked sequences too.
  """
  total, present = sequence_sum(values, mask)
  return total, length * present


def prompt_mean(values: jax.Array, mask: jax.Array, *, prompt_tokens: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Every prompt weighs the same, and the tokens of all its answers share that weight.

    Σₚ (Σ_gt m xₚ_gt / Nₚ)  over  the number of prompts with a token,   Nₚ = Σ_gt mₚ_gt

  Args:
    values: [P, G, T] float: P prompts of G answers; any [..., T] with `prompt_tokens`.
    mask: like values, bool or 0/1.
    prompt_tokens: [P, G] (values without their last axis), tokens in all answers to the row's prompt. With it a batch may
      be cut anywhere, through groups too, and the parts' sums and denominators still add up to the whole's.

  Returns:
    (sum, denominator), float32 scalars. A row's part of the denominator is its share of its prompt's tokens.

  Source: ScaleRL, Khatri et al. 2025, section 3.2 ("prompt average", which it finds in DAPO's equation),
  https://arxiv.org/abs/2510.13786.
  """
  values, mask = _masked("prompt_mean", values, mask)
  lengths = jnp.sum(mask, axis=-1)
  if prompt_tokens is None:
    if values.ndim < 3:
      raise ValueError(f"prompt_mean expected values [P, G, T], got shape {values.shape}; reshape them or give prompt_tokens")
    prompt_tokens = jnp.broadcast_to(jnp.sum(lengths, axis=-1, keepdims=True), lengths.shape)
  (prompt_tokens,) = shaped("prompt_mean", lengths.shape, prompt_tokens=prompt_tokens)
  share = 1 / jnp.maximum(prompt_tokens.astype(values.dtype), 1.0)
  return jnp.sum(jnp.sum(values, axis=-1) * share), jnp.sum(lengths * share)


def divide(total: jax.Array, denominator: jax.Array) -> jax.Array:
  """total / denominator in float32 or finer, and 0 where the denominator is 0 (an empty mask), with a finite gradient."""
  total, denominator = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in map(jnp.asarray, (total, denominator)))
  return jnp.where(denominator > 0, total / jnp.where(denominator > 0, denominator, 1.0), 0.0)


def _masked(function, values, mask, form="[..., T]"):
  """Both in the sum's dtype, at least float32; values are 0 where the mask is."""
  values = jnp.asarray(values)
  (mask,) = flags(function, values.shape, mask=mask)
  with_axes(function, form, values=values)
  dtype = jnp.promote_types(values.dtype, jnp.float32)
  return jnp.where(mask, values.astype(dtype), 0.0), mask.astype(dtype)


def _present(lengths):
  """How many sequences have a token."""
  return jnp.sum((lengths > 0).astype(lengths.dtype))
