"""Floor 4: from prompts to judged answers, group by group.

What enters: prompts, and the rollout's copy of the weights, a chunk at a time. What leaves: groups all of whose samples have
ended, with their verdicts. While the device decodes the next chunk, the verifier pool judges what has ended and the environment
says what comes next. G samples of each prompt.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple

from jaxreason import processes
from jaxreason.build import Run
from jaxreason.data.stops import stop_finder
from jaxreason.data.tokenizer import Tokenizer
from jaxreason.environments import ENVIRONMENTS
from jaxreason.errors import UserError
from jaxreason.groups import Dialogue, Ended, Group, Sample, Turns, cut_off, finished, item, of_dialogue
from jaxreason.records import RUNNING, STOP_STRING
from jaxreason.rewards.judge import grade
from jaxreason.rewards.pool import VerifierPool
from jaxreason.rewards.turn import Turn
from jaxreason.rewards.verdict import Verdict
from jaxreason.rollout.config import Shape
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.slots import Name, Slots, Written
from jaxreason.settings import RunSettings


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
    parts: of `groups.item`; none where the rows' own verifiers judge alone.

  Attributes:
    groups: by visit id; those that are whole stay until they are taken.
  """

  def __init__(
    self, slots: Slots, pool: VerifierPool, tokenizer: Tokenizer, *, turns: Turns | None, require_finished: bool,
    parts: Sequence[dict] = (),
  ):  # fmt: skip
    self.groups: dict[int, Group] = {}
    self._waited, self._chunks = 0.0, 0
    self._slots, self._pool, self._tokenizer = slots, pool, tokenizer
    self._turns, self._require_finished, self._parts = turns, require_finished, parts
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
    self._whole(group)
    self._dialogues |= {(group.visit, sample): dialogue for sample, dialogue in (dialogues or {}).items()}
    running, stopped = ([one for one in written if (one.stop == RUNNING) is runs] for runs in (True, False))
    elsewhere = group.ended.keys() | {one.sample for one in stopped}
    left = [sample for sample in range(group.size) if sample not in elsewhere]
    if left:
      self._slots.admit(group.visit, group.prompt, left, running, group.budgets)
    for one in stopped:
      self._on_ended(one)

  def forget(self) -> None:
    """Gives all groups up; what is asked of judges is not waited for."""
    self.groups.clear()
    self._dialogues.clear()
    self._steps.clear()
    self._slots.unload()

  @property
  def busy(self) -> bool:
    """Whether a sample is on its way."""
    return any(group.whole_at is None for group in self.groups.values())

  @property
  def room(self) -> int:
    """Slots that are free and that nobody waits for."""
    return max(0, self._slots.free - self._slots.waiting)

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
      began = time.perf_counter()
      done, _ = wait(self._steps, timeout=0 if self._slots.running else None, return_when=FIRST_COMPLETED)
      self._waited += time.perf_counter() - began
      for future in [future for future in self._steps if future in done]:
        self._on_step(self._steps.pop(future), future)

  def judge(self, groups: Sequence[Group]) -> None:
    """Waits for the verdicts on whole groups; where several processes verify, each has then those of all.

    Raises:
      UserError: what a verdict of any process failed with, on every process.
    """
    if processes.count() == 1:
      return
    began = time.perf_counter()
    every = processes.exchanged([_told(group) for group in groups if processes.is_mine(group.visit)])
    self._waited += time.perf_counter() - began
    for visit, told in (one for of_process in every for one in of_process):
      if isinstance(told, str):
        raise UserError(f"the verifiers of another process expected to judge, failed with {told}")
      for sample, verdict in told.items() if not processes.is_mine(visit) else ():
        self.groups[visit].ended[int(sample)].judged.set_result(Verdict.from_json(verdict))

  def take(self, group: Group) -> list[Sample]:
    """The samples of a whole group, its verdicts waited for; the group is forgotten here."""
    del self.groups[group.visit]
    began = time.perf_counter()
    samples = [self._sample(group, group.ended[sample]) for sample in range(group.size)]
    self._waited += time.perf_counter() - began
    return samples

  def so_far(self) -> tuple[list[Written], dict[Name, Dialogue]]:
    """(what samples on their way have written, where their dialogues have got to): with `groups`, all that there is."""
    return self._look() + list(self._steps.values()), self._dialogues

  def refresh(self) -> None:
    """Lets every sample begin again behind what it has written, with keys and values of the parameters to come."""
    running = self._look()
    self._slots.unload()
    for visit in dict.fromkeys(one.visit for one in running):
      of_prompt = [one for one in running if one.visit == visit]
      group = self.groups[visit]
      self._slots.admit(visit, group.prompt, [one.sample for one in of_prompt], of_prompt, group.budgets)

  def settle(self) -> None:
    """Looks at every chunk that was dispatched: what is done between two steps, such as saving, then changes nothing."""
    for written in self._slots.settled():
      self._on_ended(written)

  def unload(self) -> None:
    """Gives the device's memory back, where nothing is on its way."""
    self._slots.unload()

  def _look(self) -> list[Written]:
    """What the samples have that began and did not end."""
    ended, running = self._slots.so_far()
    for written in ended:
      self._on_ended(written)
    return running

  def _on_ended(self, written: Written) -> None:
    group = self.groups[written.visit]
    if self._turns is None:
      tokens = int(written.record.own.sum())
      asked = item(group.row, self._text(written), finished(written), tokens, self._parts)
      judged = self._pool.submit(asked) if processes.is_mine(group.visit) else Future()
      self._end(group, written, judged, None)
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
    over = turn.done or turn.reward is None or not finished(written)
    said = None if over else self._said(written, turn)
    if said is None and not over:
      future = _unwritable(turn)
    length, budget = len(written.record.tokens) + len(said or ()), group.budgets.get(written.sample)
    if said is None or length >= (budget or self._turns.budget):
      self._end(group, written, future, self._dialogues.pop(written.name))
      return
    dialogue.read = length
    self._slots.reply(written, group.prompt, said, budget)

  def _said(self, written: Written, turn: Turn) -> list[int] | None:
    """What follows a turn: a stop token where a text ended it, and the environment's words; None where a program
    that the policy wrote has printed what the tokenizer has no token for."""
    stop = self._tokenizer.stop_ids[:1] if written.stop == STOP_STRING else ()
    try:
      return [*stop, *self._tokenizer.reply(turn.text)]
    except UserError as error:
      if self._turns.environment in ENVIRONMENTS:  # whose own words were looked at before the run: these are a program's
        return None
      raise UserError(f"environment {self._turns.environment!r} said what the tokenizer cannot write: {error}") from error

  def _end(self, group: Group, written: Written, judged: Future, dialogue: Dialogue | None) -> None:
    self._slots.release(written.name)
    group.ended[written.sample] = Ended(written, judged, dialogue)
    self._whole(group)

  def _whole(self, group: Group) -> None:
    if len(group.ended) == group.size and group.whole_at is None:
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


def _told(group: Group) -> tuple[int, dict | str]:
  """The group's verdicts as JSON values, or what they failed with: no process may leave before it has told the others."""
  try:
    return group.visit, {str(sample): ended.judged.result().to_json() for sample, ended in group.ended.items()}
  except Exception as error:  # of any kind: the others wait for word from here
    return group.visit, f"{type(error).__name__}: {error}"


def _unwritable(turn: Turn) -> Future:
  """The end of a dialogue that cannot go on by what the policy's own program printed: a zero, and no fault of ours."""
  ended = Future()
  detail = "a program printed characters that the tokenizer cannot write"
  ended.set_result(dataclasses.replace(turn, state={}, text="", reward=0.0, done=True, status="limit", detail=detail))
  return ended


def trusted(settings: RunSettings) -> dict[str, Callable]:
  """The verifiers of the settings that run in this process: the judge, where it has an address."""
  judge = settings.rewards.judge

  def asked(response: str, answer: str = "", question: str = "") -> Verdict:
    return grade(response, answer, question, judge=judge)

  return {"judge": asked} if judge.url else {}


def pool_of(settings: RunSettings) -> VerifierPool:
  """The pool that a run's settings ask for, with the environments that come with the library and the run's own."""
  rewards, name = settings.rewards, settings.rollout.environment
  own = {name: name} if name and name not in ENVIRONMENTS else {}
  return VerifierPool(
    workers=rewards.workers or None, deadline_s=rewards.deadline_s, memory_mb=rewards.memory_mb,
    environments=ENVIRONMENTS | own, trusted=trusted(settings), sandbox=rewards.sandbox,
  )  # fmt: skip


def open_answers(run: Run, pool: VerifierPool, root, shape: Shape, *, temperature: float) -> Answers:
  """Answers of a run's policy to prompts that are asked.

  Args:
    run: programs, tokenizer and settings.
    pool: open.
    root: typed PRNG key.
    shape: of `rollout_plan.rollout_shape`.
    temperature: 0 for argmax, without truncation; else with the settings' top-p, top-k and min-p.
  """
  chosen = run.settings.rollout
  truncation = dict(top_p=chosen.top_p, top_k=chosen.top_k, min_p=chosen.min_p) if temperature > 0 else {}
  draw = Draw(root, run.tokenizer.stop_ids, temperature=temperature, least=chosen.min_new_tokens, **truncation)
  turns = Turns(chosen.environment, chosen.turn_discount, chosen.max_new_tokens) if chosen.environment else None
  return Answers(
    Slots(run.programs.rollout, shape, draw, stop_finder(run.tokenizer, chosen.stops)), pool, run.tokenizer,
    turns=turns, require_finished=run.settings.rewards.require_finished, parts=run.settings.rewards.parts,
  )  # fmt: skip
