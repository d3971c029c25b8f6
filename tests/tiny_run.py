"""A whole run in miniature: a warm-up, a few steps of reinforcement learning, with saves, validations and tests.

As a program it takes a working directory and perhaps the word `endless`, and does what `train` does, with a line for every step
and the results, as JSON, on the last one. The tests that kill it start it so; the others import `settings`.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax

from jaxreason import settings as rooms
from jaxreason import train as loop
from jaxreason.build import Run, build
from jaxreason.collect import Collector
from jaxreason.report.display import display
from jaxreason.settings import RunSettings
from jaxreason.train import Demonstrations


def settings(**changes) -> RunSettings:
  """Settings of the run; changes by dotted name, with __ for the dot."""
  config = rooms.default_config()
  config.model.update(embed=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp=64)
  config.data.update(train_rows=64)
  config.data.running_sums.update(min_terms=2, max_terms=3, worked_share=0.2)
  config.sft.update(steps=24, batch=16, max_tokens=24, row_tokens=48)
  config.sft.optimizer.update(peak_lr=1e-2, warmup_steps=2)
  # One bucket of each width, so that each program is compiled once.
  config.rollout.update(
    prompts=4, group=4, max_new_tokens=12, max_prompt_tokens=24, chunk=12, prompt_bucket=24, cache_bucket=36
  )
  config.objective.update(kl_coef=0.01)
  config.optimizer.update(peak_lr=1e-3)
  config.train.update(steps=6, save_every=4, row_tokens=72)
  config.rewards.update(workers=1)
  config.evaluation.update(problems=16, samples=2, every=2, show=2)
  config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
  return rooms.freeze(config)


@functools.cache
def learner(data: int = 1, fsdp: int = 1, row_tokens: int = 0, **changes) -> Run:
  """A run that has time to learn, over data x fsdp devices: the tests that share it share its compiled programs."""
  longer = dict(sft__steps=40, sft__batch=32, rollout__prompts=8, rollout__group=8, train__steps=100)
  plain = dict(objective__kl_coef=0.0, optimizer__peak_lr=2e-3, train__save_every=1000, evaluation__every=50)
  rows = dict(sft__row_tokens=row_tokens, train__row_tokens=row_tokens)
  chosen = settings(**(longer | plain | rows | dict(mesh__data=data, mesh__fsdp=fsdp) | changes))
  return build(chosen, devices=jax.devices()[: data * fsdp])


@functools.cache
def taught():
  """Parameters of `learner` after its supervised steps, which earn a reward for some of their answers."""
  run = learner()
  supervised = Demonstrations(run)
  with jax.set_mesh(run.mesh):
    state = run.programs.start_sft(run.initial_params())
    for step in range(run.settings.sft.steps):
      state, _ = run.programs.supervise(state, supervised.batch(step), 1.0)
  return state.params


def changed(run: Run, **changes) -> Run:
  """The run with other settings that no program depends on, such as `rewards=dict(shuffle=True)`."""
  sections = {name: dataclasses.replace(getattr(run.settings, name), **values) for name, values in changes.items()}
  return run._replace(settings=dataclasses.replace(run.settings, **sections))


# Dialogues that live on across updates.
ENDLESS = dict(
  objective="decoupled_ppo", rollout__max_staleness=1, rollout__environment="judges", rollout__max_new_tokens=36,
  rollout__chunk=6, rollout__slots=20, rollout__cache_bucket=72, train__row_tokens=0, train__save_every=1, sft__steps=2,
  rewards__require_finished=False, evaluation__every=0,
)  # fmt: skip


class Told(Collector):
  """Writes the names of the samples of each step to `trained.jsonl`."""

  def collect(self, params, step, *look):
    collected = super().collect(params, step, *look)
    names = [[int(sample.written.visit), sample.written.sample] for sample in collected.samples]
    with open(self.path, "a") as file:
      file.write(json.dumps([step, names, [sample.reward for sample in collected.samples]]) + "\n")
    return collected


def main(workdir: str, *kind: str) -> None:
  chosen = settings(**(ENDLESS if kind else {}))
  if kind:
    Told.path = Path(workdir) / "trained.jsonl"
    loop.Collector = Told
  with display({"sft": chosen.sft.steps, "train": chosen.train.steps}) as show:
    results = loop.train(build(chosen), workdir, show=show, watch=lambda step, phase, *_: print(phase, step, flush=True))
  print(json.dumps(results))


if __name__ == "__main__":
  main(*sys.argv[1:])
