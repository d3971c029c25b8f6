"""Floor 3, host room: a run that does not move on ends, so that a launcher can start it again.

What enters: a word after every update. What leaves, where none comes for too long: the stack of every thread, what was done
last and by which process, on standard error, and the end of the process with status 70. The kernel then lets go of all that it
held, and the newest checkpoint is where the run goes on.
"""

import faulthandler
import os
import sys
import threading
import time

from jaxreason import processes

STATUS = 70  # EX_SOFTWARE of sysexits.h


class Watchdog:
  """Ends the process when `beat` was not called for so many seconds while it is open.

  Args:
    seconds: from one beat to the next; 0 for no end. The first counts from opening, and compiles the most.
  """

  def __init__(self, seconds: float):
    self._seconds, self._done = seconds, "nothing yet"
    self._last = time.monotonic()
    self._closed = threading.Event()

  def __enter__(self) -> "Watchdog":
    self._last = time.monotonic()
    if self._seconds:
      threading.Thread(target=self._look, daemon=True, name="watchdog").start()
    return self

  def __exit__(self, *_) -> None:
    self._closed.set()

  def beat(self, done: str) -> None:
    """Something was done, in a few words."""
    self._done, self._last = done, time.monotonic()

  def _look(self) -> None:
    while not self._closed.wait(max(0.01, self._last + self._seconds - time.monotonic())):
      if time.monotonic() >= self._last + self._seconds:
        self._end()

  def _end(self) -> None:
    print(
      f"jaxreason: no update ended for {self._seconds:g} s (config.train.stall_seconds); process {processes.number()} waits "
      f"where its stacks below show, behind {self._done}. Ends with status {STATUS}; the same command goes on from its "
      "newest checkpoint",
      file=sys.stderr, flush=True,
    )  # fmt: skip
    faulthandler.dump_traceback(all_threads=True)
    os._exit(STATUS)
