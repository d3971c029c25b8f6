"""Floor 5, command line: the entry of the `jaxreason` command.

What enters: the arguments. What leaves: an exit status: 0 done, 1 something failed, 2 a mistake in what was asked for (told
in one line on standard error), 70 stalled, 75 asked to end and saved (start both again), 130 interrupted. Nothing heavy is
imported before the platform is chosen, and no device is touched before config and working directory are known to be right.
"""

import _thread
import argparse
import errno
import functools
import os
import sys
import threading
import warnings

from jaxreason.cli import devices, joining
from jaxreason.errors import Preempted, UserError, nearest

# glibc's allocator: large pages; one heap for all that is large or small; never given back (64 GiB may lie free).
KEPT_MEMORY = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.arena_max=1"

_OVERRIDE = "--config."
# A path that was asked for and is not for this user, or is a file where a directory is wanted, or the other way round.
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
_EXAMPLES = """examples:
  jaxreason train --config=quickstart                       train a small model from nothing, in minutes on a CPU
  jaxreason train --config=quickstart --workdir=runs/a --config.optimizer.peak_lr=1e-4
  jaxreason train --workdir=runs/a                          go on from the checkpoint in runs/a
  jaxreason train --config=mine.py --debug                  one device, small, stops at the first number that is not finite
  jaxreason preference --config=preference                  learn from pairs of answers: DPO, or a reward model
  jaxreason train --replay=runs/a/bad_step_7.npz            say what is not finite in a dumped step
  jaxreason eval --workdir=runs/a --json                    pass@1 of the newest checkpoint, as one JSON object
  jaxreason eval --model=exported --task=gsm8k --data=gsm8k_test.jsonl --output=results/a
  jaxreason eval --compare results/a results/b              a paired test between two models
  jaxreason generate --workdir=runs/a --prompt='4+8-5+9='
  jaxreason export --workdir=runs/a --output=exported       a Hugging Face directory
  jaxreason verify --verifier=math --response='#### 18' --answer=18
  jaxreason plan --config=pod_qwen3_0_6b --topology=v5e:2x4 would it fit, and what bounds it
  jaxreason doctor                                          what works on this machine and what does not

Any setting of jaxreason/settings.py is changed with --config.SECTION.NAME=VALUE. `jaxreason COMMAND --help` has the rest."""


def run() -> None:
  """The console script: exits with what `main` returns."""
  warnings.formatwarning = lambda message, *_, **__: f"jaxreason: warning: {message}\n"
  sys.unraisablehook = functools.partial(_heed, sys.unraisablehook)
  with_kept_memory()
  status = main(sys.argv[1:])
  if status == 130:
    # All is closed and put away by now; waiting for a compilation that was broken off ends in a crash inside XLA.
    sys.stdout.flush()
    os._exit(status)
  sys.exit(status)


def with_kept_memory() -> None:
  """Begins the process again with settings of glibc's allocator, which it reads before the first line of Python is.

  By itself it gives large buffers back to the kernel when they are freed, and they are faulted in again at every step. Here
  they come in large pages and are kept: all from one heap, which never shrinks. That is a fifth of a CPU run's time. A choice
  that is there already stays.
  """
  if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
    return
  os.environ["GLIBC_TUNABLES"] = KEPT_MEMORY
  os.execv(sys.executable, sys.orig_argv)


def main(argv: list[str]) -> int:
  """Runs one command and returns its exit status; only `--help` and `--version` exit by themselves."""
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it regrets that PyTorch is missing; we do not
  try:
    arguments = parse(argv)
    devices.choose(arguments.platform)
    return arguments.command(arguments)
  except UserError as error:
    return _told(str(error), 2)
  except Preempted as error:
    return _told(str(error), 75)
  except KeyboardInterrupt:
    return _told("interrupted; a run goes on from its last checkpoint with the same command and --workdir=...", 130)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or closing would complain once more
    return 141
  except OSError as error:
    if error.errno in _UNUSABLE:
      where = "" if error.filename is None else f": {error.filename}"
      return _told(f"expected a path that can be used, got {error.strerror}{where}; check the path and its permissions", 2)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    return _told(f"the disk is full ({error}); make room and run the same command again", 1)
  except RuntimeError as error:  # JAX's own kinds are subclasses
    if not str(error).startswith("RESOURCE_EXHAUSTED"):
      raise
    reason = str(error).splitlines()[0][:200]
    return _told(f"out of device memory ({reason}); raise config.train.micro_batches or lower config.rollout.prompts", 1)


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, with `overrides` and the `command` to call among them.

  Raises:
    UserError: an unknown command or flag, a missing or malformed value.
  """
  others, overrides = take_overrides(argv)
  parser, flags = _parser()
  arguments, unknown = parser.parse_known_args(others)
  if unknown:
    name = unknown[0].partition("=")[0]
    known = flags[arguments.name]
    raise UserError(f"jaxreason {arguments.name} got {unknown[0]!r}, which it does not know{nearest(name, known)}; see --help")
  if vars(arguments).get("workdir") == "":
    raise UserError("--workdir expected a directory, got an empty path; name one or leave --workdir out")
  arguments.overrides = overrides
  return arguments


def take_overrides(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
  """(the other arguments, [(name, text)]): `--config.a.b=1` and `--config.a.b 1` are taken out of the arguments."""
  others, overrides, left = [], [], list(argv)
  while left:
    argument = left.pop(0)
    if not argument.startswith(_OVERRIDE):
      others.append(argument)
      continue
    name, equals, text = argument.removeprefix(_OVERRIDE).partition("=")
    if not equals:
      if not left or left[0].startswith("--"):
        raise UserError(f"{argument} expected a value, got none; write {argument}=VALUE")
      text = left.pop(0)
    overrides.append((name, text))
  return others, overrides


class _Parser(argparse.ArgumentParser):
  """argparse, with mistakes told the way all others are."""

  def error(self, message: str):
    raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> tuple[_Parser, dict[str, list[str]]]:
  """(the parser, every command's flags)."""
  style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
  parser = _Parser(prog="jaxreason", description="Train language models to reason, in JAX.", epilog=_EXAMPLES, **style)
  parser.add_argument("--version", action=_Version, nargs=0, help="versions of jaxreason, jax and Python")
  commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True, parser_class=_Parser)
  flags = {}
  for name, (command, words, arguments) in COMMANDS.items():
    sub = commands.add_parser(name, help=words, description=words, **style)
    sub.set_defaults(command=command)
    for flag, options in (_COMMON | arguments).items():
      spelt = flag.replace("-", "_").replace("_", "-", 2)  # an underscore passes for a hyphen
      sub.add_argument(*([flag, "--quiet"] if flag == "-q" else dict.fromkeys([flag, spelt])), **options)
    flags[name] = list(_COMMON | arguments)
  return parser, flags


class _Version(argparse.Action):
  def __call__(self, parser, *_):
    for name, version in devices.versions().items():
      print(name, version)
    parser.exit()


def _heed(otherwise, unraisable) -> None:
  """Raises an interrupt once more that came while JAX's callback of the garbage collector ran, where Python forgets it."""
  if unraisable.exc_type is not KeyboardInterrupt:
    otherwise(unraisable)
    return
  again = threading.Timer(0.02, _thread.interrupt_main)
  again.daemon = True
  again.start()


def _told(line: str, status: int) -> int:
  print(f"jaxreason: {' '.join(line.split())}", file=sys.stderr)
  return status


def _train(arguments: argparse.Namespace) -> int:
  from jaxreason.cli import training

  return training.command(arguments)


def _eval(arguments: argparse.Namespace) -> int:
  from jaxreason.cli import benchmarks, evaluation

  if arguments.task is not None or arguments.compare:
    return benchmarks.command(arguments)
  benchmarks.check_none(arguments)
  return evaluation.command(arguments)


def _generate(arguments: argparse.Namespace) -> int:
  from jaxreason.cli import generation

  return generation.command(arguments)


def _export(arguments: argparse.Namespace) -> int:
  from jaxreason.cli import exporting

  return exporting.command(arguments)


def _verify(arguments: argparse.Namespace) -> int:
  from jaxreason.cli import verifying

  return verifying.command(arguments)


def _plan(arguments: argparse.Namespace) -> int:
  from jaxreason.plan import chips

  found = [chips.parse(name) for name in arguments.topology.split(",")]
  if len({topology.chip.platform for topology in found}) > 1:
    raise UserError(f"--topology expected chips of one compiler, got {arguments.topology}; plan TPUs and GPUs apart")
  os.environ.update(chips.environment(found[0]))
  devices.choose("cpu")  # the chips are not here
  from jaxreason.cli import planning

  return planning.command(arguments, found)


def _doctor(arguments: argparse.Namespace) -> int:
  from jaxreason.cli import doctor

  return doctor.command(arguments)


_COMMON = {
  "--platform": dict(choices=tuple(devices.PLATFORMS), help="what to run on; JAX chooses where it is left out"),
  "-q": dict(action="store_true", dest="quiet", help="no progress; results and mistakes are still told"),
}
_CONFIG = {"--config": dict(metavar="NAME|FILE", help="a shipped config by name, or a file with get_config()")}
_WORKDIR = {"--workdir": dict(metavar="DIR", help="the run's directory: checkpoints, metrics, results")}
_STEP = {"--step": dict(type=int, metavar="N", help="a checkpoint of the run; the newest where it is left out")}
_MODEL = {"--model": dict(metavar="SOURCE", help="a Hugging Face directory or hub id, or a .gguf file, in place of a run")}
_JSON = {"--json": dict(action="store_true", help="exactly one JSON object on standard output, all else on standard error")}
_DEBUG = {
  "--debug": dict(action="store_true", help="one device and small; stops at the first step that is not finite, and dumps it"),
  "--eager": dict(action="store_true", help="--debug without jit: an exception opens pdb where it happened, on a terminal"),
  "--replay": dict(metavar="FILE", help="run a dumped step again and say what is not finite; exit status 0 if nothing is"),
}

_RUN = _CONFIG | _WORKDIR | _DEBUG | joining.FLAGS

# Command: what it calls, what it does, its flags.
COMMANDS = {
  "train": (_train, "Supervised steps, then reinforcement learning; goes on from a checkpoint.", _RUN),
  "sft": (_train, "The supervised stage alone.", _RUN),
  "preference": (_train, "Supervised steps, then pairs of answers: DPO, or a reward model.", _RUN),
  "eval": (
    _eval,
    "A run or a model on its held-out problems, or on a benchmark; of a run on pairs, how many it ranks right.",
    _CONFIG | _WORKDIR | _STEP | _MODEL | _JSON | {
      "--task": dict(metavar="NAME", help="a benchmark by name, files, or a puzzle; docs/evaluation.md has them all"),
      "--data": dict(metavar="FILE", help="of a task: JSON lines, JSON or Parquet; the hub's where it is left out"),
      "--output": dict(metavar="DIR", help="of a task: keeps every sample and the results there, and goes on from there"),
      "--compare": dict(nargs=2, metavar=("A", "B"), help="two such directories: which is better, with a paired test"),
      "--template": dict(metavar="TEXT", help="of a task: how a problem is put, with {prompt} in it"),
      "--max-new-tokens": dict(type=int, metavar="N", help="of a task: budget of a response"),
      "--split": dict(choices=("test", "validation"), default="test", help="which held-out problems (default: test)"),
      "--temperature": dict(type=float, default=0.0, metavar="T", help="0, the default, is greedy"),
      "--samples": dict(type=int, metavar="N", help="of each problem (default: 1 greedy, else evaluation.samples)"),
      "--limit": dict(type=int, metavar="N", help="only the first N problems"),
    },
  ),
  "generate": (
    _generate,
    "The completion of one prompt.",
    _WORKDIR | _STEP | _MODEL | {
      "--prompt": dict(metavar="TEXT", help="read from standard input where it is left out"),
      "--temperature": dict(type=float, default=0.0, metavar="T", help="0, the default, is greedy"),
      "--max-new-tokens": dict(type=int, metavar="N", help="budget (default: rollout.max_new_tokens)"),
      "--seed": dict(type=int, default=0, metavar="N", help="names the draw when sampling"),
    },
  ),
  "export": (
    _export,
    "A run's model and tokenizer as a Hugging Face directory.",
    _WORKDIR | _STEP | {
      "--output": dict(metavar="DIR", required=True, help="a new or empty directory"),
      "--dtype": dict(choices=("float32", "bfloat16"), default="float32", help="of the weights (default: float32)"),
      "--adapter": dict(action="store_true", help="of a run of adapters: these alone, in PEFT's format; else they are merged"),
    },
  ),
  "verify": (
    _verify,
    "What a verifier says of one response, as one JSON object; exit status 1 where it could not be judged.",
    {
      "--verifier": dict(metavar="NAME", help="who judges (default: math); docs/verifiers.md has them all"),
      "--response": dict(metavar="TEXT", help="what is judged"),
      "--response-file": dict(metavar="FILE", help="read it from a file, or from standard input with -"),
      "--answer": dict(metavar="TEXT", help="the right answer, for verifiers that compare"),
      "--item": dict(metavar="JSON", help="the whole item as an object; the flags above are put over it"),
      "--deadline-s": dict(type=float, default=10.0, metavar="S", help="seconds it may take (default: 10)"),
    },
  ),
  "plan": (
    _plan,
    "What a config's programs need on chips that need not be here; exit status 3 where one does not fit.",
    _CONFIG | _JSON | {
      "--topology": dict(metavar="CHIP:GRID", required=True, help="v5e:2x4, v5p:4x4x4, h100:1x1x8, ...; or several"),
      "--plot": dict(metavar="FILE", help="of several topologies: memory and collectives against chips, as a picture"),
    },
  ),
  "doctor": (_doctor, "What works on this machine and what does not, in under half a minute.", _WORKDIR | _JSON),
}  # fmt: skip

if __name__ == "__main__":
  run()
