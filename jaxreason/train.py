"""Floor 4: the story of a run, from the first supervised step to the last checkpoint.

What enters: a built `Run` and a working directory. What leaves: a better model in `checkpoints/`, the numbers in
`metrics.jsonl`, and the results. Steps are counted through: supervised ones first, then reinforcement learning. Whatever a
run needs to go on is in the checkpoint: state, reference, place in the data, results so far; the rest is a function of the
settings and the step.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxreason import processes
from jaxreason.answers import pool_of
from jaxreason.build import Run
from jaxreason.checkpoint import Checkpoints, SaveFailed
from jaxreason.collect import Collector
from jaxreason.completions import Completions
from jaxreason.epochs import DIFFERENCE, Underway, updates
from jaxreason.errors import Preempted
from jaxreason.evaluate import evaluate, rights
from jaxreason.given import Demonstrations
from jaxreason.groups import Sample
from jaxreason.metrics import MetricsWriter, read
from jaxreason.phases import updates_of_a_batch
from jaxreason.preemption import Asked, Minutes, Preemption
from jaxreason.progress import Held, Progress, begin_rl, resume, saved_tree
from jaxreason.records import Batch, Rollouts, TrainState
from jaxreason.report.display import Display
from jaxreason.report.hacking import Guard, signals
from jaxreason.rewards.pool import VerifierPool
from jaxreason.scored import open_scorer, rewarded, trained_on
from jaxreason.settings import RunSettings
from jaxreason.skipped import SkippedUpdates

# Called after every update with (step, phase, state, batch, stats); debugging looks at each.
Watch = Callable[[int, str, TrainState, Batch, dict], None]


def train(run: Run, workdir: str | Path, *, show: Display, watch: Watch | None = None) -> dict:
  """Trains to the end and returns the results on the test split, `{"before": {...}, "after": {...}, "gain": {...}}`.

  Args:
    run: of `build.build`.
    workdir: made if need be; with a checkpoint in it, the run goes on from there.
    show: where progress is told.
    watch: see `Watch`.

  Raises:
    Preempted: the process was asked to end; the run has been saved.
  """
  settings = run.settings
  first_rl, total = settings.sft.steps, settings.sft.steps + settings.train.steps
  with (
    Preemption() as preemption,
    Checkpoints(Path(workdir) / "checkpoints", keep=settings.train.keep) as checkpoints,
    pool_of(settings) as pool,
    jax.set_mesh(run.mesh),
  ):
    show.say(f"verifiers: {pool.described()}")
    collector = Collector(run, pool)
    held, progress = resume(run, checkpoints, collector.fingerprint, show)
    if progress.collector:
      collector.restore(progress.collector)
    others, supervised = (run.teacher_params() if run.teacher_params else None, open_scorer(run)), Demonstrations(run)
    with (
      MetricsWriter(workdir, first_step=progress.step, on_numbers=told_to(show)) as metrics,
      SkippedUpdates(workdir, first_step=progress.step + bool(progress.underway)) as skips,
      Completions(workdir, first_step=progress.step + bool(progress.underway), decode=run.tokenizer.decode) as completions,
    ):
      guard, minutes = Guard(read(workdir), show.say), Minutes(settings.train.save_minutes)
      keep = functools.partial(save, checkpoints, (metrics, skips, completions), held, progress, collector, show)
      for step in range(progress.step, total):
        began, phase = time.perf_counter(), "sft" if step < first_rl else "train"
        if held.underway is None and step == first_rl:
          told = progress.record("before", test(run, held.state.model, pool, show, "before"), metrics, step)
          guard.looked(step, "test_before", told)
        if held.underway is None:
          held.underway = next_batch(run, supervised, collector, held, progress, others, step, preemption, completions)
        if held.underway is None or not learn(run, held, step, phase, skips, watch, preemption):
          leave(keep, checkpoints, progress, show)
        stats, held.underway = held.underway.told | held.underway.numbers, None
        if DIFFERENCE in stats:  # of no token nothing was measured
          progress.difference = jax.numpy.where(stats["empty"] > 0, jax.numpy.inf, stats[DIFFERENCE])
        metrics.write(step, phase, guard.looked(step, phase, stats) | {"time/step": time.perf_counter() - began})
        progress.step = step + 1
        if held.reference is not None and due(settings.reference.sync_every, progress.step - first_rl):
          held.reference = run.programs.sync_reference(held.reference, held.state.params)
        best = validation_due(settings, step + 1) and progress.validated(step, validate(run, held, pool, guard, step), metrics)
        if step + 1 == first_rl and settings.train.steps:
          begin_rl(run, held)
        is_due = best or minutes.due() or due(settings.train.save_every, step + 1) or step + 1 == first_rl
        keep(is_due and step + 1 < total)
        if preemption.asked and step + 1 < total:
          leave(keep, checkpoints, progress, show)
      if "after" not in progress.results:
        progress.record("after", test(run, held.state.model, pool, show, "after"), metrics, max(total - 1, 0))
        keep(wait=True)
  return progress.results


def next_batch(
  run: Run, supervised: Demonstrations, collector: Collector, held: Held, progress: Progress, others: tuple, step: int,
  preemption: Preemption, completions: Completions,
) -> Underway | None:  # fmt: skip
  """The batch of a step of either stage; None where the run was asked to end before it was there."""
  if step < run.settings.sft.steps:
    return supervised.underway(step)
  try:
    return begin(run, collector, held, progress, others, step, preemption.check, completions.write)
  except Asked:
    return None


def begin(
  run: Run, collector: Collector, held: Held, progress: Progress, others: tuple, step: int,
  look: Callable[[], None] = lambda: None, tell: Callable[[int, list[Sample]], None] = lambda *_: None,
) -> Underway:  # fmt: skip
  """The batch of a step of reinforcement learning, with all that its objective reads; `others` are the teacher's parameters and
  the reward model, or None; `look` is `Collector.collect`'s; `tell` is told the step's samples."""
  teacher, scorer = others
  settings, programs, temperature = run.settings, run.programs, run.settings.rollout.temperature
  collected = collector.collect(held.state.policy, step - settings.sft.steps, look)
  rollouts, numbers = collected.rollouts, dict(collected.numbers)
  tell(step, collected.samples)
  batch = programs.assemble(rollouts, width=collected.width).replace(layout=collected.layout)
  if scorer is not None:
    rollouts, told = rewarded(run, scorer, rollouts, batch)
    numbers |= told | signals(trained_on(collected.samples, rollouts), settings.rollout.group)
    batch = programs.assemble(rollouts, width=collected.width).replace(layout=collected.layout)
  if held.reference is not None:
    batch = programs.reference(held.compared_with, batch, temperature, rollouts.rewards, rollouts.judged)
  if teacher is not None:
    batch = programs.teacher(teacher, batch, temperature)
  if held.state.critic is not None:
    batch = programs.values(held.state.judge, batch, rollouts.rewards)
  several = updates_of_a_batch(settings, "train") > 1
  if several and (settings.objective.reads_old_policy or settings.train.max_kl):
    passed = not sampler_agrees(settings, progress.difference)
    numbers["old_policy_pass"] = float(passed)
    if passed:
      batch = programs.old_policy(held.state.policy, batch, temperature)
    else:
      batch = batch.replace(old_logprobs=batch.behavior_logprobs)
  if several:
    batch = batch.replace(layout=None)  # each minibatch has its own
  return Underway(batch, names(collected.samples, rollouts), numbers)


def learn(
  run: Run, held: Held, step: int, phase: str, skips: SkippedUpdates, watch: Watch | None, preemption: Preemption
) -> bool:
  """Does the updates of the batch that is underway. False: the run was asked to end before the last of them."""
  of_phase = step if phase == "sft" else step - run.settings.sft.steps
  for update in updates(run, held.state, held.underway, phase, of_phase):
    held.state = update.state
    skips.note(step, phase, update.stats, update.samples)
    if watch is not None:
      watch(step, phase, held.state, update.batch, update.stats)
    if preemption.asked:
      break
  return held.underway.done == updates_of_a_batch(run.settings, phase)


def sampler_agrees(settings: RunSettings, difference) -> bool:
  """Whether the sampler's log-probs stand for the policy's before a batch's first update: all samples are the policy's own, and
  at the last batch's first update the two differed by little. Before there was one, nobody knows."""
  fresh = settings.rollout.max_staleness == 0
  return fresh and difference is not None and float(difference) <= settings.train.old_policy_tolerance


def names(samples: list[Sample], rollouts: Rollouts) -> list[list]:
  """Which samples they are; see `Underway`."""
  prompts = np.repeat(rollouts.prompt_lengths, rollouts.lengths.shape[1])
  lengths = zip(samples, prompts.tolist(), (prompts + rollouts.lengths.reshape(-1)).tolist(), strict=True)
  return [[str(one.row["id"]), int(one.written.visit), one.written.sample, *tokens] for one, *tokens in lengths]


def leave(keep: Callable[[], None], checkpoints: Checkpoints, progress: Progress, show: Display) -> None:
  """Ends a run that was asked to end.

  Where the newest checkpoint is of the step that is underway, that step will be done again from there.
  """
  written(checkpoints, show, wait=True)
  if checkpoints.latest_step() != progress.step:
    keep(wait=True)
  newest = checkpoints.latest_step()
  raise Preempted(
    f"asked to end, {'with nothing saved yet' if newest is None else f'saved at step {newest}'}; go on with the same --workdir"
  )


def told_to(show: Display) -> Callable[[int, str, dict], None]:
  """Passes a row's numbers to the display; test results are left to the table at the end."""
  return lambda step, phase, numbers: None if phase.startswith("test_") else show.update(step, phase, numbers)


def due(every: int, step: int) -> bool:
  """Whether step, counted from 1, is one of every `every`; 0 means never."""
  return every > 0 and step > 0 and step % every == 0


def validation_due(settings: RunSettings, step: int) -> bool:
  """Whether to validate after `step` updates: every so many steps of reinforcement learning, and at its end."""
  every, done = settings.evaluation.every, step - settings.sft.steps
  return due(every, done) or (every > 0 and 0 < done == settings.train.steps)


def save(
  checkpoints: Checkpoints, rows: tuple[MetricsWriter | SkippedUpdates | Completions, ...], held: Held, progress: Progress,
  collector: Collector | None, show: Display, is_due: bool = True, wait: bool = False,
) -> None:  # fmt: skip
  """Begins to save a step where that is due, and tells where the save before has failed.

  A full disk is told and the run goes on, with the older steps as they were and the rows in memory.
  """
  written(checkpoints, show, wait=is_due)
  if not is_due:
    return
  problem = None
  try:
    for one in rows:
      one.flush()
  except OSError as error:  # a checkpoint without its rows would leave a hole in them after a kill
    problem = error.strerror or str(error)
  if problem := next(filter(None, processes.exchanged(problem)), None):
    show.say(f"warning: step {progress.step} is not saved, rows cannot be written ({problem}); tried again at the next save")
    return
  progress.collector = collector.state() if collector else {}
  progress.underway = held.underway.to_host() if held.underway else {}
  try:
    checkpoints.begin(progress.step, saved_tree(held.state, held.reference, held.underway), progress.to_host())
  except SaveFailed as error:
    show.say(f"warning: {error}")
  written(checkpoints, show, wait)


def written(checkpoints: Checkpoints, show: Display, wait: bool) -> None:
  """Looks whether the save underway has ended, or waits for it; one that failed is told, and the next is its next try."""
  try:
    checkpoints.finish() if wait else checkpoints.poll()
  except SaveFailed as error:
    show.say(f"warning: {error}")


def test(run: Run, params, pool: VerifierPool, show: Display, when: str) -> dict:
  """pass@1 on the test split, greedy and sampled, with some completions shown.

  Returns:
    {"greedy": numbers, "sampled": numbers, "right": {"greedy": [...], "sampled": [...]}}, right per problem.
  """
  settings = run.settings
  greedy, told = evaluate(run, params, pool, run.rows.test, temperature=0.0, samples=1)
  samples = settings.evaluation.samples
  sampled, drawn = evaluate(run, params, pool, run.rows.test, temperature=settings.rollout.temperature, samples=samples)
  few = told[: settings.evaluation.show]
  show.samples(f"completions {when} reinforcement learning, greedy", [shown(sample) for sample in few])
  right = {"greedy": as_json(rights(told, 1)), "sampled": as_json(rights(drawn, samples))}
  return {"greedy": greedy, "sampled": sampled, "right": right}


def as_json(shares: np.ndarray) -> list[float | None]:
  """Shares per problem, None for nan."""
  return [None if np.isnan(share) else float(share) for share in shares]


def shown(sample: Sample) -> dict:
  """A sample as the display takes it."""
  return {"prompt": sample.row["prompt"], "response": sample.response, "verdict": sample.verdict.status}


def validate(run: Run, held: Held, pool: VerifierPool, guard: Guard, step: int) -> dict:
  """Greedy pass@1 on the validation split, the one that settings and the best checkpoint are chosen by."""
  numbers, _ = evaluate(run, held.state.model, pool, run.rows.validation, temperature=0.0, samples=1)
  return guard.looked(step, "eval", numbers)
