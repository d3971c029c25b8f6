"""Floor 3, host room: being asked to end.

What enters: SIGTERM, as schedulers send it before they take a machine away, or SIGINT, as a terminal does, to one process of
a run or to all. What leaves: a word that all hear alike, between two updates and, of one process, between two chunks of a
rollout, where the run can save and end. A second signal ends the process at once.
"""

import contextlib
import os
import signal
import threading
import time

from jaxreason import processes

_SIGNALS = signal.SIGTERM, signal.SIGINT
_TOLD = b"jaxreason: asked to end; saving, which may take until the next update. A second signal ends at once.\n"


class Asked(Exception):
  """The process was asked to end within a rollout."""


class Minutes:
  """Whether so many minutes have passed since it was last due; the first process's clock decides for all. 0: never."""

  def __init__(self, minutes: float):
    self._seconds, self._last = 60 * minutes, time.monotonic()

  def due(self) -> bool:
    """All processes of a run call it, in the same order."""
    if not self._seconds or not processes.exchanged(time.monotonic() - self._last >= self._seconds)[0]:
      return False
    self._last = time.monotonic()
    return True


class Preemption:
  """Heeds SIGTERM and SIGINT while it is open, in the main thread; in others Python takes no signals, and nothing is asked."""

  def __init__(self):
    self._heard = False
    self._before: list = []

  @property
  def asked(self) -> bool:
    """Whether any process of the run was asked to end; all of them look here in the same order."""
    return any(processes.exchanged(self._heard))

  def check(self) -> None:
    """Raises Asked where this process was asked to end and is the run's only one: of several none may leave the others."""
    if self._heard and processes.count() == 1:
      raise Asked

  def __enter__(self) -> "Preemption":
    if threading.current_thread() is threading.main_thread():
      self._before = [signal.signal(one, self._heed) for one in _SIGNALS]
    return self

  def __exit__(self, *_) -> None:
    for one, before in zip(_SIGNALS, self._before, strict=False):
      signal.signal(one, before)

  def _heed(self, *_) -> None:
    self._heard = True
    for one in _SIGNALS:
      signal.signal(one, signal.SIG_DFL)
    with contextlib.suppress(OSError):
      os.write(2, _TOLD)
