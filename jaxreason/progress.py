"""Floor 4: what a run has reached, and how it is taken up again.

What enters: a checkpoint directory. What leaves: state, reference and `Progress`, either fresh or exactly as they were saved.
A run is only taken up under the settings and data it was started with.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxreason import __version__, epochs, optimizer, phases, settings
from jaxreason.build import Run
from jaxreason.checkpoint import Checkpoints
from jaxreason.epochs import Underway
from jaxreason.errors import UserError
from jaxreason.evaluate import paired_gain
from jaxreason.metrics import MetricsWriter
from jaxreason.model import weights
from jaxreason.model.config import ModelConfig
from jaxreason.model.fingerprint import fingerprint_of
from jaxreason.records import TrainState, joined
from jaxreason.report.display import Display

# Settings that may differ when a run goes on: they change no number of the steps to come, those of CUTS but for rounding.
# Where the data and the model lie is free too: their content is held to the fingerprint, and weights come from the checkpoint.
FREE = (
  *("train.save_every", "train.save_minutes", "train.stall_seconds", "train.keep", "train.moments"),
  *("reference.memory", "rewards.workers", "evaluation.show"),
  *("rewards.judge.url", "rewards.judge.key_variable", "rewards.judge.timeout_s", "rewards.judge.tries"),
  *("data.files.train", "data.files.evaluation", "model.source"),
)
CUTS = (
  *("mesh.data", "mesh.fsdp", "mesh.sequence", "mesh.tensor", "train.chunk_tokens"),
  *("sft.micro_batches", "train.micro_batches", "sft.row_tokens", "train.row_tokens", "train.share_prompts"),
  *("preference.micro_batches", "preference.row_tokens"),
)


@dataclasses.dataclass
class Progress:
  """The host's part of a checkpoint.

  Attributes:
    config: the run's settings, as nested dicts.
    data: fingerprint of the training data.
    step: updates done, over both phases.
    collector: place in the endless stream of prompts, and the groups that are on their way; see `Collector.state`.
    best: {"step", "pass@1"} of the best validation, or of pairs {"step", "rewards/accuracies"}, or empty.
    underway: what `epochs.Underway.to_host` says of a batch whose updates are not all done, or empty.
    difference: of sampler and trainer at the last batch, see `epochs.DIFFERENCE`; None before the first.
    results: "before" and "after", each as `train.test` gives it, or as `pairs.ranking`, and "gain", problem by problem.
    mesh: number, platform and axes of the devices, in words.
    base: of adapters, `identity` of the weights beside them, which the checkpoint does not hold; else empty.
  """

  config: dict[str, Any]
  data: str
  step: int = 0
  collector: dict[str, Any] = dataclasses.field(default_factory=dict)
  best: dict[str, Any] = dataclasses.field(default_factory=dict)
  underway: dict[str, Any] = dataclasses.field(default_factory=dict)
  difference: Any = None
  results: dict[str, Any] = dataclasses.field(default_factory=dict)
  mesh: str = ""
  base: dict[str, str] = dataclasses.field(default_factory=dict)

  def record(self, when: str, result: dict, metrics: MetricsWriter, step: int) -> dict:
    """Keeps a test result, writes it among the metrics, and once there are two says what was gained; the numbers written."""
    self.results[when] = result
    manners = {manner: result[manner] for manner in ("greedy", "sampled")}
    flat = {f"{manner}/{name}": value for manner, numbers in manners.items() for name, value in numbers.items()}
    metrics.write(step, f"test_{when}", flat)
    if self.results.keys() >= {"before", "after"}:
      before, after = (self.results[name]["right"] for name in ("before", "after"))
      self.results["gain"] = {manner: paired_gain(before[manner], after[manner]) for manner in manners}
    return flat

  def validated(self, step: int, numbers: dict, metrics: MetricsWriter) -> bool:
    """Writes a validation; whether it is the best so far, whose checkpoint is then kept."""
    metrics.write(step, "eval", numbers)
    better = numbers["pass@1"] > self.best.get("pass@1", -1.0)
    if better:
      self.best = {"step": step + 1, "pass@1": numbers["pass@1"]}
    return better

  def to_host(self) -> dict:
    """As JSON values, for the checkpoint; `best_step` is the step that is kept beside the newest."""
    if self.difference is not None:
      self.difference = float(self.difference)
    return dataclasses.asdict(self) | {"best_step": self.best.get("step"), "version": __version__}


@dataclasses.dataclass
class Held:
  """The arrays of a run.

  Attributes:
    state: parameters and optimizer.
    reference: of objectives with a KL, in the second stage: weights of what is trained.
    underway: a batch whose updates are not all done.
  """

  state: TrainState
  reference: Any = None
  underway: Underway | None = None

  @property
  def compared_with(self) -> Any:
    """All weights of the reference: adapters as they were when the stage began, on the policy's own base."""
    return self.reference and joined(self.reference, self.state.base)


def saved_tree(state: TrainState, reference=None, underway: Underway | None = None) -> dict:
  """The arrays of a checkpoint: all but the base of adapters, which is where it came from."""
  return {"state": state.replace(base=None), "reference": reference, "underway": underway and underway.arrays}


def resume(run: Run, checkpoints: Checkpoints, fingerprint: str, show: Display) -> tuple[Held, Progress]:
  """What the newest checkpoint holds, or a run before its first step.

  Raises:
    UserError: the checkpoint is of another run, or all checkpoints are damaged.
  """
  host = checkpoints.read_host(checkpoints.settle(show.say))
  chosen = run.settings
  if host is None:
    progress = Progress(config=settings.thaw(chosen), data=fingerprint, mesh=described(run.mesh))
    params = run.initial_params()
    trained, base = weights.parts(params, run.config)
    progress.base = identity(base, chosen.model.source)
    if chosen.sft.steps:
      return Held(run.programs.start_sft(params)), progress
    held = Held(TrainState(trained, None, None, None, base=base))
    begin_rl(run, held)
    return held, progress
  check_same(host, chosen, fingerprint)
  fields = {field.name for field in dataclasses.fields(Progress)}
  progress = Progress(**{name: value for name, value in host.items() if name in fields})
  total = chosen.sft.steps + chosen.stage_steps
  if progress.step > total or (progress.step == total and "after" not in progress.results):
    raise UserError(
      f"config.{chosen.stage}.steps expected to end after step {progress.step}, which this run has reached, got {total}"
    )
  in_rl = progress.step >= chosen.sft.steps and settings.completed(progress.config)[chosen.stage]["steps"] > 0
  progress.config = settings.thaw(chosen)
  if progress.step < total:  # a finished run that was made longer has no end yet
    progress.results = {when: result for when, result in progress.results.items() if when == "before"}
  like = saved_tree(
    phases.abstract_state(chosen, run.config, run.mesh, chosen.stage if in_rl else "sft"),
    phases.abstract_reference(chosen, run.config, run.mesh) if in_rl else None,
  )
  like["underway"] = epochs.abstract(progress.underway, run.mesh) if progress.underway else None
  _, tree, _ = checkpoints.restore(like)
  underway = epochs.restored(progress.underway, tree["underway"]) if progress.underway else None
  base = base_of(run.initial_params, run.config, host, chosen.model.source)
  held = Held(phases.on_base(tree["state"], base), tree["reference"], underway)
  show.say(f"going on from step {progress.step} of {checkpoints.directory}")
  if progress.mesh not in ("", described(run.mesh)):
    show.say(f"it was made on {progress.mesh}, this is {described(run.mesh)}: numbers to come differ by rounding")
  progress.mesh = described(run.mesh)
  if not in_rl and progress.step == chosen.sft.steps and chosen.stage_steps:  # a supervised run goes on to the next stage
    begin_rl(run, held)
  return held, progress


def described(mesh: jax.sharding.Mesh) -> str:
  """'4 x cpu (data 2, fsdp 2)'."""
  axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
  return f"{mesh.size} x {mesh.devices.flat[0].device_kind}{f' ({axes})' if axes else ''}"


def begin_rl(run: Run, held: Held) -> None:
  """Goes over to the stage after the supervised one: a fresh optimizer, and a copy of the weights where its objective compares
  the policy with the one that it began as."""
  settings = run.settings
  needed = phases.objective_of(settings, settings.stage).needs_reference
  held.reference = run.programs.start_reference(held.state.params) if needed else None
  held.state = run.programs.start_rl(held.state.policy)


def identity(base, source: str) -> dict[str, str]:
  """What tells the base of adapters from another one; nothing where there is no base."""
  return {"source": source, "fingerprint": fingerprint_of(base)} if base else {}


def base_of(initial_params: Callable, config: ModelConfig, host: dict, source: str):
  """The base beside a checkpoint's adapters, from where a run begins; None where all weights are in the checkpoint.

  Raises:
    UserError: it is another one than the adapters were trained on.
  """
  if not config.lora.rank:
    return None
  _, base = weights.parts(initial_params(), config)
  made_on = host["base"]
  if (found := fingerprint_of(base)) != made_on["fingerprint"]:
    raise UserError(
      f"config.model.source expected the weights that the adapters were trained on, {made_on['source'] or 'drawn at random'} "
      f"with fingerprint {made_on['fingerprint']}, got {source or 'drawn at random'} with {found}; give the base of that run"
    )
  return base


def check_same(host: dict, chosen: settings.RunSettings, fingerprint: str) -> None:
  """Raises UserError when a checkpoint was made under other settings or data."""
  before, now = settings.flat(settings.completed(host["config"])), settings.flat(settings.thaw(chosen))
  # A run may be made longer or shorter as long as no learning rate that it has seen would have been another one.
  optimizers = [chosen.optimizer, *([chosen.critic.optimizer] if chosen.objective.needs_critic else [])]
  optimizers, steps = ([chosen.preference.optimizer] if chosen.stage == "preference" else optimizers), f"{chosen.stage}.steps"
  several = phases.updates_of_a_batch(chosen, chosen.stage)
  seen = (host["step"] - before["sft.steps"]) * several + host.get("underway", {}).get("done", 0)
  unbound = min(optimizer.unbound(each, rows[steps] * several) for each in optimizers for rows in (before, now))
  free = {*FREE, *CUTS, *([steps] if seen <= unbound else [])}
  for name in sorted(before.keys() | now.keys()):
    if name not in free and before.get(name) != now.get(name):
      raise UserError(
        f"config.{name} expected {before.get(name)!r}, with which this run was started, got {now.get(name)!r}; "
        "go on with the same settings or give another --workdir"
      )
  if host["data"] != fingerprint:
    raise UserError(
      "expected the training data that this run was started with, got other rows; restore the file or give a new --workdir"
    )
