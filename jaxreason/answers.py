"""Floor 4: from prompts to judged answers, group by group.

What enters: prompts, and the rollout's copy of the weights, a chunk at a time. What leaves: groups all of whose samples have
ended, with their verdicts. While the device decodes the next chunk, the verifier pool judges what has ended and the environment
says what comes next. G samples of each prompt.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple

import numpy as np

from jaxreason.build import Run
from jaxreason.data.tokenizer import Tokenizer
from jaxreason.environments import ENVIRONMENTS
from jaxreason.records import RUNNING, STOP_STRING, STOP_TOKEN
from jaxreason.rewards.pool import VerifierPool
from jaxreason.rewards.turn import Turn
from jaxreason.rewards.verdict import Verdict
from jaxreason.rollout.config import Shape
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.slots import Cut, Name, Slots, Written
from jaxreason.settings import RunSettings


class Sample(NamedTuple):
  """One finished response and what was said of it."""

  row: dict
  response: str
  finished: bool  # ended by a stop token or string, not cut off by its budget
  tokens: int  # that the policy wrote
  verdict: Verdict
  reward: float | None = None  # what is trained on; None where it could not be judged
  turns: int = 1
  written: Written | None = None


class Turns(NamedTuple):
  """How a dialogue goes on."""

  environment: str  # the pool's name for it
  discount: float  # γ of the rewards of later turns
  budget: int  # tokens of all turns and what is said between them


@dataclasses.dataclass
class Dialogue:
  """Where a sample of several turns has got to."""

  state: dict | None = None  # the environment's; None before the first step
  rewards: list[float | None] = dataclasses.field(default_factory=list)
  read: int = 0  # tokens that the environment has seen or said


class Ended(NamedTuple):
  """A sample that nobody writes any more."""

  written: Written
  judged: Future  # of a Verdict, or of the environment's last Turn
  dialogue: Dialogue | None


@dataclasses.dataclass
class Group:
  """A prompt and its samples, some of which may still be on their way."""

  visit: int
  row: dict
  prompt: np.ndarray  # [n] int32
  size: int  # G
  begun: int  # updates the policy had seen when it was admitted
  ended: dict[int, Ended] = dataclasses.field(default_factory=dict)  # by sample
  whole_at: int | None = None  # the chunk after which all had ended
  budgets: dict[int, int] = dataclasses.field(default_factory=dict)  # tokens of samples that have fewer than the others


class Work(NamedTuple):
  """What was done so far."""

  tokens: int  # that the policy wrote
  slot_steps: int  # decode steps, times slots
  waited: float  # seconds of verification that decoding did not hide

  def since(self, before: "Work") -> "Work":
    return Work(*(now - then for now, then in zip(self, before, strict=True)))


class Answers:
  """Groups on their way.

  Args:
    slots: where they decode.
    pool: open.
    tokenizer: ids to text.
    turns: of an environment; None for single answers.
    require_finished: a sample that its budget cut off is wrong whatever it says.

  Attributes:
    groups: by visit id; those that are whole stay until they are taken.
  """

  def __init__(self, slots: Slots, pool: VerifierPool, tokenizer: Tokenizer, *, turns: Turns | None, require_finished: bool):
    self.groups: dict[int, Group] = {}
    self._waited, self._chunks = 0.0, 0
    self._slots, self._pool, self._tokenizer = slots, pool, tokenizer
    self._turns, self._require_finished = turns, require_finished
    self._dialogues: dict[Name, Dialogue] = {}
    self._steps: dict[Future, Written] = {}  # what the environment has been asked

  def ask(self, group: Group, written: Sequence[Written] = (), dialogues: Mapping[int, Dialogue] | None = None) -> None:
    """Puts a group in line.

    Args:
      group: some of its samples may have ended.
      written: what others of them have written so far, in an earlier run; those that stopped are between two turns.
      dialogues: of its samples.
    """
    self.groups[group.visit] = group
    if len(group.ended) == group.size:
      group.whole_at = self._chunks
    self._dialogues |= {(group.visit, sample): dialogue for sample, dialogue in (dialogues or {}).items()}
    running, stopped = ([one for one in written if (one.stop == RUNNING) is runs] for runs in (True, False))
    elsewhere = group.ended.keys() | {one.sample for one in stopped}
    left = [sample for sample in range(group.size) if sample not in elsewhere]
    if left:
      self._slots.admit(group.visit, group.prompt, left, running, group.budgets)
    for one in stopped:
      self._on_ended(one)

  @property
  def busy(self) -> bool:
    """Whether a sample is on its way."""
    return any(group.whole_at is None for group in self.groups.values())

  @property
  def room(self) -> bool:
    """Whether a slot is free that nobody waits for."""
    return self._slots.free > self._slots.waiting

  def ready(self) -> list[Group]:
    """The whole groups in the order in which they ended, those of one chunk by visit id."""
    whole = [group for group in self.groups.values() if group.whole_at is not None]
    return sorted(whole, key=lambda group: (group.whole_at, group.visit))

  def work(self) -> Work:
    """Since the beginning."""
    return Work(self._slots.tokens, self._slots.steps * self._slots.count, self._waited)

  def advance(self, params, version: int) -> None:
    """Decodes a chunk, passes what ended to its judges, and lets dialogues go on. With nothing to decode it waits for them."""
    self._chunks += 1
    for written in self._slots.chunk(params, version):
      self._on_ended(written)
    if self._steps:
      nothing_else = not (self._slots.running or self._slots.waiting)
      began = time.perf_counter()
      done, _ = wait(self._steps, timeout=None if nothing_else else 0, return_when=FIRST_COMPLETED)
      self._waited += time.perf_counter() - began
      for future in [future for future in self._steps if future in done]:
        self._on_step(self._steps.pop(future), future)

  def take(self, group: Group) -> list[Sample]:
    """The samples of a whole group, its verdicts waited for; the group is forgotten here."""
    del self.groups[group.visit]
    began = time.perf_counter()
    samples = [self._sample(group, group.ended[sample]) for sample in range(group.size)]
    self._waited += time.perf_counter() - began
    return samples

  def so_far(self) -> tuple[list[Written], dict[Name, Dialogue]]:
    """(what samples on their way have written, where their dialogues have got to): with `groups`, all that there is."""
    running = self._look()
    return running + list(self._steps.values()), self._dialogues

  def refresh(self) -> None:
    """Lets every sample begin again behind what it has written, with keys and values of the parameters to come."""
    running = self._look()
    self._slots.unload()
    for visit in dict.fromkeys(one.visit for one in running):
      of_prompt = [one for one in running if one.visit == visit]
      group = self.groups[visit]
      self._slots.admit(visit, group.prompt, [one.sample for one in of_prompt], of_prompt, group.budgets)

  def unload(self) -> None:
    """Gives the device's memory back, where nothing is on its way."""
    self._slots.unload()

  def _look(self) -> list[Written]:
    ended, running = self._slots.so_far()
    for written in ended:
      self._on_ended(written)
    return running

  def _on_ended(self, written: Written) -> None:
    group = self.groups[written.visit]
    if self._turns is None:
      self._end(group, written, self._pool.submit(item(group.row, self._text(written), finished(written))), None)
      return
    if written.name not in self._dialogues:
      self._steps[self._pool.reset({"environment": self._turns.environment, "row": group.row})] = written
      return
    dialogue = self._dialogues[written.name]
    text = self._tokenizer.decode(written.record.tokens[dialogue.read :].tolist())
    request = {"environment": self._turns.environment, "state": dialogue.state, "text": text, "finished": finished(written)}
    self._steps[self._pool.step(request)] = written

  def _on_step(self, written: Written, future: Future) -> None:
    """What the environment said to a turn: the dialogue ends, or goes on behind its words."""
    turn, group, begins = future.result(), self.groups[written.visit], written.name not in self._dialogues
    dialogue = self._dialogues.setdefault(written.name, Dialogue())
    dialogue.state = turn.state
    if begins and not turn.done:
      self._on_ended(written)
      return
    dialogue.rewards.append(turn.reward)
    said = self._tokenizer.reply(turn.text) if finished(written) and not turn.done else ()
    length, budget = len(written.record.tokens) + len(said), group.budgets.get(written.sample)
    if not said or length >= (budget or self._turns.budget):
      self._end(group, written, future, self._dialogues.pop(written.name))
      return
    dialogue.read = length
    self._slots.reply(written, group.prompt, said, budget)

  def _end(self, group: Group, written: Written, judged: Future, dialogue: Dialogue | None) -> None:
    self._slots.release(written.name)
    group.ended[written.sample] = Ended(written, judged, dialogue)
    if len(group.ended) == group.size:
      group.whole_at = self._chunks

  def _text(self, written: Written) -> str:
    return self._tokenizer.decode(written.record.tokens.tolist())

  def _sample(self, group: Group, ended: Ended) -> Sample:
    written, verdict, turns = ended.written, ended.judged.result(), 1
    if ended.dialogue is not None:
      turns, verdict = len(ended.dialogue.rewards), of_dialogue(ended.dialogue.rewards, verdict)
    if self._require_finished and not finished(written):
      verdict = cut_off(verdict)
    reward = verdict.reward
    if reward and ended.dialogue is not None:
      reward = sum(turn * self._turns.discount**number for number, turn in enumerate(ended.dialogue.rewards))
    own = int(written.record.own.sum())
    return Sample(group.row, self._text(written), finished(written), own, verdict, reward, turns, written)


def pool_of(settings: RunSettings) -> VerifierPool:
  """The pool that a run's settings ask for, with the environments that come with the library."""
  rewards = settings.rewards
  return VerifierPool(
    workers=rewards.workers or None, deadline_s=rewards.deadline_s, memory_mb=rewards.memory_mb, environments=ENVIRONMENTS
  )


def open_answers(run: Run, pool: VerifierPool, root, shape: Shape, *, temperature: float) -> Answers:
  """Answers of a run's policy to prompts that are asked.

  Args:
    run: programs, tokenizer and settings.
    pool: open.
    root: typed PRNG key.
    shape: of `build.rollout_shape`.
    temperature: 0 for argmax, without truncation; else with the settings' top-p, top-k and min-p.
  """
  chosen = run.settings.rollout
  truncation = dict(top_p=chosen.top_p, top_k=chosen.top_k, min_p=chosen.min_p) if temperature > 0 else {}
  draw = Draw(root, run.tokenizer.stop_ids, temperature=temperature, least=chosen.min_new_tokens, **truncation)
  turns = Turns(chosen.environment, chosen.turn_discount, chosen.max_new_tokens) if chosen.environment else None
  return Answers(
    Slots(run.programs.rollout, shape, draw, stop_finder(run.tokenizer, chosen.stops)), pool, run.tokenizer,
    turns=turns, require_finished=run.settings.rewards.require_finished,
  )  # fmt: skip


def finished(written: Written) -> bool:
  """Whether the policy ended it, not its budget."""
  return written.stop in (STOP_TOKEN, STOP_STRING)


def of_dialogue(rewards: Sequence[float | None], last: Turn) -> Verdict:
  """The verdict on a whole dialogue: without one on each of its turns there is none; right if any turn earned something."""
  if None in rewards:
    return Verdict(None, "infra_error", detail=last.detail)
  total = min(1.0, sum(rewards))
  status = "correct" if total > 0 else last.status if last.status in ("unparsable", "limit") else "wrong"
  return Verdict(total, status, detail=last.detail)


def item(row: dict, response: str, finished: bool) -> dict:
  """What the verifier pool is asked: the row's answer and verifier, and the response."""
  return {"verifier": row["verifier"], "response": response, "answer": row["answer"], "finished": finished}


def cut_off(verdict: Verdict) -> Verdict:
  """The verdict on a sample that its budget ended: wrong, whatever it says; its manner is still counted."""
  return Verdict(0.0, "wrong", detail="cut off by its token budget", parts=verdict.parts)


def stop_finder(tokenizer: Tokenizer, stops: Sequence[str]) -> Cut | None:
  """Finds where the first of some texts ends in a sample's tokens; None without texts.

  A text of n bytes lies in at most n tokens, so only the last n before what is new are looked at again.
  """
  if not stops:
    return None
  reach = max(len(stop.encode()) for stop in stops)

  def cut(tokens: np.ndarray, seen: int) -> int | None:
    first = max(0, seen - reach)
    count = lambda end: sum(tokenizer.decode(tokens[first:end].tolist()).count(stop) for stop in stops)
    before = count(seen)
    if count(len(tokens)) <= before:
      return None
    return next((end for end in range(seen + 1, len(tokens) + 1) if count(end) > before), None)

  return cut
