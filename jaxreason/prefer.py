"""Floor 4: the story of a run that learns from pairs: a policy by DPO, or a reward model.

What enters: a built `Run` whose stage is "preference" and a working directory. What leaves: the model in `checkpoints/`, the
numbers in `metrics.jsonl`, and the results. As in `train`, supervised steps come first where there are any, here on the
preferred answers, the steps of both stages are counted through, and whatever a run needs to go on is in the checkpoint.
"""

import functools
import time
from pathlib import Path

import jax

from jaxreason.build import Run
from jaxreason.checkpoint import Checkpoints
from jaxreason.evaluate import paired_gain
from jaxreason.given import Demonstrations, Pairs
from jaxreason.metrics import MetricsWriter
from jaxreason.pairs import compile_programs, ranking
from jaxreason.preemption import Minutes, Preemption
from jaxreason.progress import Progress, begin_rl, resume
from jaxreason.report.display import Display
from jaxreason.skipped import SkippedUpdates
from jaxreason.train import Watch, due, learn, leave, save, told_to

ACCURACY = "rewards/accuracies"


def prefer(run: Run, workdir: str | Path, *, show: Display, watch: Watch | None = None) -> dict:
  """Learns from pairs to the end and returns how the test pairs are ranked, `{"before": {...}, "after": {...}, "gain": {...}}`.

  Args:
    run: of `build.build`; settings.stage is "preference".
    workdir: made if need be; with a checkpoint in it, the run goes on from there.
    show: where progress is told.
    watch: see `train.Watch`.

  Raises:
    Preempted: the process was asked to end; the run has been saved.
  """
  settings, ranks = run.settings, compile_programs(run)
  first, total = settings.sft.steps, settings.sft.steps + settings.preference.steps
  with (
    Preemption() as preemption,
    Checkpoints(Path(workdir) / "checkpoints", keep=settings.train.keep) as checkpoints,
    jax.set_mesh(run.mesh),
  ):
    supervised, pairs = Demonstrations(run), Pairs(run)
    held, progress = resume(run, checkpoints, pairs.fingerprint, show)
    with (
      MetricsWriter(workdir, first_step=progress.step, on_numbers=told_to(show)) as metrics,
      SkippedUpdates(workdir, first_step=progress.step) as skips,
    ):
      keep = functools.partial(save, checkpoints, (metrics, skips), held, progress, None, show)
      minutes = Minutes(settings.train.save_minutes)
      for step in range(progress.step, total):
        began, phase = time.perf_counter(), "sft" if step < first else "preference"
        if step == first:
          record(progress, "before", ranking(run, ranks, held.state.policy, held.compared_with, run.rows.test), metrics, step)
        held.underway = supervised.underway(step) if phase == "sft" else pairs.underway(step - first)
        if phase == "preference" and held.reference is not None:
          held.underway.batch = ranks.reference(held.compared_with, held.underway.batch)
        learn(run, held, step, phase, skips, watch, preemption)
        stats, held.underway = held.underway.told, None
        metrics.write(step, phase, stats | {"time/step": time.perf_counter() - began})
        progress.step = done = step + 1
        best = done > first and (due(settings.evaluation.every, done - first) or (settings.evaluation.every and done == total))
        if best:
          numbers, _ = ranking(run, ranks, held.state.policy, held.compared_with, run.rows.validation)
          best = validated(progress, step, numbers, metrics)
        if done == first:
          begin_rl(run, held)
        keep((best or minutes.due() or due(settings.train.save_every, done) or done == first) and done < total)
        if preemption.asked and done < total:
          leave(keep, checkpoints, progress, show)
      if "after" not in progress.results:
        after = ranking(run, ranks, held.state.policy, held.compared_with, run.rows.test)
        record(progress, "after", after, metrics, max(total - 1, 0))
        keep(wait=True)
  return progress.results


def record(progress: Progress, when: str, ranked: tuple[dict, list[float]], metrics: MetricsWriter, step: int) -> None:
  """Keeps a test result, writes it among the metrics, and once there are two says what was gained."""
  numbers, right = ranked
  progress.results[when] = numbers | {"right": right}
  metrics.write(step, f"test_{when}", numbers)
  if progress.results.keys() >= {"before", "after"}:
    progress.results["gain"] = paired_gain(progress.results["before"]["right"], progress.results["after"]["right"])


def validated(progress: Progress, step: int, numbers: dict, metrics: MetricsWriter) -> bool:
  """Writes a validation; whether it ranks more pairs right than any before, so that its checkpoint is kept."""
  metrics.write(step, "eval", numbers)
  better = numbers[ACCURACY] > progress.best.get(ACCURACY, -1.0)
  if better:
    progress.best = {"step": step + 1, ACCURACY: numbers[ACCURACY]}
  return better
