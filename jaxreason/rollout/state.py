"""Floor 3: what decoding carries from chunk to chunk.

A slot is a row. All fields are arrays, budgets and sampling parameters too, so that one compiled program serves them all,
and the whole state is donated to each chunk. B slots, T completion budget of the buffers, S cache slots.
"""

import jax
from flax import struct

from jaxreason.model.cache import Cache
from jaxreason.sampling import Sampling


@struct.dataclass
class DecodeState:
  """B samples on their way."""

  cache: Cache  # S slots; holds every token but the last
  last: jax.Array  # [B] int32, the token to feed next
  keys: jax.Array  # [B] typed PRNG keys, one a sample
  sampling: Sampling  # four arrays [B]
  budgets: jax.Array  # [B] int32, completion tokens allowed
  stop_ids: jax.Array  # [E] int32, tokens that end a sample
  tokens: jax.Array  # [B, T] int32, written so far
  logprobs: jax.Array  # [B, T] float32, nats
  log_mass: jax.Array  # [B, T] float32, nats
  versions: jax.Array  # [B, T] int32
  lengths: jax.Array  # [B] int32, completion tokens written
  stop: jax.Array  # [B] int32: records.RUNNING, STOP_TOKEN or BUDGET
  version: jax.Array  # [] int32, updates that the weights in use have seen
