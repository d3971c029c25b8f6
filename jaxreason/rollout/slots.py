"""Floor 3: who is in which slot, and who waits for one.

What enters: prompts with the numbers of the samples to draw from each. What leaves: what was written, sample by sample, as each
ends. A free slot takes the next sample in line; a lane whose slots are all free takes the next prompt, which is prefilled once
for its group. Between two chunks the host reads what the last one wrote, feeds what environments say and fills free slots.

A sample is named (visit, sample) and its draw depends on that name alone. B slots in lanes of g.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxreason import processes
from jaxreason.records import RUNNING, STOP_STRING
from jaxreason.rollout.config import Shape
from jaxreason.rollout.engine import Draw, Engine, Placing, Prefilled, RolloutPrograms
from jaxreason.rollout.state import Record

Name = tuple[int, int]  # (visit_id, which of the group's samples)
# (tokens of a sample, how many of them were looked at before) -> how many to keep because a stop string ends there, or None.
Cut = Callable[[Sequence[int], int], int | None]


class Written(NamedTuple):
  """What a sample has after its prompt, n tokens: ended, or on its way."""

  visit: int
  sample: int
  stop: int  # records.RUNNING, STOP_TOKEN, BUDGET or STOP_STRING
  record: Record  # numpy arrays [n]
  prompt_experts: np.ndarray | None = None  # [tokens of the prompt - 1, L·k] int16, where they are recorded

  @property
  def name(self) -> Name:
    return self.visit, self.sample


@dataclasses.dataclass
class _Prompt:
  """A group's place in line."""

  visit: int
  tokens: np.ndarray  # [n] int32
  left: collections.deque  # samples that have no slot yet
  written: dict[int, Record]  # of those, what some have written already
  budgets: Mapping[int, int]  # tokens of those that have a budget of their own
  prefilled: Prefilled | None = None


class Slots:
  """B slots and the line before them.

  Args:
    programs: compiled.
    shape: static sizes.
    draw: sampling.
    cut: finds stop strings; None where there are none.

  Attributes:
    count: B.
    tokens: written by samples, as far as chunks have been looked at; not what a slot writes behind a stop string.
  """

  def __init__(self, programs: RolloutPrograms, shape: Shape, draw: Draw, cut: Cut | None = None):
    self._engine, self._shape, self._cut = Engine(programs, shape, draw), shape, cut
    self.count, self.tokens = shape.slots, 0
    self._line: list[_Prompt] = []
    self._version: int | None = None
    self._clear()

  def _clear(self) -> None:
    self._names: list[Name | None] = [None] * self._shape.slots
    self._of_lane: list[_Prompt | None] = [None] * (self._shape.slots // self._shape.lane)
    self._ended: dict[Name, int] = {}  # slots whose samples decode no longer
    self._seen = np.zeros(self._shape.slots, np.int64)  # tokens of each slot's sample that were looked at, put or said
    self._prompt_experts: list[np.ndarray | None] = [None] * self._shape.slots
    self._said: dict[int, tuple[Written, int]] = {}  # by slot: a sample behind so many tokens that wait to be fed

  def admit(
    self,
    visit: int,
    prompt: Sequence[int],
    samples: Iterable[int],
    written: Iterable[Written] = (),
    budgets: Mapping[int, int] | None = None,
  ) -> None:
    """Puts a prompt in line.

    Args:
      visit: its visit_id.
      prompt: token ids.
      samples: which are to be drawn of it.
      written: what some of them have written already; they go before those that begin.
      budgets: tokens of samples that have fewer than the shape's.
    """
    had = {one.sample: one.record for one in written}
    new = _Prompt(visit, np.asarray(prompt, np.int32), collections.deque(samples), had, budgets or {})
    places = [at for at, prompt in enumerate(self._line) if had and not prompt.written]
    self._line.insert(min(places, default=len(self._line)), new)

  @property
  def steps(self) -> int:
    """Decode steps run, each of B slots."""
    return self._engine.steps

  @property
  def free(self) -> int:
    """Slots that nobody has."""
    return self._names.count(None)

  @property
  def running(self) -> list[int]:
    """The slots that decode."""
    return [slot for slot, name in enumerate(self._names) if name is not None and name not in self._ended]

  @property
  def waiting(self) -> int:
    """Samples in line."""
    return sum(len(prompt.left) for prompt in self._line)

  def chunk(self, params, version: int) -> list[Written]:
    """Fills free slots, decodes K tokens, and tells which samples ended; a slot stays theirs until `release` or `reply`.

    With nothing to decode it returns at once. Where the shape says `ahead`, what a chunk wrote is told by the next call, while
    the next chunk runs.

    Args:
      params: the rollout's copy.
      version: updates that it has seen.
    """
    self._engine.extend(params, [(slot, one.record.tokens[-count - 1 :]) for slot, (one, count) in self._said.items()])
    self._said = {}
    if version != self._version and self._shape.lane == 1:
      # What begins now reads its prompt as this policy does. The slots of a live lane share one copy, whoever joins them later.
      for prompt in self._line:
        prompt.prefilled = None
    self._version = version
    self._fill(params)
    running = self.running
    if running:
      self._engine.decode(params, version, running, list(self._ended.values()))
    return self._look() if len(self._engine.pending) > (self._shape.ahead if running else 0) else []

  def release(self, name: Name) -> None:
    """Frees the slot of a sample that ended, if it still has it."""
    slot = self._ended.pop(name, None)
    if slot is not None:
      self._names[slot] = None

  def reply(self, ended: Written, prompt: Sequence[int], tokens: Sequence[int], budget: int | None = None) -> None:
    """Lets a sample that ended a turn go on behind `tokens`, which it did not write; the caller sees that its budget, its own
    or the shape's, has room for them and one more.
    """
    had = ended.record.experts
    experts = None if had is None else np.full((len(tokens), had.shape[1]), -1)
    said = Record(tokens, *4 * [np.zeros(len(tokens))], experts)
    record = jax.tree.map(lambda had, more: np.append(had, np.asarray(more, had.dtype), axis=0), ended.record, said)
    going, slot = ended._replace(stop=RUNNING, record=record), self._ended.get(ended.name)
    if slot is not None and ended.stop != STOP_STRING:
      del self._ended[ended.name]
      self._said[slot], self._seen[slot] = (going, len(tokens)), len(record.tokens)
      return
    # Its slot is gone, or has run on past the cut: it begins again behind all that was written.
    self.release(ended.name)
    self.admit(ended.visit, prompt, [ended.sample], [going], {} if budget is None else {ended.sample: budget})

  def so_far(self) -> tuple[list[Written], list[Written]]:
    """(ended and not told yet, on their way): looks at every chunk that was dispatched, and at the samples as they are then.

    Those on their way are in slots, or in line behind what they have written.
    """
    ended = self.settled()
    going = [one for one, _ in self._said.values()]
    going += [Written(at.visit, sample, RUNNING, record) for at in self._line for sample, record in at.written.items()]
    decoding = self._decoding()
    if decoding:
      lengths, record = processes.fetched(self._engine.written())
      going += [self._written(slot, RUNNING, lengths[slot], record) for slot in decoding]
    return ended, going

  def settled(self) -> list[Written]:
    """What ended in chunks that were dispatched and not looked at; waits for them."""
    ended = []
    while self._engine.pending:
      ended += self._look()
    return ended

  def unload(self) -> None:
    """Takes all samples that have begun (see `so_far` before) out of slots and line, and gives the device's memory back."""
    self._engine.clear()
    for prompt in self._line:
      prompt.left = collections.deque(sample for sample in prompt.left if sample not in prompt.written)
      prompt.written, prompt.prefilled = {}, None
    self._line = [prompt for prompt in self._line if prompt.left]
    self._clear()

  def _decoding(self) -> list[int]:
    """The slots that run on the device too: nothing waits to be fed to them."""
    return [slot for slot in self.running if slot not in self._said]

  def _free(self, lane: int) -> list[int]:
    g = self._shape.lane
    return [slot for slot in range(lane * g, lane * g + g) if self._names[slot] is None]

  def _next(self, lane: int) -> _Prompt | None:
    """Whom a free slot may take a sample of: the lane's own prompt, or the first in line where all of the lane is free."""
    if len(self._free(lane)) == self._shape.lane:
      return next((prompt for prompt in self._line if prompt.left), None)
    return self._of_lane[lane] if self._of_lane[lane].left else None

  def _fill(self, params) -> None:
    """Puts samples from the line into free slots."""
    chosen = []
    for lane in range(len(self._of_lane)) if self._line else ():
      for slot in self._free(lane):
        prompt = self._next(lane)
        if prompt is None:
          break
        sample = prompt.left.popleft()
        self._of_lane[lane], self._names[slot] = prompt, (prompt.visit, sample)
        chosen.append((slot, prompt, sample))
    new = list({id(prompt): prompt for _, prompt, _ in chosen if prompt.prefilled is None}.values())
    for prompt, prefilled in zip(new, self._engine.prefill(params, [prompt.tokens for prompt in new]), strict=True):
      prompt.prefilled = prefilled
    placings = [
      Placing(slot, at.prefilled, at.visit, sample, at.written.pop(sample, None), at.budgets.get(sample))
      for slot, at, sample in chosen
    ]
    for placing in placings:
      self._prompt_experts[placing.slot] = placing.prompt.experts
      self._seen[placing.slot] = 0 if placing.written is None else len(placing.written.tokens)
    self._engine.place(params, placings)
    for _, prompt, _ in chosen:
      prompt.prefilled = prompt.prefilled if prompt.left else None  # its slots have what they need
    self._line = [prompt for prompt in self._line if prompt.left]

  def _look(self) -> list[Written]:
    """What ended in the oldest chunk that was not looked at."""
    same, stop, lengths, report = self._engine.read()
    decoding = [slot for slot in self._decoding() if same[slot]]
    looked = [slot for slot in decoding if stop[slot] != RUNNING or self._cut is not None]
    record = processes.fetched(report.record) if looked else None
    found = [self._written(slot, int(stop[slot]), lengths[slot], record) for slot in looked]
    if self._cut is not None:
      found = [self._cut_off(slot, written) for slot, written in zip(looked, found, strict=True)]
    seen = self._seen.copy()
    seen[decoding] = lengths[decoding]
    for slot, written in zip(looked, found, strict=True):
      seen[slot] = len(written.record.tokens)
      if written.stop != RUNNING:
        self._ended[written.name] = slot
    self.tokens += int(np.sum(seen - self._seen))
    self._seen = seen
    return [written for written in found if written.stop != RUNNING]

  def _written(self, slot: int, stop: int, length: int, record: Record) -> Written:
    record = jax.tree.map(lambda buffer: buffer[slot, :length].copy(), record)
    return Written(*self._names[slot], stop, record, self._prompt_experts[slot])

  def _cut_off(self, slot: int, written: Written) -> Written:
    """The sample up to the end of its first stop string, if it has one."""
    kept = self._cut(written.record.tokens, int(self._seen[slot]))
    if kept is None:
      return written
    return written._replace(stop=STOP_STRING, record=jax.tree.map(lambda buffer: buffer[:kept], written.record))
