"""Floor 0, sampling: from logits and one uniform a row to a token.

What enters: logits, a uniform in [0, 1) and per-row sampling parameters, all traced, so that changing them compiles
nothing. What leaves: the token, the policy's log-probability of it, and the log of the mass that truncation kept.

The draw is a two-level inverse CDF: sums of blocks of the vocabulary, then one block. It needs one uniform a row rather
than a Gumbel a logit, and the log-probability falls out. B rows, V vocab.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxreason import truncation

_BLOCK = 256


class Sampling(NamedTuple):
  """Per-row parameters. temperature 0 is argmax; top_p 1, top_k 0 and min_p 0 truncate nothing."""

  temperature: jax.Array  # [B] float32, >= 0
  top_p: jax.Array  # [B] float32, (0, 1]
  top_k: jax.Array  # [B] int32, 0 for off
  min_p: jax.Array  # [B] float32, [0, 1)


def sample_key(root: jax.Array, visit_id: jax.Array, sample: jax.Array) -> jax.Array:
  """The key of one sample, named by what it is: fold_in(fold_in(root, visit_id), sample).

  Args:
    root: typed PRNG key of the run.
    visit_id: [] int32, the prompt's position in the endless data stream, new in each epoch and on a retry.
    sample: [] int32, which of the group's samples.
  """
  return jax.random.fold_in(jax.random.fold_in(root, visit_id), sample)


def token_uniform(key: jax.Array, position: jax.Array) -> jax.Array:
  """The uniform in [0, 1) that draws completion token `position` of a sample: no slot, batch or device enters it."""
  return jax.random.uniform(jax.random.fold_in(key, position))


def sample(logits: jax.Array, uniform: jax.Array, sampling: Sampling, *, truncate: bool = True, banned=None):
  """One token per row.

  The order is: banned tokens out, temperature, top-k, top-p among what top-k left, min-p (relative to the likeliest token that
  is not banned). Thresholds are of the tokens that may be drawn, so that no row is left without one and k of them stay: as
  in transformers, whose minimum of new tokens is a processor before its warpers.

  Args:
    logits: [B, V] float.
    uniform: [B] float32 in [0, 1).
    sampling: per-row parameters.
    truncate: static; False skips the thresholds when no row truncates.
    banned: None, or (rows [B] bool, ids [E] int32): tokens that are not drawn in these rows, by argmax neither, such as the
      stop tokens of an answer that is too short to end. Ids may be repeated; those outside [0, V), -1 among them, ban nothing.
      Some token is left. Where no row is banned, results are to the bit those of None.

  Returns:
    token: [B] int32.
    logprob: [B] float32, nats: log π(token) of the tempered policy, untruncated and with nothing banned (temperature 1 for
      argmax rows).
    log_mass: [B] float32, nats: log of the policy's mass on the tokens that could be drawn; logprob - log_mass is the exact
      log-probability of the sampler. 0 for argmax rows.
  """
  greedy = sampling.temperature <= 0
  temperature = jnp.where(greedy, 1.0, sampling.temperature)
  given = logits
  if banned is not None:
    # From here on the program is the one without bans, to which the barrier holds the compiler too.
    logits = jax.lax.optimization_barrier(jnp.where(_banned(*banned, logits.shape[-1]), -jnp.inf, logits))
  scaled = _relative(logits, temperature)
  weights = jnp.exp(scaled)
  total = jnp.sum(weights, axis=-1)
  kept = weights
  if truncate:
    smallest = truncation.smallest_kept(weights, sampling.top_k, sampling.top_p, sampling.min_p)
    kept = jnp.where(weights >= smallest[:, None], weights, 0.0)
  mass = jnp.sum(kept, axis=-1)
  token = jnp.where(greedy, _argmax(logits), _inverse_cdf(kept, uniform))
  logprob = jnp.take_along_axis(scaled, token[:, None], axis=-1)[:, 0] - jnp.log(total)
  log_mass = jnp.log(mass) - jnp.log(total)
  if banned is not None:
    left = _log_left(given, logits, temperature, total)
    logprob, log_mass = logprob + left, log_mass + left
  return token.astype(jnp.int32), logprob, jnp.where(greedy, 0.0, log_mass)


def _relative(logits, temperature):
  """[B, V] float32, relative to the likeliest token and tempered."""
  return (logits.astype(jnp.float32) - jnp.max(logits, axis=-1, keepdims=True).astype(jnp.float32)) / temperature[:, None]


def _banned(rows_B, ids_E, V: int):
  """[B, V] bool. The ids are marked once, [V], whatever their number."""
  marked = jnp.zeros(V, bool).at[jnp.where(ids_E < 0, V, ids_E)].set(True, mode="drop")
  return rows_B[:, None] & marked[None]


def _log_left(given, logits, temperature, total):
  """[B], nats: log of the policy's mass on the tokens that are not banned, whose weights sum to `total`; 0 where none is."""
  drop = jnp.max(given, axis=-1).astype(jnp.float32) - jnp.max(logits, axis=-1).astype(jnp.float32)
  left = jnp.log(total) - drop / temperature - jnp.log(jnp.sum(jnp.exp(_relative(given, temperature)), axis=-1))
  return jnp.where(jnp.any(given != logits, axis=-1), left, 0.0)


def _blocks(x_BV, fill: float):
  """[B, blocks, entries of a block]: a power of two from 64 to 256 where one divides V, else 256 and the last block filled up,
  which takes a copy."""
  B, V = x_BV.shape
  size = math.gcd(V, _BLOCK) if math.gcd(V, _BLOCK) >= 64 else _BLOCK
  return jnp.pad(x_BV, ((0, 0), (0, -V % size)), constant_values=fill).reshape(B, -1, size)


def _argmax(logits_BV):
  """[B], the first of the largest."""
  return jax.lax.platform_dependent(logits_BV, cpu=_argmax_by_blocks, default=lambda logits: jnp.argmax(logits, axis=-1))


def _argmax_by_blocks(logits_BV):
  """20 times faster on CPU, where a search among all entries is a loop of one thread; a TPU would copy the logits for it."""
  blocks = _blocks(logits_BV, -jnp.inf)
  block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
  inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
  return block * blocks.shape[-1] + jnp.argmax(inside, axis=-1)


def _inverse_cdf(weights_BV, uniform_B):
  """The first token at which the running sum passes uniform · total; never one of weight 0."""
  padded = _blocks(weights_BV, 0.0)
  sums = jnp.sum(padded, axis=-1)
  ends = _running_sums(sums)
  target = uniform_B * ends[:, -1]
  block = _pick(ends, sums, target)
  before = jnp.take_along_axis(ends - sums, block[:, None], axis=-1)[:, 0]
  inside = jnp.take_along_axis(padded, block[:, None, None], axis=1)[:, 0]
  return block * padded.shape[-1] + _pick(_running_sums(inside), inside, target - before)


def _running_sums(x_BN):
  """Sums up to each entry, as a product with a triangle of ones: on GPUs one kernel where a cumulative sum is several, and
  one that XLA compiles (jaxlib 0.11.2 fails on a cumulative sum fused with the sum of a single row).
  """
  triangle = jnp.triu(jnp.ones((x_BN.shape[-1],) * 2, x_BN.dtype))
  return jnp.dot(x_BN, triangle, precision=jax.lax.Precision.HIGHEST)


def _pick(ends, weights, target):
  """The first entry with weight whose running sum passes target, or the last with weight where rounding leaves none.

  Sums added up in different orders differ by a rounding, so a target may seem to lie before its block or on an entry
  without weight: those are passed over.
  """
  there = weights > 0
  passed = there & (ends > target[:, None])
  last = weights.shape[-1] - 1 - jnp.argmax(there[:, ::-1], axis=-1)
  return jnp.where(jnp.any(passed, axis=-1), jnp.argmax(passed, axis=-1), last)
