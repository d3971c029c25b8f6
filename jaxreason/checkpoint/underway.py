"""Floor 3, host room: a save that goes on beside the run.

What enters: the work that completes it. What leaves: whether it has ended, and the exception that it ended with.
"""

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Thread(threading.Thread):
  """Does something beside the run, and keeps the exception that it ended with."""

  def __init__(self, work: Callable[[], None]):
    super().__init__(name="checkpoint", daemon=True)
    self._work = work
    self.problem: Exception | None = None
    self.start()

  def run(self) -> None:
    try:
      self._work()
    except Exception as error:
      self.problem = error


class Underway(NamedTuple):
  """A save that has begun: its step, the best step, and the thread that completes it."""

  step: int
  best: int | None
  end: Thread


@contextlib.contextmanager
def one_voice():
  """Holds back Orbax's own log lines: it prints a traceback per thread for what `SaveFailed` says in one line."""
  logger = logging.getLogger("absl")
  before = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    logger.setLevel(before)


def hashed(config: Any) -> str:
  return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def unused(path: Path) -> Path:
  """The path, or with a number behind it where there is one of that name."""
  names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
  return next(name for name in names if not name.exists())
