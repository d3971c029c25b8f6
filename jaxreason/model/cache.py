"""Floor 2: the explicit key/value cache, in two parts.

What enters: new keys and values of some tokens. What leaves: the cache with them written. A row's own part holds its tokens
in order from slot 0, `used` of them; the prefix part, if there is one, holds prompts that several rows read: N prompts
for B = N·g rows, row b reads prompt b // g. Keys carry their rotation. A query sees all of its prefix and its own part up to
itself.

Per layer the layout is [B, K, S, H], sequence inside head, which is what decoding reads fastest on CPU and what the GPU
kernels want. The layers are separate arrays: a cache that is threaded through `lax.scan` is copied whole at every step.
B sequences, N prompts, K kv heads, S slots, H head dim, T new tokens.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxreason.model.config import ModelConfig


@struct.dataclass
class Prefix:
  """Keys and values of N prompts in every layer, read by several rows each and written by none."""

  keys: tuple[jax.Array, ...]  # L arrays [N, K, S, H]
  values: tuple[jax.Array, ...]  # L arrays [N, K, S, H]
  lengths: jax.Array  # [N] int32, tokens held, from slot 0 on


@struct.dataclass
class Cache:
  """Keys and values of every layer for B sequences."""

  keys: tuple[jax.Array, ...]  # L arrays [B, K, S, H]
  values: tuple[jax.Array, ...]  # L arrays [B, K, S, H]
  used: jax.Array  # [B] int32, tokens held, from slot 0 on; the next token is written there
  prefix: Prefix | None = None  # what rows b·g to b·g + g - 1 have before their own tokens


def empty(config: ModelConfig, batch: int, slots: int, dtype=jnp.float32) -> Cache:
  """A cache for `batch` sequences of up to `slots` tokens, without prefix."""
  shape = (batch, config.kv_heads, slots, config.head_dim)
  return Cache(
    keys=tuple(jnp.zeros(shape, dtype) for _ in range(config.layers)),
    values=tuple(jnp.zeros(shape, dtype) for _ in range(config.layers)),
    used=jnp.zeros((batch,), jnp.int32),
  )


def write(array_BKSH: jax.Array, new_BKTH: jax.Array, at_B: jax.Array) -> jax.Array:
  """Writes T new entries of each row from that row's slot on; the caller leaves room (a write past the end would move back)."""

  def row(array_KSH, new_KTH, at):
    return jax.lax.dynamic_update_slice(array_KSH, new_KTH.astype(array_KSH.dtype), (0, at, 0))

  return jax.vmap(row)(array_BKSH, new_BKTH, at_B)


def resized(array_NKSH: jax.Array, slots: int) -> jax.Array:
  """The array with `slots` slots: blank ones added behind, or the last ones left out."""
  more = slots - array_NKSH.shape[2]
  return jnp.pad(array_NKSH, ((0, 0), (0, 0), (0, more), (0, 0))) if more > 0 else array_NKSH[:, :, :slots]
