"""Floor 3: the slots of a device, by number.

What enters: prompts, samples for slots, tokens that follow in them. What leaves: reports of what was written, a chunk of K
tokens at a time. The engine calls the compiled programs, holds the state that each of them takes and gives back, keeps the
cache as wide as the longest live slot needs, and knows nothing of who is in a slot: that is `slots`. B slots in lanes of g.
"""

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxreason import processes
from jaxreason.model.cache import Prefix
from jaxreason.rollout.config import Shape, bucketed
from jaxreason.rollout.state import DecodeState, Record, Report, Rows
from jaxreason.sampling import Sampling


class RolloutPrograms(NamedTuple):
  """The jitted functions of `prepare` and `programs`, model configuration and shardings bound."""

  prepare: Callable  # (params) -> rollout params
  prepare_training: Callable  # the same for the samples that are trained on, perhaps in fewer bits
  extend: Callable  # (params, tokens, lengths[, state, slot, last]) -> (Prefix, experts), or state
  insert: Callable  # (state, prefix, rows, root, written, shape=, slots=, prefix_slots=) -> state
  decode: Callable  # (params, state, stop_ids, version, steps=, truncate=, least=) -> (state, report)
  experts: int = 0  # L·k, of each token where they are recorded


class Draw(NamedTuple):
  """How samples are drawn."""

  root: jax.Array  # typed PRNG key
  stop_ids: tuple[int, ...]
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  min_p: float = 0.0
  least: int = 0  # tokens before which no stop token is drawn


class Prefilled(NamedTuple):
  """A prompt whose keys and values are there."""

  prefix: Prefix  # of several prompts
  row: int
  length: int  # without its last token
  last: int  # its last token
  experts: np.ndarray | None = None  # [length, L·k] int16, where they are recorded


class Placing(NamedTuple):
  """A sample for a slot."""

  slot: int
  prompt: Prefilled
  visit: int
  sample: int
  written: Record | None = None  # numpy [n], what it wrote before; None for one that begins
  budget: int | None = None  # tokens; None for the shape's


class Engine:
  """B slots on the mesh in use.

  Attributes:
    steps: decode steps run, each of B slots.
    pending: chunks that were not.
  """

  def __init__(self, programs: RolloutPrograms, shape: Shape, draw: Draw):
    self.shape, self.steps = shape, 0
    self._programs, self._draw = programs, draw
    self._prefix_width = 0
    self.clear()

  def clear(self) -> None:
    """Gives the device's memory back; all slots are blank."""
    self._state: DecodeState | None = None
    self._blank: Prefix | None = None
    self._width = 0
    self._length = np.zeros(self.shape.slots, np.int64)  # tokens after the prompt at most, chunks on their way included
    self._base = np.zeros(self.shape.slots, np.int64)  # of the prompt in the slot's own part of the cache
    self._turn = np.zeros(self.shape.slots, np.int64)  # counts what was put or fed into a slot
    self.pending: collections.deque[tuple[Report, np.ndarray]] = collections.deque()

  def prefill(self, params, prompts: Sequence[np.ndarray]) -> list[Prefilled]:
    """Keys and values of prompts, as many at a time as one program takes."""
    longest = max((len(tokens) - 1 for tokens in prompts), default=0)
    # It never shrinks, so that finer steps are a compilation or two more in a run.
    self._prefix_width = max(self._prefix_width, bucketed(longest, self.shape.prompt_bucket, steps=4))
    found = []
    for part, R in _parts(prompts, self.shape.prefill):
      tokens, lengths = np.zeros((R, self._prefix_width), np.int32), np.zeros(R, np.int32)
      for row, prompt in enumerate(part):
        lengths[row] = len(prompt) - 1
        tokens[row, : lengths[row]] = prompt[:-1]
      prefix, experts = self._programs.extend(params, tokens, lengths)
      experts = [None] * R if experts is None else processes.fetched(experts)
      # What a resized cache is given to insert: nothing, in the shape of a prompt.
      blank = lambda x: np.zeros((1, *x.shape[1:]), x.dtype)
      self._blank = jax.tree.map(blank, prefix)
      for row, prompt in enumerate(part):
        length = len(prompt) - 1
        chosen = None if experts[row] is None else experts[row][:length]
        found.append(Prefilled(prefix, row, length, int(prompt[-1]), chosen))
    return found

  def place(self, params, placings: Sequence[Placing]) -> None:
    """Puts samples into slots; those that wrote before get their keys and values back."""
    by_kind: dict[tuple, list[Placing]] = {}
    for placing in placings:
      by_kind.setdefault((id(placing.prompt.prefix), placing.written is None), []).append(placing)
    for placed in by_kind.values():
      for part, R in _parts(placed, self.shape.insert[-1:] if self._state is None else self.shape.insert[:1]):
        self._insert(part[0].prompt.prefix, part, R)
    begun = [(p.slot, np.append(p.prompt.last, p.written.tokens).astype(np.int32)) for p in placings if p.written is not None]
    self.extend(params, [one for one in begun if len(one[1]) > 1])

  def extend(self, params, feeds: Sequence[tuple[int, np.ndarray]]) -> None:
    """Feeds tokens to slots: of each, the token to be fed next and those that follow it; the last is left to `decode`."""
    for part, R in _parts(feeds, self.shape.insert[:1]):
      Te = bucketed(max(len(tokens) - 1 for _, tokens in part), self.shape.prompt_bucket)
      self._widen(max(int(self._base[slot] + self._length[slot]) for slot, _ in part) + Te)
      slot, tokens = np.full(R, self.shape.slots, np.int32), np.zeros((R, Te), np.int32)
      lengths, last = np.zeros((2, R), np.int32)
      for row, (where, fed) in enumerate(part):
        slot[row], lengths[row], last[row] = where, len(fed) - 1, fed[-1]
        tokens[row, : lengths[row]] = fed[:-1]
        self._length[where] += len(fed) - 1
        self._turn[where] += 1
      self._state = self._programs.extend(params, tokens, lengths, self._state, slot, last)

  def decode(self, params, version: int, live: Sequence[int], held: Sequence[int]) -> None:
    """Dispatches a chunk.

    Args:
      params: the rollout's copy.
      version: updates that it has seen.
      live: the slots whose samples matter; the cache is as wide as they need.
      held: slots whose samples stopped and may go on. The cache keeps what they have, and has one place behind it: a slot
        that stopped goes on writing there, and without it would write over its last token.
    """
    shape, draw = self.shape, self._draw
    live, both = list(live), [*live, *held]
    more = np.repeat([shape.chunk, 1], [len(live), len(held)])
    needed = self._base[both] + np.minimum(self._length[both] + more, shape.budget)
    self._widen(max(int(needed.max()), self._least()), narrow=True)
    self._length[live] += shape.chunk
    self._state, report = self._programs.decode(
      params, self._state, np.asarray(draw.stop_ids, np.int32), np.int32(version), steps=shape.chunk,
      truncate=draw.top_p < 1 or draw.top_k > 0 or draw.min_p > 0, least=draw.least > 0,
    )  # fmt: skip
    self.steps += shape.chunk
    self.pending.append((report, self._turn.copy()))

  def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, Report]:
    """(same [B], stop [B], lengths [B], report) of the oldest chunk that was not read; waits for it.

    `same` is False for a slot that was put or fed something since the chunk was dispatched: the report is not about that.
    """
    report, turn = self.pending.popleft()
    stop, lengths = processes.fetched((report.stop, report.lengths))
    same = turn == self._turn
    later = len(self.pending) * self.shape.chunk
    self._length = np.where(same, np.minimum(self._length, lengths + later), self._length)
    return same, stop, lengths, report

  def written(self) -> tuple[jax.Array, Record]:
    """(lengths [B], record [B, T]) of all slots, once every chunk that was dispatched is done."""
    return self._state.lengths, self._state.record

  def _insert(self, prefix: Prefix, placings: Sequence[Placing], R: int) -> None:
    draw, T = self._draw, self.shape.budget
    fixed = lambda value, dtype: np.full(R, value, dtype)
    slot, (source, last, visit, sample) = fixed(self.shape.slots, np.int32), np.zeros((4, R), np.int32)
    budgets, written = fixed(T, np.int32), None
    if placings and placings[0].written is not None:
      written = Record(*(np.zeros((R, T), dtype) for dtype in (np.int32, np.float32, np.float32, np.int32, bool)))
      if self._programs.experts:
        written = written.replace(experts=np.full((R, T, self._programs.experts), -1, np.int16))
    for row, placing in enumerate(placings):
      slot[row], source[row], last[row] = placing.slot, placing.prompt.row, placing.prompt.last
      visit[row], sample[row] = np.uint32(placing.visit).astype(np.int32), placing.sample
      budgets[row] = min(placing.budget or T, T)
      self._length[placing.slot] = 0
      self._base[placing.slot] = 0 if self.shape.lane > 1 else placing.prompt.length
      self._turn[placing.slot] += 1
      for buffer, had in zip(jax.tree.leaves(written), jax.tree.leaves(placing.written), strict=True):
        buffer[row, : len(had)] = had
    temperature, top_p, min_p = (fixed(value, np.float32) for value in (draw.temperature, draw.top_p, draw.min_p))
    chances = Sampling(temperature, top_p, fixed(draw.top_k, np.int32), min_p)
    rows = Rows(slot, source, last, visit, sample, chances, fixed(draw.least, np.int32), budgets)
    self._width = max(self._width, bucketed(self._least(), self.shape.cache_bucket))
    lanes = self.shape.slots // self.shape.lane if self.shape.lane > 1 else 0
    self._state = self._programs.insert(
      self._state, prefix, rows, draw.root, written,
      shape=(self.shape.slots, lanes, T), slots=self._width, prefix_slots=self._prefix_width,
    )  # fmt: skip

  def _least(self) -> int:
    """Slots that the cache has always: a chunk behind the widest prompt, if that is in the same part."""
    first = min(self.shape.chunk, self.shape.budget)
    return first if self.shape.lane > 1 else self._prefix_width + first

  def _widen(self, needed: int, narrow: bool = False) -> None:
    """Makes room for `needed` tokens in each slot; with `narrow`, gives room back where that halves the cache."""
    wanted = bucketed(needed, self.shape.cache_bucket)
    if wanted > self._width or (narrow and 2 * wanted <= self._width):
      self._width = wanted
      self._insert(self._blank, (), self.shape.insert[0])


def _parts(items: Sequence, sizes: tuple[int, ...]):
  """(items, R) pairs: as many as the largest of `sizes` at a time, and the least size that holds the rest."""
  for first in range(0, len(items), sizes[-1]):
    part = items[first : first + sizes[-1]]
    yield part, next(size for size in sizes if size >= len(part))
