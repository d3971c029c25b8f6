"""Floor 5, command line: the weights that a command works on, a run's or a model's.

What enters: `--workdir` with `--step`, or `--model`. What leaves: the settings they belong to, and then tokenizer, mesh,
programs and parameters. Everything that can be wrong with a run's directory is found before a device is touched.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from jaxreason import build, phases, settings, sharding
from jaxreason.build import Programs, Run
from jaxreason.checkpoint import Checkpoints
from jaxreason.cli import config as configs
from jaxreason.critic import Critic
from jaxreason.data.tokenizer import Tokenizer
from jaxreason.errors import UserError
from jaxreason.model import weights
from jaxreason.model.config import ModelConfig
from jaxreason.progress import Held, base_of, saved_tree
from jaxreason.records import TrainState
from jaxreason.settings import RunSettings


class Chosen(NamedTuple):
  """Which weights: of a checkpoint, or those that `settings.model.source` names."""

  settings: RunSettings
  directory: Path | None  # of checkpoints
  step: int | None


class Policy(NamedTuple):
  """What generating and exporting need: all of a run but its data."""

  tokenizer: Tokenizer
  config: ModelConfig
  mesh: Any
  programs: Programs
  params: weights.Params | Critic  # of a reward model the latter


def checkpoints_of(workdir: str | Path) -> Path:
  """Where a run keeps its checkpoints."""
  return Path(workdir) / "checkpoints"


def stored_settings(workdir: str | Path, step: int | None = None) -> ml_collections.ConfigDict | None:
  """The config that a run's checkpoint was made with, None where there is no checkpoint; reads one file."""
  host = Checkpoints(checkpoints_of(workdir), read_only=True).read_host(step)
  if host is None:
    return None
  return settings.complete(ml_collections.ConfigDict(host["config"]))


def choose(arguments: argparse.Namespace, config: ml_collections.ConfigDict | None = None) -> Chosen:
  """The weights that were asked for.

  Args:
    arguments: with workdir, step, model and overrides.
    config: what a model from elsewhere is used with; the defaults where None.

  Raises:
    UserError: both or neither were given, or there is no such checkpoint.
  """
  if bool(arguments.workdir) == bool(arguments.model):
    raise UserError(f"jaxreason {arguments.name} expected --workdir of a run or --model, got {_given(arguments)}; give one")
  if arguments.workdir:
    directory = checkpoints_of(arguments.workdir)
    newest = max(Checkpoints(directory, read_only=True).steps(), default=None)  # a damaged one is told, not passed over
    step = newest if arguments.step is None else arguments.step
    stored = stored_settings(arguments.workdir, step)
    if stored is None:
      raise UserError(
        f"--workdir expected a run's directory, got {arguments.workdir} without a checkpoint; train first or check the path"
      )
    return Chosen(settings.freeze(configs.apply(stored, arguments.overrides)), directory, step)
  if arguments.step is not None:
    raise UserError("--step expected a run's --workdir beside it, got --model; leave it out")
  config = configs.apply(settings.default_config(), arguments.overrides) if config is None else config
  frozen = settings.freeze(config)
  return Chosen(dataclasses.replace(frozen, model=dataclasses.replace(frozen.model, source=arguments.model)), None, None)


def open_policy(chosen: Chosen, start: Callable[[], list]) -> Policy:
  """The model on the first of the devices that `start` gives, without its data; what needs no device is checked before."""
  tokenizer = build.load_tokenizer(chosen.settings)
  config = build.model_config(chosen.settings, tokenizer)
  mesh = sharding.make_mesh(sharding.MeshSizes(), start()[:1])
  config = build.settled(config, chosen.settings, mesh)
  programs = build.compile_programs(chosen.settings, config, mesh)
  if chosen.directory is None:
    source, seed = chosen.settings.model.source, chosen.settings.seed
    begin = build.initial_params(source, seed, config, mesh, chosen.settings.lora.source)
    return Policy(tokenizer, config, mesh, programs, begin())
  return Policy(tokenizer, config, mesh, programs, restored(chosen, config, mesh))


def params_of(chosen: Chosen, run: Run) -> weights.Params:
  """The weights on the run's mesh."""
  return run.initial_params() if chosen.directory is None else restored(chosen, run.config, run.mesh)


def with_reference(chosen: Chosen, run: Run) -> tuple[weights.Params | Critic, weights.Params | None]:
  """(parameters, reference) of a checkpoint among the steps with pairs: a policy and what it began as, or a reward model."""
  if chosen.step < chosen.settings.sft.steps:
    raise UserError(f"--step expected at least {chosen.settings.sft.steps}, where pairs begin, got {chosen.step}")
  held = _restored(chosen, run.config, run.mesh, phases.abstract_reference(run.settings, run.config, run.mesh))
  return held.state.model, held.compared_with


def restored(chosen: Chosen, config: ModelConfig, mesh) -> weights.Params | Critic:
  """The parameters of a checkpoint, or their average where the run keeps one, without the optimizer's state: a policy's, or a
  reward model's."""
  return _restored(chosen, config, mesh, None).state.model


def is_reward_model(chosen: Chosen) -> bool:
  """Whether a checkpoint holds scores in place of a policy."""
  run = chosen.settings
  scored = run.stage == "preference" and run.preference.kind == "reward_model"
  return scored and chosen.directory is not None and chosen.step >= run.sft.steps


def _restored(chosen: Chosen, config: ModelConfig, mesh, reference) -> Held:
  """What a checkpoint holds without the optimizer's state; `reference` as shapes, or None to leave it where it is. Adapters are
  put beside their base, which is read from where the run's settings say."""
  run, (params, _) = chosen.settings, weights.parts(weights.abstract(config, mesh=mesh), config)
  if is_reward_model(chosen):
    params = phases.abstract_state(run, config, mesh, "preference").params
  averaged = run.train.average_decay > 0 and run.stage == "train" and run.train.steps > 0 and chosen.step >= run.sft.steps
  like = TrainState(None if averaged else params, None, None, None, average=params if averaged else None)
  with Checkpoints(chosen.directory, read_only=True) as checkpoints:
    _, tree, host = checkpoints.restore(saved_tree(like, reference), chosen.step, partial=True)
  begin = build.initial_params(run.model.source, run.seed, config, mesh)
  base = base_of(begin, config, host, run.model.source)
  return Held(phases.on_base(tree["state"], base), tree["reference"])


def _given(arguments: argparse.Namespace) -> str:
  return "both" if arguments.workdir else "neither"
