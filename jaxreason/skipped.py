"""Floor 4: which samples an update was to learn from that was skipped, one JSON object a line in `skipped.jsonl`.

What enters: after each update, whether it was skipped, still being computed on a device, and its samples. What leaves: a line
for each that was, {"step", "phase", "why", "samples": [[row id, visit id, sample], ...]}, written when a later step is noted,
so that nobody waits for the device. The file is made with its first line.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxreason import processes
from jaxreason.appended import Appended
from jaxreason.metrics import drop_from

FILE = "skipped.jsonl"


class SkippedUpdates:
  """Notes of a run's updates. A context manager: closing writes what is still pending.

  Args:
    workdir: the run's directory, which exists.
    first_step: the first step of which no update is done; lines at or beyond it are dropped from the file, for they come again.
  """

  def __init__(self, workdir: str | os.PathLike, *, first_step: int = 0):
    self._path = Path(workdir) / FILE
    self._pending: list[tuple[int, str, dict, list[list]]] = []
    self._file: Appended | None = None
    if processes.is_first():
      drop_from(self._path, first_step)

  def __enter__(self) -> "SkippedUpdates":
    return self

  def __exit__(self, kind, *_) -> None:
    self._write(before=None)
    if self._file is not None:
      self._file.end(failing=kind is not None)

  def note(self, step: int, phase: str, stats: dict[str, Any], samples: list[list]) -> None:
    """Takes one update's numbers (`skipped` and `empty` are read) and its samples, [row id, visit id, sample, ...] each."""
    flags = {name: stats[name] for name in ("skipped", "empty")}
    self._write(before=step)
    self._pending.append((step, phase, flags, samples))

  def flush(self) -> None:
    """Waits for what is pending and until it is on the disk.

    Raises:
      OSError: the disk is full; the lines are kept and written once there is room.
    """
    self._write(before=None)
    if self._file is not None:
      self._file.sync()

  def _write(self, before: int | None) -> None:
    while self._pending and (before is None or self._pending[0][0] < before):
      step, phase, flags, samples = self._pending.pop(0)
      if not processes.is_first() or not np.asarray(flags["skipped"]):
        continue
      why = "no token to train on" if np.asarray(flags["empty"]) else "not finite"
      row = {"step": step, "phase": phase, "why": why, "samples": [sample[:3] for sample in samples]}
      if self._file is None:
        self._file = Appended(self._path)
      self._file.append(json.dumps(row))
