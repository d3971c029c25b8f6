"""Floor 3: the host loop of a rollout.

What enters: compiled programs, the rollout's weights and a wave of prompts. What leaves: the finished `DecodeState`; on
the way, after each chunk of K tokens, the samples that ended in it are handed to `on_finished`, so that verification
overlaps decoding. The wave ends with the chunk in which its last sample ends. P prompts x G samples = B slots.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxreason.errors import UserError
from jaxreason.records import RUNNING
from jaxreason.rollout.state import DecodeState
from jaxreason.sampling import Sampling


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
  """Shapes and sampling of a rollout.

  Attributes:
    prompts: P, prompts of a training step.
    group: G, samples of each prompt.
    max_new_tokens: T, completion budget in tokens.
    max_prompt_tokens: longest prompt; what is longer follows long_prompts.
    long_prompts: "truncate_left", "drop" or "error".
    chunk: K, tokens decoded between two looks of the host.
    prompt_bucket: prompts are padded to a multiple of this.
    cache_bucket: the cache grows in multiples of this; one compile each.
    temperature: of training samples; the policy is the tempered distribution.
    top_p: 1.0 for off. Below 1 the sampler is not the policy: the record keeps the log of the kept mass.
    top_k: 0 for off.
    min_p: 0.0 for off.
  """

  prompts: int = 32
  group: int = 8
  max_new_tokens: int = 256
  max_prompt_tokens: int = 256
  long_prompts: str = "error"
  chunk: int = 16
  prompt_bucket: int = 16
  cache_bucket: int = 64
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  min_p: float = 0.0

  def __post_init__(self):
    for name in ("prompts", "group", "max_new_tokens", "max_prompt_tokens", "chunk", "prompt_bucket", "cache_bucket"):
      if getattr(self, name) < 1:
        raise UserError(f"rollout.{name} expected at least 1, got {getattr(self, name)}")
    if self.long_prompts not in ("truncate_left", "drop", "error"):
      raise UserError(f"rollout.long_prompts expected truncate_left, drop or error, got {self.long_prompts!r}")
    if self.temperature <= 0:
      raise UserError(f"rollout.temperature expected > 0 to train on samples, got {self.temperature}")
    if not (0 < self.top_p <= 1 and self.top_k >= 0 and 0 <= self.min_p < 1):
      raise UserError(
        f"rollout expected top_p in (0, 1], top_k >= 0, min_p in [0, 1), got {self.top_p}, {self.top_k} and {self.min_p}"
      )


class RolloutPrograms(NamedTuple):
  """The jitted functions of `prepare` and `programs`, model configuration and shardings bound."""

  prepare: Callable  # (params) -> rollout params
  prefill: Callable  # (params, prompts, lengths) -> Cache
  begin: Callable  # see programs.begin
  grow: Callable  # (state, slots=) -> state
  decode: Callable  # (params, state, steps=, truncate=) -> state


class Wave(NamedTuple):
  """A batch of prompts to sample from, host side."""

  prompts: np.ndarray  # [P, Tp] int32, right-padded
  lengths: np.ndarray  # [P] int32
  visit_ids: np.ndarray  # [P] int32
  group: int  # G
  budget: int  # T, tokens


def uniform_sampling(rows: int, *, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0) -> Sampling:
  """The same parameters for every row: a `Sampling` of numpy arrays [B]."""
  return Sampling(
    temperature=np.full(rows, temperature, np.float32),
    top_p=np.full(rows, top_p, np.float32),
    top_k=np.full(rows, top_k, np.int32),
    min_p=np.full(rows, min_p, np.float32),
  )


def run(
  programs: RolloutPrograms,
  params,
  wave: Wave,
  sampling: Sampling,
  *,
  root: jax.Array,
  version: int,
  stop_ids: tuple[int, ...],
  chunk: int,
  cache_bucket: int,
  on_finished: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None],
) -> DecodeState:
  """Decodes a wave to its end.

  Args:
    programs: compiled.
    params: the rollout's copy.
    wave: prompts.
    sampling: arrays [B].
    root: typed PRNG key of the run.
    version: updates that params have seen.
    stop_ids: tokens that end a sample.
    chunk: K.
    cache_bucket: the cache's size is a multiple of it.
    on_finished: called with (slots [n], tokens [B, T], lengths [B], stop [B]) after a chunk in which n > 0 samples ended.

  Returns:
    The final state, every slot stopped.
  """
  P, Tp = wave.prompts.shape
  rows = P * wave.group
  bucket = lambda columns: -(-columns // cache_bucket) * cache_bucket
  slots = bucket(Tp + min(chunk, wave.budget))
  cache = programs.prefill(params, wave.prompts, wave.lengths)
  state = programs.begin(
    cache, wave.prompts, wave.lengths, wave.visit_ids, root, np.int32(version), sampling,
    np.full(rows, wave.budget, np.int32), np.asarray(stop_ids, np.int32),
    group=wave.group, budget=wave.budget, slots=slots,
  )  # fmt: skip
  truncate = bool(np.any((sampling.top_p < 1) | (sampling.top_k > 0) | (sampling.min_p > 0)))
  done = np.zeros(rows, bool)
  for written in range(0, wave.budget, chunk):
    needed = bucket(Tp + min(written + chunk, wave.budget))
    if needed > slots:
      slots, state = needed, programs.grow(state, slots=needed)
    state = programs.decode(params, state, steps=chunk, truncate=truncate)
    stop = np.asarray(state.stop)
    ended = (stop != RUNNING) & ~done
    if ended.any():
      tokens, lengths = jax.device_get((state.tokens, state.lengths))
      on_finished(np.flatnonzero(ended), tokens, lengths, stop)
    done |= ended
    if done.all():
      break
  return state


def width(longest: int, multiple: int, budget: int) -> int:
  """The least multiple of `multiple`, within the budget, that holds completions of `longest` tokens."""
  return min(budget, max(1, -(-longest // multiple)) * multiple)
