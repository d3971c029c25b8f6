"""Floor 4: how held-out pairs are ranked.

What enters: a `Run`, parameters of a policy with its reference, or of a reward model, and rows with chosen and rejected
answers. What leaves: the numbers under TRL's names, and who is ranked right. P pairs are 2 P samples.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxreason import passes, processes, sharding
from jaxreason.build import Run
from jaxreason.evaluate import half_width
from jaxreason.given import of_pairs


class PairPrograms(NamedTuple):
  """What learning from pairs compiles beside the update."""

  reference: Callable  # (params, batch) -> batch with reference_logprobs
  measure: Callable  # (params, batch) -> losses and rewards, three [P]


def compile_programs(run: Run) -> PairPrograms:
  """The jitted functions of a run that learns from pairs."""
  chosen = run.settings.preference
  shape = dict(config=run.config, micro_batches=chosen.micro_batches, chunk_tokens=run.settings.train.chunk_tokens)
  on_host = run.settings.reference.memory == "host"

  def reference(params, batch):
    return passes.with_reference(sharding.on_device(params) if on_host else params, batch, 1.0, **shape)

  return PairPrograms(
    reference=jax.jit(reference),
    measure=jax.jit(functools.partial(passes.measured_pairs, objective=chosen.objective, **shape)),
  )


def ranking(run: Run, programs: PairPrograms, params, reference, rows: list[dict]) -> tuple[dict, list[float]]:
  """How the pairs of `rows` are ranked.

  Args:
    run: settings and tokenizer.
    programs: of `compile_programs`.
    params: a policy's, or a reward model's.
    reference: of a policy, the parameters that it began as; None of a reward model.
    rows: held-out pairs.

  Returns:
    (numbers, right): loss, rewards/chosen, rejected, margins and accuracies with the half-width of its 95 % interval, pairs;
    and of each pair 1.0, 0.0 or, at a tie, 0.5.
  """
  size, found = run.settings.preference.batch, []
  for first in range(0, len(rows), size):
    some = rows[first : first + size]
    batch = of_pairs(run, some + [some[-1]] * (size - len(some)))  # one shape is one program
    if reference is not None:
      batch = programs.reference(reference, batch)
    found.append(np.stack(processes.fetched(programs.measure(params, batch)), axis=1)[: len(some)])
  losses, chosen, rejected = np.concatenate(found).astype(np.float64).T
  right = np.where(chosen == rejected, 0.5, chosen > rejected)
  numbers = {
    "loss": losses.mean(), "rewards/chosen": chosen.mean(), "rewards/rejected": rejected.mean(),
    "rewards/margins": (chosen - rejected).mean(), "rewards/accuracies": right.mean(),
    "rewards/accuracies_interval": half_width(right), "pairs": len(rows),
  }  # fmt: skip
  return {name: value if name == "pairs" else float(value) for name, value in numbers.items()}, right.tolist()
