"""Floor 5, command line: `jaxreason train`, `jaxreason sft` and `jaxreason preference`.

What enters: a config, a working directory, or both. What leaves: in the directory the checkpoints, `metrics.jsonl`,
`results.json` and `reward_curve.png`; on the terminal how it went and what was gained. `--debug` makes everything small,
`--eager` takes jit away, and `--replay` runs one dumped step again.
"""

import argparse
import json
import os
import pdb
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections

from jaxreason import build, debug, metrics, phases, processes, progress, rollout_plan, settings
from jaxreason.build import Run
from jaxreason.checkpoint import Checkpoints
from jaxreason.cli import config as configs
from jaxreason.cli import devices as platforms
from jaxreason.cli import joining, results, source
from jaxreason.errors import UserError
from jaxreason.model import weights
from jaxreason.objective import Objective
from jaxreason.prefer import prefer
from jaxreason.recipes import RECIPES
from jaxreason.report.curve import reward_curve
from jaxreason.report.display import Display, display
from jaxreason.rollout.config import bucketed
from jaxreason.settings import PreferenceSettings, RunSettings
from jaxreason.train import train
from jaxreason.watchdog import Watchdog

# What --debug makes of a run: each setting is lowered to this, never raised.
SMALL = {
  "data.train_rows": 200, "sft.steps": 4, "sft.batch": 8, "preference.steps": 3, "preference.batch": 8, "train.steps": 3,
  "rewards.workers": 1,
  "rollout.prompts": 4, "rollout.group": 4, "rollout.slots": 16, "rollout.max_new_tokens": 32, "rollout.min_new_tokens": 32,
  "evaluation.problems": 8, "evaluation.samples": 2, "evaluation.every": 0, "evaluation.show": 2,
}  # fmt: skip
# And what it sets: one device, and nothing cut in parts.
SIMPLE = {"mesh.data": 1, "mesh.fsdp": 1, "mesh.sequence": 1, "mesh.expert": 1, "mesh.tensor": 1, "mesh.dcn": 1}
SIMPLE |= {"sft.micro_batches": 1, "train.micro_batches": 1}
SIMPLE |= {"sft.row_tokens": 0, "train.row_tokens": 0, "train.epochs": 1, "train.minibatches": 1}
SIMPLE |= {"preference.micro_batches": 1, "preference.row_tokens": 0}


def command(arguments: argparse.Namespace) -> int:
  """Trains, or replays; see the room's description."""
  arguments.debug |= arguments.eager
  if arguments.replay:
    return replay(arguments)
  chosen, workdir = choose(arguments)
  check_workdir(workdir, chosen)
  totals = {name: steps for name, steps in (("sft", chosen.sft.steps), (chosen.stage, chosen.stage_steps)) if steps}
  learn = prefer if chosen.stage == "preference" else train
  parts = build.read(chosen)
  joining.join(arguments, os.environ)
  with display(totals, quiet=arguments.quiet or not processes.is_first()) as show:
    devices = platforms.start(arguments.platform, show.say)
    devices = devices[:1] if arguments.debug else devices
    run = build.place(parts, devices=devices)
    introduce(run, workdir, show)
    look = debug.watching(chosen, run.config, workdir) if arguments.debug else lambda *_: None
    with Watchdog(0 if arguments.debug else chosen.train.stall_seconds) as watchdog:

      def watch(step, phase, *told):
        watchdog.beat(f"an update of {phase} step {step}")
        look(step, phase, *told)

      status, found = guarded(lambda: learn(run, workdir, show=show, watch=watch), eager=arguments.eager)
    if status:
      return status
  if not processes.is_first():
    return 0
  with display({}) as show:  # results are told to a quiet terminal too
    conclude(found, chosen, workdir, devices, show)
  return 0


def choose(arguments: argparse.Namespace) -> tuple[RunSettings, Path]:
  """The settings and the directory: each from the other where only one was given.

  Raises:
    UserError: neither was given, a mistake in the config, or a checkpoint in the directory that was made under another one.
  """
  stored = source.stored_settings(arguments.workdir) if arguments.workdir else None
  if arguments.config:
    path = configs.locate(arguments.config)
    config, workdir = configs.read(path), Path(arguments.workdir or default_workdir(path.stem, arguments.debug))
  elif stored is not None:
    config, workdir = stored, Path(arguments.workdir)
  else:
    where = f" and no checkpoint in {arguments.workdir}" if arguments.workdir else ""
    raise UserError(
      f"jaxreason {arguments.name} expected --config, got none{where}; give one of {', '.join(configs.shipped())} or a path"
    )
  if arguments.debug and (arguments.config or stored is None):
    config = smaller(config)
  config = configs.apply(config, arguments.overrides)
  _only_stages_of(arguments.name, config)
  chosen = settings.freeze(config)
  if not (chosen.stage_steps or (chosen.sft.steps and arguments.name != "preference")):
    raise UserError(f"config.{arguments.name}.steps expected at least 1, got 0; there is nothing to do")
  return chosen, workdir


def _only_stages_of(command: str, config: ml_collections.ConfigDict) -> None:
  """Leaves out the stages that are another command's."""
  if command == "train" and config.preference.steps:
    raise UserError(
      f"config.preference.steps expected 0 with jaxreason train, got {config.preference.steps}; use jaxreason preference"
    )
  if command == "sft":
    config.preference.steps = 0
  if command != "train":
    config.train.steps = 0


def smaller(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config as `--debug` runs it; `data.train_rows` and the like stay 0 where 0 means none."""
  present = settings.flat(config.to_dict())
  config.update_from_flattened_dict(SIMPLE)
  lowered = {name: min(present[name], most) for name, most in SMALL.items()}
  if present["data.task"] == "files":
    lowered["data.train_rows"] = SMALL["data.train_rows"]  # there 0 means all
  config.update_from_flattened_dict(lowered | {"rewards.workers": SMALL["rewards.workers"]})
  return config


def default_workdir(name: str, debugging: bool) -> str:
  """runs/NAME, or a new runs/NAME-debug-N: debugging begins afresh each time."""
  if not debugging:
    return os.path.join("runs", name)
  taken = [int(path.name.rpartition("-")[2]) for path in Path("runs").glob(f"{name}-debug-*") if path.name[-1].isdigit()]
  return os.path.join("runs", f"{name}-debug-{max(taken, default=0) + 1}")


def check_workdir(workdir: Path, chosen: RunSettings) -> None:
  """Makes the directory, writes into it, and compares a checkpoint that is there with the settings.

  Raises:
    UserError: it cannot be written, or holds another run.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir) as file:
      file.write(b"0")
  except OSError as error:
    raise UserError(
      f"--workdir expected a directory that can be written, got {workdir} ({error.strerror or error}); give another"
    ) from error
  host = Checkpoints(source.checkpoints_of(workdir), read_only=True).read_host()
  if host is not None:
    progress.check_same(host, chosen, host["data"])  # the data itself is compared when the run is taken up


def introduce(run: Run, workdir: Path, show: Display) -> None:
  """What is about to run, before the first step makes anybody wait."""
  chosen, config = run.settings, run.config
  mesh = ", ".join(f"{name} {size}" for name, size in run.mesh.shape.items() if size > 1) or "one device"
  show.say(f"devices: {platforms.described(list(run.mesh.devices.flat))}; mesh: {mesh}")
  show.say(
    f"model: {weights.count(config):,} parameters, {config.layers} layers of {config.embed}, "
    f"vocabulary {config.vocab_size:,}, computing in {config.compute_dtype}"
  )
  if config.lora.rank:
    on = f" on a base in {config.lora.base}" if config.lora.base != "float32" else ""
    show.say(f"adapters: {weights.count(config, trained=True):,} parameters are trained, rank {config.lora.rank}{on}")
  show.say(f"training: attention: {build.training_kernel(chosen, config, run.mesh)[1]}; remat: {config.remat}")
  counts = ", ".join(f"{len(rows):,} {name}" for name, rows in zip(run.rows._fields, run.rows, strict=True))
  show.say(f"data: {chosen.data.task}, {'pairs' if chosen.stage == 'preference' else 'problems'}: {counts}")
  shape = chosen.rollout
  if chosen.sft.steps:
    show.say(f"supervised: {chosen.sft.steps} steps of {chosen.sft.batch} demonstrations")
  if chosen.stage == "preference":
    show.say(f"preference: {chosen.preference.steps} steps of {chosen.preference.batch} pairs")
    show.say(f"objective: {told_pairs(chosen.preference)}")
  elif chosen.train.steps:
    show.say(f"reinforcement: {chosen.train.steps} steps of {shape.prompts} prompts x {shape.group} samples")
    show.say(f"objective: {described(chosen.objective)}")
    if (several := phases.updates_of_a_batch(chosen, "train")) > 1:
      show.say(f"updates: {several} a batch, {chosen.train.epochs} epochs of {chosen.train.minibatches} minibatches")
    show.say(f"rollout: {laid_out(chosen, run)}")
  show.say(f"compiling as it goes: {', '.join(compiled(run))}")
  if folder := jax.config.jax_compilation_cache_dir:
    show.say(f"compiled programs are kept in {folder}")
  show.say(f"working directory: {workdir}")


def compiled(run: Run) -> list[str]:
  """The programs of a run, in the order in which they are first needed."""
  chosen, shape, objective = run.settings, run.settings.rollout, phases.objective_of(run.settings, run.settings.stage)
  if chosen.stage == "preference":
    pairs = {"supervise": chosen.sft.steps, "reference": objective.needs_reference, "measure": True, "update": True}
    return [name for name, is_needed in pairs.items() if is_needed]
  several = phases.updates_of_a_batch(chosen, "train") > 1
  copies = rollout_plan.training_shape(chosen, run.mesh).lane == 1
  longest = shape.max_new_tokens + copies * bucketed(shape.max_prompt_tokens, shape.prompt_bucket)
  caches = len({bucketed(length, shape.cache_bucket) for length in range(1, longest + 1)})
  needed = {
    "supervise": chosen.sft.steps, "prepare": True, "extend": True, "insert": True,
    f"decode (at most {caches} cache sizes)": True, "assemble": chosen.train.steps,
    "reference": chosen.train.steps and objective.needs_reference, "teacher": chosen.train.steps and objective.needs_teacher,
    "values": chosen.train.steps and objective.needs_critic,
    "old_policy": several and (objective.reads_old_policy or chosen.train.max_kl),
    "take": several, "update": chosen.train.steps,
  }  # fmt: skip
  return [name for name, is_needed in needed.items() if is_needed]


def laid_out(chosen: RunSettings, run: Run) -> str:
  """How slots, prompts and the cache lie, and which kernel reads them."""
  shape, (_, why) = rollout_plan.training_shape(chosen, run.mesh), rollout_plan.decode_kernel(chosen, run.config, run.mesh)
  prompts = f"lanes of {shape.lane} share a prompt's keys and values" if shape.lane > 1 else "each with a copy of its prompt"
  ahead = f", {shape.ahead} chunk ahead of the host" if shape.ahead else ""
  return f"{shape.slots} slots, {prompts}; chunks of {shape.chunk} tokens{ahead}; decode attention: {why}"


def described(objective: Objective) -> str:
  """Which recipe it is, or what it is made of, and which further models it needs."""
  made_of = f"{objective.surrogate}, {objective.advantage}, {objective.reduction}"
  recipe = next((name for name, known in RECIPES.items() if known == objective), None)
  needed = {"reference": objective.needs_reference, "teacher": objective.needs_teacher, "critic": objective.needs_critic}
  models = [f"a {name}" for name, is_needed in needed.items() if is_needed]
  return (f"{recipe} ({made_of})" if recipe else made_of) + (f", with {' and '.join(models)}" if models else "")


def told_pairs(chosen: PreferenceSettings) -> str:
  """What pairs teach."""
  if chosen.kind == "reward_model":
    return "reward_model (Bradley-Terry), a score where an answer ends"
  per_token = ", by the mean of an answer's log-probs" if chosen.per_token else ""
  return f"dpo ({chosen.form}, {chosen.divergence}, beta {chosen.beta:g}{per_token}), with a reference"


def conclude(found: dict, chosen: RunSettings, workdir: Path, devices: list, show: Display) -> None:
  """The results: a table, a sentence, `results.json` and the curve."""
  of_pairs = chosen.stage == "preference"
  show.table(*(results.pairs_table(found) if of_pairs else results.table(found, chosen)))
  show.say(results.pairs_sentence(found, chosen) if of_pairs else results.sentence(found, chosen))
  made_by = {"settings": settings.thaw(chosen), "devices": platforms.described(devices), "versions": platforms.versions()}
  part = workdir / "results.json.part"
  part.write_text(json.dumps(found | made_by) + "\n")
  os.replace(part, workdir / "results.json")
  show.say(f"results: {workdir / 'results.json'}")
  if chosen.train.steps:
    path = reward_curve(metrics.read(workdir), workdir / "reward_curve.png")
    show.say(f"reward curve: {path}")


def guarded(call: Callable[[], dict], *, eager: bool) -> tuple[int, dict]:
  """(exit status, what the call returned): numbers that are not finite are told in one line; `eager` takes jit away and opens
  the debugger where an exception was raised, on a terminal."""
  try:
    with jax.disable_jit(eager):
      return 0, call()
  except UserError:
    raise
  except debug.BadStep as error:
    return _told(str(error)), {}
  except Exception as error:
    if eager and sys.stdin.isatty():
      traceback.print_exception(error)
      pdb.post_mortem(error.__traceback__)
      return 1, {}
    if isinstance(error, FloatingPointError):
      return _told(f"{error}, {_place(error)}"), {}
    raise


def replay(arguments: argparse.Namespace) -> int:
  """Runs a dumped step again and explains it; 0 when all is finite (now), 1 when something is not."""
  if arguments.config or arguments.workdir or arguments.overrides:
    raise UserError("--replay expected no --config, --workdir or settings beside it: the file holds them; leave them out")
  if not Path(arguments.replay).is_file():
    wrong = "is a directory; name a bad_step_N.npz" if Path(arguments.replay).is_dir() else "does not exist; check the path"
    raise UserError(f"--replay expected a file, got {arguments.replay}, which {wrong}")
  with display({}) as show:
    devices = platforms.start(arguments.platform, show.say)
    with jax.default_device(devices[0]):
      taken = debug.load(arguments.replay)
      how = "one operation at a time" if arguments.eager else "compiled"
      show.say(f"step {taken.step} ({taken.phase}) on {platforms.described(devices[:1])}, {how}")
      # One by one, JAX can say which operation gave the first NaN; compiled, only that one came out.
      with jax.debug_nans(arguments.eager):
        status, numbers = guarded(lambda: debug.replay(taken), eager=arguments.eager)
      for name, value in numbers.items():
        show.say(f"  {name} {value:g}")
      found = debug.explain(taken)
  show.say(f"first that is not finite: {found}" if found else "every number of this step is finite")
  return 1 if found or status else 0


def _told(line: str) -> int:
  print(f"jaxreason: {' '.join(line.split())}", file=sys.stderr)
  return 1


def _place(error: Exception) -> str:
  """The innermost line of ours that the error passed through."""
  package = str(Path(build.__file__).parent)
  frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(package)]
  last = frames[-1]
  where = os.path.relpath(last.filename, os.path.dirname(package))
  return f"in {where} line {last.lineno} or the backward pass of what it calls: {last.line}"
