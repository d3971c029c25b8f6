"""Floor 2: the explicit key/value cache, in two parts.

What enters: new keys and values of some tokens. What leaves: the cache with them written. A row's own part holds its tokens
in order from slot 0, `used` of them; the prefix part, if there is one, holds prompts that several rows read: N prompts
for B = N·g rows, row b reads prompt b // g. Keys carry their rotation. A query sees all of its prefix and its own part up to
itself.

Per layer the layout is [B, K, S, H], sequence inside head, which is what the kernels of GPU and TPU want; where plain XLA
attends, keys are [B, K, H, S], which it multiplies twice as fast on CPU. The layers are separate arrays: a cache that is
threaded through `lax.scan` is copied whole at every step. B sequences, N prompts, K kv heads, S slots, H head dim, T tokens.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxreason.model.config import ModelConfig

SLOTS = 2  # the axis of slots in values, and in keys that a kernel reads
SLOTS_LAST = 3  # in keys that plain XLA reads


@struct.dataclass
class Prefix:
  """Keys and values of N prompts in every layer, read by several rows each and written by none."""

  keys: tuple[jax.Array, ...]  # L arrays [N, K, S, H] or [N, K, H, S]
  values: tuple[jax.Array, ...]  # L arrays [N, K, S, H]
  lengths: jax.Array  # [N] int32, tokens held, from slot 0 on
  axis: int = struct.field(pytree_node=False, default=SLOTS)  # of slots in keys: SLOTS or SLOTS_LAST


@struct.dataclass
class Cache:
  """Keys and values of every layer for B sequences."""

  keys: tuple[jax.Array, ...]  # L arrays [B, K, S, H] or [B, K, H, S]
  values: tuple[jax.Array, ...]  # L arrays [B, K, S, H]
  used: jax.Array  # [B] int32, tokens held, from slot 0 on; the next token is written there
  prefix: Prefix | None = None  # what rows b·g to b·g + g - 1 have before their own tokens
  axis: int = struct.field(pytree_node=False, default=SLOTS)  # of slots in keys: SLOTS or SLOTS_LAST


def empty(config: ModelConfig, batch: int, slots: int, dtype=jnp.float32) -> Cache:
  """A cache for `batch` sequences of up to `slots` tokens, without prefix, as the configuration's kernel reads it."""
  axis = SLOTS_LAST if config.decode_kernel == "einsum" else SLOTS
  shape = lambda axis: (batch, config.kv_heads, *((slots, config.head_dim) if axis == SLOTS else (config.head_dim, slots)))
  return Cache(
    keys=tuple(jnp.zeros(shape(axis), dtype) for _ in range(config.layers)),
    values=tuple(jnp.zeros(shape(SLOTS), dtype) for _ in range(config.layers)),
    used=jnp.zeros((batch,), jnp.int32),
    axis=axis,
  )


def width(part: Cache | Prefix) -> int:
  """S, static."""
  return part.values[0].shape[SLOTS]


def reach(cache: Cache) -> int:
  """Positions that a row can hold, its prefix's among them: static."""
  return width(cache) + (width(cache.prefix) if cache.prefix else 0)


def write(array_BKSH: jax.Array, new_BTKH: jax.Array, at_B: jax.Array, axis: int = SLOTS) -> jax.Array:
  """Writes T new entries of each row from that row's slot on; the caller leaves room (a write past the end would move back)."""

  def row(array, new, at):
    return jax.lax.dynamic_update_slice(array, new.astype(array.dtype), (0, at, 0) if axis == SLOTS else (0, 0, at))

  return jax.vmap(row)(array_BKSH, by_head(new_BTKH, axis), at_B)


def by_head(new_BTKH: jax.Array, axis: int = SLOTS) -> jax.Array:
  """[B, K, T, H], or [B, K, H, T]."""
  return jnp.transpose(new_BTKH, (0, 2, 1, 3) if axis == SLOTS else (0, 2, 3, 1))


def resized(array_NKSH: jax.Array, slots: int, axis: int = SLOTS) -> jax.Array:
  """The array with `slots` slots: blank ones added behind, or the last ones left out."""
  more = slots - array_NKSH.shape[axis]
  if more <= 0:
    return jax.lax.slice_in_dim(array_NKSH, 0, slots, axis=axis)
  return jnp.pad(array_NKSH, [(0, more if axis == each else 0) for each in range(4)])
