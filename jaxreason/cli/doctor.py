"""Floor 5, command line: `jaxreason doctor`.

What enters: nothing but this machine. What leaves: for each thing that a run needs, whether it works here and what is wrong
where it does not: versions, devices, collectives over them, the disk, the sandbox and the proof that it holds, the verifier
pool on known answers, a checkpoint's way there and back, and a tiny model's compiled decoding against its full forward pass.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxreason.cli import devices as platforms
from jaxreason.errors import UserError

# Verifier, response, answer, what the verdict has to be. The formula goes all the way through sympy.
KNOWN = (
  ("chain", "+8=12+5=17#17", "17", "correct"),
  ("chain", "#16", "17", "wrong"),
  ("math", "It is \\boxed{18}.", "18", "correct"),
  ("math", "It is \\boxed{17}.", "18", "wrong"),
  ("math", "\\boxed{x^2 + 2x + 1}", "(x+1)^2", "correct"),
)
_SECONDS = 20.0  # of all known answers together
_NEAR = 0.05  # nats that decoding and the full pass may differ by, on accelerators that round their products


class Check(NamedTuple):
  """One thing that a run needs."""

  name: str
  ok: bool
  detail: str
  seconds: float
  lines: tuple[str, ...] = ()  # more, one thing each


class Told(str):
  """A detail with lines of its own."""

  lines: tuple[str, ...] = ()


class Wrong(Exception):
  """What a check found; the message is its detail."""


def command(arguments: argparse.Namespace) -> int:
  """Runs all checks and tells each; 0 when all are well, 1 otherwise."""
  if arguments.overrides:
    raise UserError(f"jaxreason doctor reads no config, got --config.{arguments.overrides[0][0]}; leave it out")
  workdir = Path(arguments.workdir or "runs")
  looks: dict[str, Callable[[], str]] = {
    "python": _python,
    "devices": lambda: _devices(arguments.platform),
    "mesh": _mesh,
    "disk": lambda: _disk(workdir),
    "sandbox": _sandbox,
    "verifiers": _verifiers,
    "checkpoint": lambda: _checkpoint(workdir),
    "decode": _decode,
  }
  checks = []
  for name, look in looks.items():
    blind = name in ("mesh", "checkpoint", "decode") and not checks[1].ok
    checks.append(Check(name, False, "not tried without a device", 0.0) if blind else _checked(name, look))
    if not arguments.json and not (arguments.quiet and checks[-1].ok):
      print(f"{'ok   ' if checks[-1].ok else 'WRONG'} {name:<11} {checks[-1].detail}", flush=True)
      for line in checks[-1].lines:
        print(f"                    {line}", flush=True)
  ok = all(check.ok for check in checks)
  if arguments.json:
    print(json.dumps({"ok": ok, "versions": platforms.versions(), "checks": [check._asdict() for check in checks]}))
  return 0 if ok else 1


def _checked(name: str, look: Callable[[], str]) -> Check:
  began, lines = time.monotonic(), ()
  try:
    ok, detail = True, look()
    lines = detail.lines if isinstance(detail, Told) else ()
  except (Wrong, UserError) as error:
    ok, detail = False, str(error)
  except Exception as error:  # whatever it is, the checks after it still have something to say
    ok, detail = False, f"{type(error).__name__}: {error}"
  return Check(name, ok, " ".join(detail.split())[:400], round(time.monotonic() - began, 2), lines)


def _python() -> str:
  versions = platforms.versions()
  missing = [name for name, version in versions.items() if version == "not installed"]
  if missing:
    raise Wrong(f"not installed: {', '.join(missing)}; pip install them, or jaxreason again")
  return ", ".join(f"{name} {version}" for name, version in versions.items())


def _devices(platform: str | None) -> str:
  told: list[str] = []
  devices = platforms.start(platform, told.append)
  return "; ".join([platforms.described(devices), *told])


def _mesh() -> str:
  """A sum and a gathering over all devices, in one program, against what they have to be."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from jax.sharding import PartitionSpec

  from jaxreason import processes, sharding

  devices = jax.devices()
  mesh = sharding.make_mesh(devices=devices)
  axes, size = tuple(mesh.axis_names), len(devices)

  def collectives(x):
    return jax.lax.psum(x, axes), jax.lax.all_gather(x, axes, tiled=True)

  rows = jax.make_array_from_callback(
    (size,), jax.sharding.NamedSharding(mesh, PartitionSpec(axes)), lambda index: np.arange(size, dtype=np.float32)[index]
  )
  whole = PartitionSpec()
  program = jax.shard_map(collectives, mesh=mesh, in_specs=PartitionSpec(axes), out_specs=(whole, whole), check_vma=False)
  total, gathered = jax.jit(program)(rows)
  if float(jnp.squeeze(total)) != size * (size - 1) / 2 or not np.array_equal(np.asarray(gathered), np.arange(size)):
    raise Wrong(f"a sum and a gathering over {size} devices expected {size * (size - 1) // 2} and 0..{size - 1}, got others")
  shape = ", ".join(f"{name} {extent}" for name, extent in mesh.shape.items() if extent > 1) or "one device"
  return f"{processes.count()} process{'es' if processes.count() > 1 else ''}, {shape}: sums and gatherings are right"


def _disk(workdir: Path) -> str:
  with _scratch(workdir) as folder:
    (Path(folder) / "probe").write_bytes(b"0" * 2**20)
  return f"{workdir} can be written, {shutil.disk_usage(_existing(workdir)).free / 2**30:.1f} GiB free"


def _sandbox() -> str:
  from jaxreason.rewards.sandbox import Sandbox

  with Sandbox() as sandbox:
    if sandbox.backend == "none":
      raise Wrong(f"only exact answers can be judged here: {sandbox.refusal}")
    told = Told(f"{sandbox.backend}: {len(sandbox.proof)} attempts to break out of it, all of which failed")
    told.lines = sandbox.proof
    return told


def _verifiers() -> str:
  import warnings

  from jaxreason.rewards.pool import VerifierPool

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that there is no sandbox is told by its own check
    with VerifierPool(workers=1) as pool:
      asked = [pool.submit({"verifier": v, "response": r, "answer": a}) for v, r, a, _ in KNOWN]
      until = time.monotonic() + _SECONDS
      try:
        verdicts = [future.result(timeout=max(0.0, until - time.monotonic())) for future in asked]
      except TimeoutError:
        raise Wrong(f"no verdict within {_SECONDS:g} s; can this user start processes?") from None
  for (verifier, response, answer, wanted), verdict in zip(KNOWN, verdicts, strict=True):
    if verdict.status != wanted:
      raise Wrong(
        f"{verifier} expected {wanted!r} for {response!r} against {answer!r}, got {verdict.status!r} ({verdict.detail})"
      )
  return f"{len(KNOWN)} known answers judged rightly"


def _checkpoint(workdir: Path) -> str:
  import jax
  import jax.numpy as jnp
  import numpy as np

  from jaxreason.checkpoint import Checkpoints

  tree = {"numbers": jnp.arange(12, dtype=jnp.float32).reshape(3, 4) / 7, "step": jnp.int32(3)}
  with _scratch(workdir) as folder, Checkpoints(Path(folder) / "checkpoints") as checkpoints:
    checkpoints.save(3, tree, {"place": 5})
    _, back, host = checkpoints.restore(tree)
  if host != {"place": 5} or not all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, back))):
    raise Wrong("what was read back is not what was saved")
  return "saved and read back, bit for bit"


def _decode() -> str:
  import jax
  import jax.numpy as jnp
  import numpy as np

  from jaxreason import build, sharding
  from jaxreason.cli import generation
  from jaxreason.cli.source import Policy
  from jaxreason.data.characters import characters
  from jaxreason.model import decoder, weights
  from jaxreason.model.config import ModelConfig
  from jaxreason.rollout.config import RolloutConfig
  from jaxreason.settings import RunSettings

  tokenizer = characters("0123456789+-=#")
  config = ModelConfig(vocab_size=tokenizer.vocab_size, embed=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp=64)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype), weights.abstract(config))
  policy = Policy(tokenizer, config, mesh, build.compile_programs(RunSettings(), config, mesh), params)
  shape = RolloutConfig(chunk=8)
  began = time.monotonic()
  ids = generation.complete(policy, "4+8-5=", budget=16, shape=shape, seed=0, temperature=0.0)
  seconds = time.monotonic() - began
  prompt = tokenizer.render("4+8-5=")
  tokens = jnp.asarray([prompt + ids], jnp.int32)
  hidden = decoder.apply(params, config, tokens, jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]).hidden
  logits = np.asarray(decoder.unembed(params, config, hidden))[0, len(prompt) - 1 : -1]
  short = logits.max(axis=-1) - logits[np.arange(len(ids)), ids]
  if not short.max() <= _NEAR:
    raise Wrong(f"decoding took a token that is {short.max():.3g} nats below the likeliest one of the full forward pass")
  return f"{len(ids)} tokens, compiled in {seconds:.1f} s, those of the full forward pass"


def _existing(path: Path) -> Path:
  """The path, or the nearest folder above it that exists."""
  return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _scratch(workdir: Path) -> tempfile.TemporaryDirectory:
  """A folder inside the working directory, or where that would be made; gone afterwards."""
  folder = _existing(workdir)
  try:
    return tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder)
  except OSError as error:
    raise Wrong(f"expected a directory that can be written, got {folder} ({error.strerror or error})") from error
