"""Floor 4: from prompts to the judged rollouts of one step.

What enters: parameters and the place in the endless stream of prompts. What leaves: `Rollouts` with rewards, the samples as
text, and the step's numbers. P prompts x G samples.

With `max_staleness` 0 a batch is the first P groups, by visit id, that can be trained on; further prompts are begun only when
all that were begun are judged, so that no delay decides what is trained on. Above 0, samples that are not finished live on
across the update, groups are taken in the order in which they end, and admission is bounded: at most
(max_staleness + updates + 1) · P groups are ever begun, those that were given up not counted (as in AReaL).
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxreason import pending
from jaxreason.answers import open_answers
from jaxreason.build import Run, layout_of
from jaxreason.data.prompts import Prompts, pack_prompts
from jaxreason.data.queue import PromptQueue
from jaxreason.data.stream import PromptStream
from jaxreason.errors import UserError
from jaxreason.groups import Group, Judged, Sample
from jaxreason.records import Layout, Rollouts
from jaxreason.report.hacking import signals
from jaxreason.rewards.pool import VerifierPool
from jaxreason.rollout.config import width
from jaxreason.rollout_numbers import ages, arrays, check_judged, latencies, oldest, rewards_of, statistics
from jaxreason.rollout_plan import training_shape

COUNTS = (
  *("prompts/truncated", "prompts/dropped", "groups/begun", "groups/unused"),
  *("groups/same_reward", "groups/too_old"),
)


class Collected(NamedTuple):
  """One step's rollouts."""

  rollouts: Rollouts
  width: int  # completion columns of its batch, which hold the longest completion
  layout: Layout | None  # where its samples lie in packed rows; None where they are not packed
  samples: list[Sample]
  numbers: dict


class Collector:
  """The stream of training prompts, the place reached in it, and the groups that are on their way.

  Args:
    run: programs, tokenizer and settings.
    pool: open.
  """

  def __init__(self, run: Run, pool: VerifierPool):
    self._run, self._pool, self._shape = run, pool, run.settings.rollout
    self._stream = PromptStream(run.rows.train, seed=run.settings.seed)
    shape = self._shape
    root = jax.random.fold_in(jax.random.key(run.settings.seed), 2)
    self._answers = open_answers(run, pool, root, training_shape(run.settings, run.mesh), temperature=shape.temperature)
    self._queue = self._queue_at(None)
    self._trained, self._version = 0, None

  @property
  def fingerprint(self) -> str:
    """Of the training rows and their order, the held-out rows and the tokenizer; a resumed run must find the same."""
    held_out = [self._run.rows.validation, self._run.rows.test]
    told = json.dumps([self._stream.fingerprint, self._run.tokenizer.fingerprint, held_out], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()

  def state(self) -> dict:
    """All that a checkpoint keeps of the collector, as JSON values: the queue, and groups with what they have so far."""
    return {"queue": self._queue.state(), "trained": self._trained, "groups": pending.to_json(self._answers)}

  def restore(self, state: dict) -> None:
    """Goes on from a `state`. Keys and values of what was on its way are computed anew, with the parameters to come."""
    self._queue, self._trained = self._queue_at(state["queue"]), state["trained"]
    pending.from_json(state["groups"], self._answers, self._shape.group, self._prompts)

  def collect(self, params, step: int, look: Callable[[], None] = lambda: None) -> Collected:
    """One step's rollouts.

    Args:
      params: the policy's master weights.
      step: updates they have seen.
      look: called between two chunks. Where it raises, `state` is one to go on from: with `max_staleness` 0 as before the step,
        which is then done again to the bit, above that with all that was written.

    Raises:
      UserError: more samples without a verdict than `rewards.max_unjudged` allows, those of groups that are not used too.
    """
    began, before = time.perf_counter(), self._answers.work()
    self._pool.new_step()
    prepared = self._run.programs.rollout.prepare_training(params)
    self._counts, self._looked_at, self._too_old_lengths = dict.fromkeys(COUNTS, 0), [], []
    if self._shape.max_staleness:
      batch = self._endless(prepared, step, look)
    else:
      batch = self._in_waves(prepared, step, look)
    self._trained += len(batch)
    samples = [sample for judged in batch for sample in judged.samples]
    rewards, valid = rewards_of(samples)
    if self._run.settings.rewards.shuffle:
      order = np.random.default_rng([self._run.settings.seed, step]).permutation(rewards.size)
      rewards, valid = rewards[order], valid[order]
    rewards, valid = (array.reshape(len(batch), -1) for array in (rewards, valid))
    numbers = statistics(samples, rewards, valid) | signals(samples, self._shape.group)
    check_judged(self._looked_at, self._run.settings.rewards.max_unjudged)
    seconds, done = time.perf_counter() - began, self._answers.work().since(before)
    numbers |= self._counts | ages(samples, step) | {
      "slot_utilisation": done.tokens / max(1, done.slot_steps),
      "time/rollout": seconds,
      "time/reward_wait_seconds": done.waited,
      "perf/rollout_tokens_per_second": done.tokens / seconds,
    } | latencies(self._pool.stats(reset=True))  # fmt: skip
    if self._too_old_lengths:
      numbers["completions/mean_length_too_old"] = float(np.mean(self._too_old_lengths))
    if self._shape.max_solve_rate < 1:
      numbers |= {"prompts/solved": self._queue.solved, "prompts/skipped": self._queue.skipped}
    reads_steps = self._run.settings.objective.step_coef > 0
    rollouts = arrays(batch, rewards, valid, self._shape, self._run.tokenizer if reads_steps else None)
    columns, layout = self._layout(rollouts)
    return Collected(rollouts, columns, layout, samples, numbers)

  def _in_waves(self, params, step: int, look) -> list[Judged]:
    """The first P groups by visit id that can be trained on, all written by these parameters."""
    P, shape, before = self._shape.prompts, self._shape, self._queue.state()
    found, same = [], []
    for _ in range(shape.max_waves if shape.refill_zero_variance else 1):
      self._begin(self._wave(P - len(found)))
      while self._answers.busy:
        try:
          look()
        except BaseException:
          self._answers.forget()
          self._queue = self._queue_at(before)
          raise
        self._answers.advance(params, step)
      for judged in self._taken(self._answers.ready()):
        (found if self._teaches(judged) else same).append(judged)
      if len(found) >= P:
        break
    self._answers.unload()
    in_order = lambda groups: sorted(groups, key=lambda judged: judged.group.visit)
    return self._filled(in_order(found), in_order(same))

  def _endless(self, params, step: int, look) -> list[Judged]:
    """P groups in the order in which they ended; what is not finished goes on at the next step."""
    P, shape = self._shape.prompts, self._shape
    if shape.refresh_cache and self._version not in (None, step):
      self._answers.refresh()
    self._version = step
    found, same = [], []
    while len(found) < P and len(same) < shape.max_waves * P:
      # What may yet fill the batch up counts as found.
      allowed = (shape.max_staleness + step + 1) * P - self._begun(min(P, len(found) + len(same)))
      self._begin(max(0, min(math.ceil(self._answers.room / shape.group), allowed)))
      if len(found) + len(self._answers.ready()) < P:
        if not found and not same:  # groups that were taken out are in no state
          look()
        self._answers.advance(params, step)
      if len(found) + len(self._answers.ready()) >= P:
        for judged in self._taken(self._answers.ready()[: P - len(found)]):
          if not self._too_old(judged, step):
            (found if self._teaches(judged) else same).append(judged)
    self._answers.settle()
    return self._filled(found, same)

  def _begun(self, found: int) -> int:
    """Groups that were ever begun and not given up, with so many for the next batch."""
    return self._trained + found + len(self._answers.groups)

  def _filled(self, found: list[Judged], same: list[Judged]) -> list[Judged]:
    """A batch of P groups: where too few can teach, the first of the others fill it up."""
    P = self._shape.prompts
    used = same[: max(0, P - len(found))]
    self._counts["groups/unused"] += len(found[P:]) + len(same) - len(used)
    return sorted(found[:P] + used, key=lambda judged: judged.group.visit)

  def _too_old(self, judged: Judged, step: int) -> bool:
    """Whether the group is dropped for its age, and counts it."""
    most = self._shape.max_age
    if not most or step - oldest(judged.samples) <= most:
      return False
    self._counts["groups/too_old"] += 1
    self._too_old_lengths += [sample.tokens for sample in judged.samples]
    self._counts["groups/unused"] += 1
    return True

  def _teaches(self, judged: Judged) -> bool:
    """Whether dynamic sampling keeps the group; counts those that it replaces."""
    if not self._shape.refill_zero_variance or judged.varies:
      return True
    self._counts["groups/same_reward"] += 1
    return False

  def _wave(self, groups: int) -> int:
    """Groups to begin for so many that are wanted."""
    return math.ceil(groups * self._shape.oversample)

  def _begin(self, count: int) -> None:
    """Puts the next prompts that fit in line; dropped ones are replaced by those that follow."""
    self._counts["groups/begun"] += count
    dropped = 0
    while count:
      visits = self._queue.take(count)
      packed = self._prompts(visits)
      for row, (visit, length) in enumerate(zip(packed.visit_ids.tolist(), packed.lengths, strict=True)):
        group = Group(visit, packed.rows[row], packed.tokens[row, :length], self._shape.group)
        self._answers.ask(group)
      self._counts["prompts/truncated"] += len(packed.truncated)
      self._counts["prompts/dropped"] += len(packed.dropped)
      count, dropped = len(packed.dropped), dropped + len(packed.dropped)
      if dropped > 10 * self._shape.prompts + len(self._stream):
        raise UserError(
          f"no prompt of the training data has at most {self._shape.max_prompt_tokens} tokens; "
          "raise config.rollout.max_prompt_tokens"
        )

  def _prompts(self, visits: Sequence[int]) -> Prompts:
    shape = self._shape
    return pack_prompts(
      self._run.tokenizer, self._stream.rows(visits), visits,
      bucket=shape.prompt_bucket, max_length=shape.max_prompt_tokens, policy=shape.long_prompts,
    )  # fmt: skip

  def _queue_at(self, state: dict | None) -> PromptQueue:
    return PromptQueue(self._stream, order=self._shape.order, max_solve_rate=self._shape.max_solve_rate, state=state)

  def _taken(self, groups: list[Group]) -> list[Judged]:
    """Whole groups by visit id, with their verdicts, which go into the estimates of how hard their prompts are."""
    found = []
    self._answers.judge(groups)
    for group in sorted(groups, key=lambda group: group.visit):
      judged = Judged(group, self._answers.take(group))
      self._looked_at += judged.samples
      right = sum(sample.verdict.solved for sample in judged.samples)
      self._queue.record(group.visit, right, len(judged.rewards))
      found.append(judged)
    return found

  def _layout(self, rollouts: Rollouts) -> tuple[int, Layout | None]:
    """Completion columns of the batch, and its layout. Packed, columns cost nothing, and one width is one program."""
    shape, written = self._shape, rollouts.lengths.reshape(-1)
    packed = self._run.settings.train.row_tokens > 0
    columns = shape.max_new_tokens if packed else width(int(written.max()), shape.chunk, shape.max_new_tokens)
    prompts = np.repeat(rollouts.prompt_lengths, shape.group)
    whole = rollouts.prompts.shape[1] + columns
    return columns, layout_of(self._run, "train", prompts, prompts + written, whole, self._run.settings.train.minibatches)
