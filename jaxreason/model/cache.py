"""Floor 2: the explicit key/value cache.

What enters: new keys and values of some tokens. What leaves: the cache with them written. Keys carry their rotation, so a
slot's place in the cache has no meaning by itself: `positions` says which position each slot holds, -1 for none, and
attention reads validity and causality from that alone.

Per layer the layout is [B, K, S, H], sequence inside head, which is what decoding reads fastest on CPU and what the GPU
kernels want. The layers are separate arrays: a cache that is threaded through `lax.scan` is copied whole at every step.
B sequences, K kv heads, S slots, H head dim, T new tokens.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxreason.model.config import ModelConfig


@struct.dataclass
class Cache:
  """Keys and values of every layer for B sequences."""

  keys: tuple[jax.Array, ...]  # L arrays [B, K, S, H]
  values: tuple[jax.Array, ...]  # L arrays [B, K, S, H]
  positions: jax.Array  # [B, S] int32, the position each slot holds, -1 when it holds none
  used: jax.Array  # [B] int32, the slot that the next token is written to


def empty(config: ModelConfig, batch: int, slots: int, dtype=jnp.float32) -> Cache:
  """A cache for `batch` sequences of up to `slots` tokens."""
  shape = (batch, config.kv_heads, slots, config.head_dim)
  return Cache(
    keys=tuple(jnp.zeros(shape, dtype) for _ in range(config.layers)),
    values=tuple(jnp.zeros(shape, dtype) for _ in range(config.layers)),
    positions=jnp.full((batch, slots), -1, jnp.int32),
    used=jnp.zeros((batch,), jnp.int32),
  )


def write(array_BKSH: jax.Array, new_BKTH: jax.Array, at_B: jax.Array) -> jax.Array:
  """Writes T new entries of each row at that row's slot; the caller leaves room (a write past the end would move back)."""

  def row(array_KSH, new_KTH, at):
    return jax.lax.dynamic_update_slice(array_KSH, new_KTH.astype(array_KSH.dtype), (0, at, 0))

  return jax.vmap(row)(array_BKSH, new_BKTH, at_B)


def write_positions(cache: Cache, positions_BT: jax.Array, valid_BT: jax.Array) -> Cache:
  """Records which positions the T new slots hold (-1 where not valid) and moves each row's next slot on by T."""

  def row(held_S, new_T, at):
    return jax.lax.dynamic_update_slice(held_S, new_T, (at,))

  new_BT = jnp.where(valid_BT, positions_BT, -1).astype(jnp.int32)
  held = jax.vmap(row)(cache.positions, new_BT, cache.used)
  return cache.replace(positions=held, used=cache.used + positions_BT.shape[1])
