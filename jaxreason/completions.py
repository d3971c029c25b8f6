"""Floor 4: what a run wrote and what was said of it, one JSON object a sample in `completions.jsonl`.

What enters: the samples of a training step. What leaves: a line each, {"step", "phase", "id", "visit", "sample", "prompt",
"response", "status", "reward", "tokens", "finished", "turns", "detail"}, with "logprobs" and "pieces" of the tokens for the
first few of a step. The lines of a step that is done again are dropped and come again. `read` gives them back.
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxreason import processes
from jaxreason.appended import Appended
from jaxreason.groups import Sample
from jaxreason.metrics import drop_from

FILE = "completions.jsonl"
_DETAILED = 8  # samples of a step whose tokens are kept
_LONGEST = 16_384  # characters of a response that are kept, from its end


class Completions:
  """The file of a run. A context manager; of several processes the first one writes.

  Args:
    workdir: the run's directory, which exists.
    first_step: lines at or beyond it are dropped, for they come again.
    decode: tokens -> text.
  """

  def __init__(self, workdir: str | os.PathLike, *, first_step: int, decode: Callable[[list[int]], str]):
    self._piece = functools.cache(lambda token: decode([token]))  # a step writes the same tokens again and again
    self._file: Appended | None = None
    if processes.is_first():
      path = Path(workdir) / FILE
      drop_from(path, first_step)
      self._file = Appended(path)

  def __enter__(self) -> "Completions":
    return self

  def __exit__(self, kind, *_) -> None:
    if self._file is not None:
      self._file.end(failing=kind is not None)

  def write(self, step: int, samples: Sequence[Sample]) -> None:
    """Takes the samples that a step learns from."""
    if self._file is None:
      return
    for number, sample in enumerate(samples):
      self._file.append(json.dumps(self._line(step, sample, number < _DETAILED), ensure_ascii=False))

  def flush(self) -> None:
    """Waits until all lines are on the disk. Raises OSError where the disk is full; the lines are kept."""
    if self._file is not None:
      self._file.sync()

  def _line(self, step: int, sample: Sample, detailed: bool) -> dict:
    line = {
      "step": step, "phase": "train", "id": str(sample.row["id"]), "visit": int(sample.written.visit),
      "sample": int(sample.written.sample), "prompt": sample.row["prompt"], "response": sample.response[-_LONGEST:],
      "status": sample.verdict.status, "reward": sample.reward, "tokens": sample.tokens, "finished": sample.finished,
      "turns": sample.turns, "detail": sample.verdict.detail,
    }  # fmt: skip
    if detailed:
      record = sample.written.record
      line["logprobs"] = [round(float(value), 3) for value in np.asarray(record.logprobs)]
      line["pieces"] = [self._piece(int(token)) for token in np.asarray(record.tokens)]
    return line


def read(workdir: str | os.PathLike) -> list[dict]:
  """All lines, in the order they were written; a torn last one is left out. No file is none."""
  path = Path(workdir) / FILE
  if not path.exists():
    return []
  found = []
  with open(path, encoding="utf-8", errors="replace") as file:
    for line in file:
      try:
        found.append(json.loads(line))
      except ValueError:
        break
  return found
