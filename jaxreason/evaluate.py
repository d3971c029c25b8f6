"""Floor 4: pass@1 on held-out problems.

What enters: parameters and held-out rows. What leaves: the numbers and the samples. Greedy (temperature 0, one sample) and
sampled (the training temperature, several) go through the same programs and the same verifiers as training does.
"""

import math

import jax
import numpy as np

from jaxreason.build import Run
from jaxreason.collect import Sample, judged_wave, manners
from jaxreason.data.prompts import pack_prompts
from jaxreason.rewards.pool import VerifierPool
from jaxreason.rollout import engine
from jaxreason.sharding import batch_shards


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
    worked answers and accuracy within each manner where the verifier tells them.
  """
  shape = run.settings.rollout
  # Waves of the training shape reuse its compiled decode; the last one is filled up with repeats that are not counted.
  whole = batch_shards(run.mesh) // math.gcd(batch_shards(run.mesh), samples)  # prompts whose samples fill every device alike
  prompts = max(1, shape.prompts * shape.group // samples // whole) * whole
  prepared = run.programs.rollout.prepare(params)
  root = jax.random.fold_in(jax.random.key(run.settings.seed), 3)
  # Every problem counts: a prompt that training would drop is cut here, and said so.
  policy = "error" if shape.long_prompts == "error" else "truncate_left"
  found: list[Sample] = []
  truncated = set()
  for first in range(0, len(rows), prompts):
    chosen = [rows[min(index, len(rows) - 1)] for index in range(first, first + prompts)]
    packed = pack_prompts(
      run.tokenizer, chosen, range(first, first + prompts),
      bucket=shape.prompt_bucket, max_length=shape.max_prompt_tokens, policy=policy,
    )  # fmt: skip
    wave = engine.Wave(packed.tokens, packed.lengths, packed.visit_ids.astype(np.int32), samples, shape.max_new_tokens)
    judged = judged_wave(run, prepared, pool, packed.rows, wave, temperature=temperature, root=root, version=0)
    truncated |= {visit for visit in packed.truncated if visit < len(rows)}
    found += judged.samples[: samples * (min(first + prompts, len(rows)) - first)]
  return summary(found, samples) | {"prompts/truncated": len(truncated)}, found


def rights(found: list[Sample], samples: int) -> np.ndarray:
  """[problems] float64, the share of each problem's samples that are right; problems in order, `samples` of each."""
  return np.array([sample.verdict.status == "correct" for sample in found], np.float64).reshape(-1, samples).mean(axis=1)


def summary(found: list[Sample], samples: int) -> dict:
  """Numbers of an evaluation: problems in order, `samples` of each."""
  right = rights(found, samples)
  return {
    "pass@1": float(right.mean()),
    "pass@1_interval": half_width(right),
    "problems": len(right),
    "unparsable": float(np.mean([sample.verdict.status == "unparsable" for sample in found])),
    "unjudged": float(np.mean([sample.verdict.reward is None for sample in found])),
    "completions/mean_length": float(np.mean([sample.tokens for sample in found])),
    "completions/clipped_ratio": float(np.mean([not sample.finished for sample in found])),
  } | manners(found)


def half_width(values: np.ndarray) -> float:
  """Half the 95 % interval of a mean, by the normal approximation; 1.0 for a single value."""
  return float(1.96 * values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 1.0


def paired_gain(before: list[float], after: list[float]) -> dict:
  """How much better the same problems are solved: the mean difference and half its 95 % interval over problems."""
  difference = np.array(after) - np.array(before)
  return {"gain": float(difference.mean()), "gain_interval": half_width(difference)}
