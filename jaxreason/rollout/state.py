"""Floor 3: what decoding carries from chunk to chunk.

A slot is a row. Its prompt lies in its own part of the cache, or slots form lanes of g neighbours that read one prompt in the
prefix part: N lanes x g = B slots. All fields are arrays, budgets
and sampling parameters too, so that one compiled program serves them all, and the whole state is donated to each program.
B slots, T token budget of the buffers, S cache slots, R rows of one insertion, L layers with k experts a token.
"""

from typing import Any, NamedTuple

import jax
from flax import struct

from jaxreason.model.cache import Cache
from jaxreason.sampling import Sampling


@struct.dataclass
class Record:
  """What is kept of every token after the prompt."""

  tokens: Any  # [B, T] int32, the environment's too
  logprobs: Any  # [B, T] float32, nats, of the tempered policy at sampling time; 0 for the environment's tokens
  log_mass: Any  # [B, T] float32, nats, log of the mass that truncation kept
  versions: Any  # [B, T] int32, updates the policy had seen when it wrote the token
  own: Any  # [B, T] bool, the tokens that the policy wrote
  experts: Any = None  # [B, T, L·k] int16, of the token before this one, where they are replayed; -1 for none

  @property
  def kept(self) -> dict:
    """The fields that are recorded, by name."""
    return {name: values for name, values in vars(self).items() if values is not None}


@struct.dataclass
class DecodeState:
  """B samples on their way. The cache holds the prompt without its last token, then all that was fed."""

  cache: Cache  # S slots, and the lanes' prompts where they are shared
  base: jax.Array  # [B] int32, tokens of the prompt in the slot's own part of the cache; 0 where prompts are shared
  last: jax.Array  # [B] int32, the token to feed next: the prompt's last one, then the last of `record`
  keys: jax.Array  # [B] typed PRNG keys, one a sample
  sampling: Sampling  # four arrays [B]
  least: jax.Array  # [B] int32, tokens before which no stop token is drawn
  budgets: jax.Array  # [B] int32, tokens allowed
  stop: jax.Array  # [B] int32, records.RUNNING, STOP_TOKEN, BUDGET or IDLE
  record: Record

  @property
  def lengths(self) -> jax.Array:
    """[B] int32, tokens written after the prompt."""
    return self.cache.used - self.base


class Report(NamedTuple):
  """What the host reads of a chunk while the next one runs: copies, because the state is donated."""

  stop: jax.Array  # [B] int32
  lengths: jax.Array  # [B] int32
  record: Record


class Rows(NamedTuple):
  """Samples to put into slots; R is fixed, and a row whose slot is B or more does nothing."""

  slot: Any  # [R] int32
  source: Any  # [R] int32, the row of the prefilled prompts that it follows
  last: Any  # [R] int32, the prompt's last token
  visit: Any  # [R] int32
  sample: Any  # [R] int32
  sampling: Sampling  # four arrays [R]
  least: Any  # [R] int32
  budget: Any  # [R] int32
