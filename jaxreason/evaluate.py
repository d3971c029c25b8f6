"""Floor 4: pass@1 on held-out problems.

What enters: parameters and held-out rows. What leaves: the numbers and the samples. Greedy (temperature 0, one sample) and
sampled (the training temperature, several) go through the same programs and the same verifiers as training does.
"""

import math

import jax
import numpy as np

from jaxreason.answers import open_answers
from jaxreason.build import Run
from jaxreason.data.prompts import pack_prompts
from jaxreason.groups import Group, Sample
from jaxreason.rewards.pool import VerifierPool
from jaxreason.rollout.config import Shape
from jaxreason.rollout_numbers import check_judged, manners
from jaxreason.rollout_plan import rollout_shape

Z = 1.96  # standard deviations of a 95 % interval


def evaluate(
  run: Run, params, pool: VerifierPool, rows: list[dict], *, temperature: float, samples: int
) -> tuple[dict, list[Sample]]:
  """pass@1 of a policy.

  Args:
    run: programs, tokenizer and settings.
    params: master weights.
    pool: open.
    rows: held-out problems.
    temperature: 0 for greedy.
    samples: of each problem; pass@1 is the mean over problems and samples.

  Returns:
    (numbers, samples): pass@1 with the half-width of its 95 % interval over problems, truncation and format rates, share of
    worked answers and accuracy within each manner where the verifier tells them. A sample without a verdict is not wrong: it
    counts among `unjudged` and nowhere else.

  Raises:
    UserError: more samples without a verdict than `rewards.max_unjudged` allows.
  """
  slots = rollout_shape(run.settings, run.mesh, group=samples, samples=samples * len(rows))
  prepared = run.programs.rollout.prepare(params)
  found, truncated = responses(run, prepared, pool, rows, slots, temperature=temperature, samples=samples)
  check_judged(found, run.settings.rewards.max_unjudged)
  return summary(found, samples) | {"prompts/truncated": truncated}, found


def responses(
  run: Run, prepared, pool: VerifierPool, rows: list[dict], slots: Shape, *, temperature: float, samples: int, first: int = 0
) -> tuple[list[Sample], int]:
  """Judged samples of problems, in order.

  Args:
    run: programs, tokenizer and settings.
    prepared: the rollout's copy of the weights.
    pool: open.
    rows: held-out problems.
    slots: sizes of the rollout.
    temperature: 0 for greedy.
    samples: of each problem.
    first: number of the first of the rows among all problems: a draw is named by the problem's number and the sample's.

  Returns:
    (samples, prompts that lost their beginning).
  """
  shape, root = run.settings.rollout, jax.random.fold_in(jax.random.key(run.settings.seed), 3)
  answers = open_answers(run, pool, root, slots, temperature=temperature)
  # Every problem counts: a prompt that training would drop is cut here, and said so.
  policy = "error" if shape.long_prompts == "error" else "truncate_left"
  packed = pack_prompts(
    run.tokenizer, rows, range(first, first + len(rows)), bucket=shape.prompt_bucket, max_length=shape.max_prompt_tokens,
    policy=policy,
  )  # fmt: skip
  groups = [
    Group(visit, row, tokens[:length], samples)
    for visit, (row, tokens, length) in enumerate(zip(packed.rows, packed.tokens, packed.lengths, strict=True), first)
  ]
  pool.new_step()
  for group in groups:
    answers.ask(group)
  while answers.busy:
    answers.advance(prepared, 0)
  answers.unload()
  answers.judge(groups)
  return [sample for group in groups for sample in answers.take(group)], len(packed.truncated)


def rights(found: list[Sample], samples: int) -> np.ndarray:
  """[problems] float64, the share of each problem's judged samples that are right; nan for a problem without a verdict."""
  right = np.array([sample.verdict.solved for sample in found], np.float64).reshape(-1, samples)
  judged = np.array([sample.verdict.reward is not None for sample in found]).reshape(-1, samples)
  return np.where(judged.any(axis=1), (right * judged).sum(axis=1) / np.maximum(judged.sum(axis=1), 1), np.nan)


def summary(found: list[Sample], samples: int) -> dict:
  """Numbers of an evaluation: problems in order, `samples` of each."""
  right = rights(found, samples)
  return {
    "pass@1": mean(right),
    "pass@1_interval": half_width(right),
    "problems": len(right),
    "unparsable": float(np.mean([sample.verdict.status == "unparsable" for sample in found])),
    "unjudged": float(np.mean([sample.verdict.reward is None for sample in found])),
    "completions/mean_length": float(np.mean([sample.tokens for sample in found])),
    "completions/clipped_ratio": float(np.mean([not sample.finished for sample in found])),
  } | manners(found)


def mean(values: np.ndarray) -> float:
  """Of the problems that have a verdict; 0.0 when none has."""
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else 0.0


def half_width(values: np.ndarray) -> float:
  """Half the 95 % interval of a mean over the problems that have a verdict.

  By the normal approximation; where all n values are equal, which it would call certain, z² / (n + z²): as far as Wilson's
  interval reaches from 0 of n. 1.0 for a single value.
  """
  known = values[~np.isnan(values)]
  if len(known) < 2:
    return 1.0
  spread = float(known.std(ddof=1))
  return Z * spread / math.sqrt(len(known)) if spread else Z**2 / (len(known) + Z**2)


def paired_gain(before: list[float | None], after: list[float | None]) -> dict:
  """How much better the same problems are solved: the mean difference and half its 95 % interval over the problems that have a
  verdict (None: it has none) both times."""
  difference = np.array(after, np.float64) - np.array(before, np.float64)
  return {"gain": mean(difference), "gain_interval": half_width(difference)}
