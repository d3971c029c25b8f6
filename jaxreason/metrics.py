"""Floor 3, host room: the numbers of a run, one JSON object per line in `metrics.jsonl` and as TensorBoard events.

What enters: (step, phase, stats), where stats are Python numbers or scalars that are still being computed on a device. What
leaves: a line per row, written when the next step's row comes, so that nobody waits for the device. `read` gives the rows back.

Steps are one global index over all phases and never fall: supervised steps 0..949, then policy steps 950.. of the same run.
A checkpoint of step n pairs with the rows before n: call `flush` before saving it, and open with `first_step=n` to go on
from it. Every row at n or beyond (an evaluation written under n too) is then dropped, because the run will write it again.
Names under `time/` and `perf/` are wall-clock; all others are the same in every run of the same job, to the letter.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX.proto.summary_pb2 import Summary

from jaxreason import processes
from jaxreason.appended import Appended
from jaxreason.errors import UserError
from jaxreason.events import Events

FILE = "metrics.jsonl"
WALL_CLOCK = ("time/", "perf/")
_EVENTS_SECONDS = 10.0  # how old TensorBoard's view may get: each flush of its file waits for the disk


class MetricsWriter:
  """Writes a run's numbers; of several processes the first one does. A context manager: closing writes what is pending.

  Args:
    workdir: the run's directory; holds `metrics.jsonl` and `tensorboard/`.
    first_step: the step that this run begins with; rows at or beyond it are dropped from the file, in one rename.
    on_numbers: called with (step, phase, numbers) once a row's numbers have been fetched, floats as they are, NaN too.

  Raises:
    UserError: `workdir` cannot be written, or `metrics.jsonl` holds something else.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    first_step: int = 0,
    on_numbers: Callable[[int, str, dict[str, float]], None] | None = None,
  ):
    self._pending: list[tuple[int, str, Mapping[str, Any]]] = []
    self._step = first_step
    self._on_numbers = on_numbers
    self._file = None
    if not processes.is_first():
      return
    path = Path(workdir) / FILE
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      resumed = path.exists()
      drop_from(path, first_step)
      self._file = Appended(path)
      self._events = Events(path.parent / "tensorboard", first_step if resumed else None)
    except OSError as error:
      raise UserError(
        f"expected a workdir that can be written, got {workdir} ({error.strerror or error}); "
        "give another --workdir or mend its permissions"
      ) from error
    self._events_flushed = time.monotonic()

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, kind, *_) -> None:
    try:
      self.close()
    except Exception:
      if kind is None:  # else the error that ended the run is the one to tell
        raise

  def write(self, step: int, phase: str, stats: Mapping[str, Any]) -> None:
    """Takes a row; it reaches the files when a row of a later step is taken, or at `flush`.

    Args:
      step: global index, at least that of the row before.
      phase: "sft", "train", "eval" or another word.
      stats: name to number: Python or numpy numbers, or jax scalars, finished or not.
    """
    if step < self._step:
      raise ValueError(f"expected a step of at least {self._step}, got {step} ({phase}); pass the global step of the run")
    taken = {"step", "phase"} & set(stats)
    if taken:
      raise ValueError(f"expected other names than 'step' and 'phase' for numbers, got {sorted(taken)}; rename them")
    for name, value in stats.items():
      if np.shape(value) != ():
        raise ValueError(f"expected one number for {name!r}, got shape {np.shape(value)}; reduce it first")
      if isinstance(value, jax.Array):
        value.copy_to_host_async()
    self._step = step
    self._drain(before=step)
    self._pending.append((step, phase, stats))

  def flush(self) -> None:
    """Fetches what is pending and waits until all rows are on the disk. To be called before a checkpoint is saved.

    Raises:
      OSError: the disk is full; the rows are kept and written once there is room.
    """
    self._drain(before=math.inf)
    if self._file is not None:
      self._file.sync()
      self._flush_events()

  def close(self) -> None:
    """Flushes and closes the files. A second call does nothing."""
    if self._file is None:
      self._drain(before=math.inf)
      return
    try:
      self.flush()
    finally:
      file, self._file = self._file, None
      try:
        file.close()
      finally:
        self._events.close()

  def _drain(self, before: float) -> None:
    while self._pending and self._pending[0][0] < before:
      step, phase, stats = self._pending.pop(0)
      fetched = jax.device_get(list(stats.values()))
      numbers = {name: _number(name, value) for name, value in zip(stats, fetched, strict=True)}
      if self._file is not None:
        self._to_files(step, phase, numbers)
      if self._on_numbers is not None:
        self._on_numbers(step, phase, numbers)

  def _to_files(self, step: int, phase: str, numbers: dict[str, float]) -> None:
    finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    self._file.append(json.dumps({"step": step, "phase": phase} | finite, allow_nan=False))
    values = [Summary.Value(tag=f"{phase}/{name}", simple_value=value) for name, value in numbers.items()]
    self._events.add(step=step, summary=Summary(value=values))
    if time.monotonic() - self._events_flushed > _EVENTS_SECONDS:
      self._flush_events()

  def _flush_events(self) -> None:
    self._events.flush()
    self._events_flushed = time.monotonic()


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """All rows of a run in the order they were written: {"step", "phase", **numbers}, None for a number that was not finite.

  A torn last line (the run is writing, or was killed) is left out. No file is no rows.

  Raises:
    UserError: a line before the last is not a row.
  """
  path = Path(workdir) / FILE
  return [row for row, _ in _rows(path)] if path.exists() else []


def deterministic(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The rows without their wall-clock numbers: equal for two runs of one job, killed and resumed or not."""
  return [{name: value for name, value in row.items() if not name.startswith(WALL_CLOCK)} for row in rows]


def _rows(path: Path) -> list[tuple[dict[str, Any], bytes]]:
  lines = path.read_bytes().splitlines()
  rows = []
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line)
      row["step"], row["phase"]
    except (ValueError, KeyError, TypeError) as error:
      if number == len(lines):
        break
      raise UserError(
        f"expected a JSON row with step and phase in {path} line {number}, got {line[:60]!r}; "
        "mend the line or move the file away"
      ) from error
    rows.append((row, line))
  return rows


def drop_from(path: Path, first_step: int) -> None:
  """Takes the rows of `first_step` and beyond out of a file of such rows, in one rename; no file is no rows."""
  if not path.exists():
    return
  kept = b"".join(line + b"\n" for row, line in _rows(path) if row["step"] < first_step)
  if kept == path.read_bytes():
    return
  beside = path.with_suffix(".jsonl.tmp")
  with open(beside, "wb") as file:
    file.write(kept)
    file.flush()
    os.fsync(file.fileno())
  os.replace(beside, path)


def _number(name: str, value: Any) -> int | float:
  """A Python number whose text is the shortest that gives the same bits back: float32 0.1 is 0.1, not 0.10000000149011612."""
  array = np.asarray(value)
  if array.dtype.kind in "biu":
    return int(array)
  if array.dtype == np.float64:
    return float(array)
  if jnp.issubdtype(array.dtype, jnp.floating):
    return float(str(np.float32(array)))
  raise TypeError(f"expected a number for {name!r}, got {value!r}; metrics hold numbers only")
