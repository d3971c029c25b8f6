"""Floor 0, truncation: which tokens a sampler with top-k, top-p and min-p keeps. The sampler draws from them, and
`logprobs` says how much of the policy's mass they have; both ask here, so that they always mean the same tokens.

What enters: weights exp((logit - max logit) / temperature), likeliest token 1, and the parameters of each row, all traced.
What leaves: the smallest weight that is kept. Nothing is sorted: a threshold is bisected with reductions over the
vocabulary alone, which shard. V vocab.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Cut(NamedTuple):
  """What a sampler keeps, one for all rows; hashable, so that it may be a static argument. None truncates nothing."""

  top_k: int | None = None  # at least 1
  top_p: float | None = None  # (0, 1]
  min_p: float | None = None  # [0, 1), of the likeliest token's probability


def smallest_kept(weights: jax.Array, top_k=None, top_p=None, min_p=None, *, vocab_axis: str | None = None) -> jax.Array:
  """The weight from which on tokens are kept: top-k, then top-p among what top-k left, then min-p.

    max(k-th largest w, the largest x with Σ w·1[w >= x] >= top_p · (mass that top-k left), min_p)

  Tokens of equal weight are kept or dropped together. Top-p keeps the token with which the mass reaches top_p.

  Args:
    weights: [..., V] float32 in [0, 1], the likeliest token's is 1; inside `shard_map`, this device's part of them.
    top_k: [...] int, 0 for all; None for all rows.
    top_p: [...] float in (0, 1], 1 for all; None for all rows.
    min_p: [...] float in [0, 1), of the likeliest token's weight, 0 for all; None for all rows.
    vocab_axis: the mesh axis over which `shard_map` has cut V, if any.

  Returns:
    [...] float32: tokens with `weights >=` it are kept, always one at least. No gradient.

  Source: Fan et al. 2018, https://arxiv.org/abs/1805.04833 (top-k); Holtzman et al. 2020,
  https://arxiv.org/abs/1904.09751 (top-p); Nguyen et al. 2024, https://arxiv.org/abs/2407.01082 (min-p). transformers
  has the same order and keeps ties of top-k as here; of ties at top-p it keeps as many as a sort puts first.
  """
  weights = jax.lax.stop_gradient(weights)
  total = functools.partial(jnp.sum, axis=-1)
  if vocab_axis is not None:
    total = lambda x: jax.lax.psum(jnp.sum(x, axis=-1), vocab_axis)
  threshold = jnp.zeros_like(weights, shape=weights.shape[:-1])
  if top_k is not None:
    count = total(jnp.ones_like(weights, dtype=jnp.int32))
    k = jnp.where(top_k > 0, jnp.minimum(top_k, count), count)
    threshold = _largest(lambda x: total((weights >= x[..., None]).astype(jnp.int32)) >= k, threshold)
  if top_p is not None:
    kept = jnp.where(weights >= threshold[..., None], weights, 0.0)
    # A hair under p of the mass, so that a rounding of the sums keeps no token too many or too few.
    enough = top_p * total(kept) * (1 - 1e-6)
    by_p = _largest(lambda x: total(jnp.where(kept >= x[..., None], kept, 0.0)) >= enough, threshold)
    threshold = jnp.where(top_p >= 1, threshold, jnp.maximum(threshold, by_p))
  return threshold if min_p is None else jnp.maximum(threshold, min_p)


def _largest(holds, like):
  """The largest float32 in [0, 1] that `holds`, where 0 does: bisects their bit patterns, which are in the floats' order."""
  one = 0x3F800000
  low = jnp.zeros_like(like, dtype=jnp.int32)
  as_float = lambda bits: jax.lax.bitcast_convert_type(bits, jnp.float32)

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) // 2
    good = holds(as_float(middle))
    return jnp.where(good, middle, low), jnp.where(good, high, middle)

  # `one` < 2³⁰, so thirty halvings leave a single pattern, and no sum of two overflows.
  return as_float(jax.lax.fori_loop(0, 30, halve, (low, low + one + 1))[0])
