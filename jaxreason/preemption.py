"""Floor 3, host room: being asked to end.

What enters: SIGTERM, as schedulers send it before they take a machine away, to one process of a run or to all. What leaves: a
word that all processes hear alike, between two updates and, of one process, between two chunks of a rollout, where the run can
save and end. A second signal ends the process at once.
"""

import signal
import threading

from jaxreason import processes


class Asked(Exception):
  """The process was asked to end within a rollout."""


class Preemption:
  """Heeds SIGTERM while it is open, in the main thread; in others, where Python takes no signals, nothing is ever asked."""

  def __init__(self):
    self._heard = False
    self._before = None

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
      self._before = signal.signal(signal.SIGTERM, self._heed)
    return self

  def __exit__(self, *_) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)

  def _heed(self, *_) -> None:
    self._heard = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
