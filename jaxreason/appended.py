"""Floor 3, host room: a file of lines that outlives a full disk.

What enters: lines. What leaves: a file with whole lines only. A line that does not fit is kept in memory and written before the
next one, in order; what a failed write left of it is cut off again, for a torn line would spoil those after it.
"""

import contextlib
import errno
import os
from pathlib import Path


class Appended:
  """Lines at the end of a file, which is made if need be.

  Raises:
    OSError: the file cannot be opened.
  """

  def __init__(self, path: str | os.PathLike):
    self._path = Path(path)
    self._file: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    self._held: list[bytes] = []

  def append(self, line: str) -> None:
    """Takes a line, without its end. Never fails: see `sync`."""
    self._held.append(line.encode() + b"\n")
    with contextlib.suppress(OSError):
      self._write()

  def sync(self) -> None:
    """Waits until every line is on the disk.

    Raises:
      OSError: some did not fit; they are kept, and tried again at the next call.
    """
    self._write()
    os.fsync(self._file)

  def close(self) -> None:
    """Writes what is left and closes the file, also where that fails. A second call does nothing."""
    if self._file is None:
      return
    try:
      self.sync()
    finally:
      os.close(self._file)
      self._file = None

  def end(self, failing: bool) -> None:
    """As `close`; where the run ends by an exception already, that is the one to tell, and a full disk is not."""
    try:
      self.close()
    except OSError:
      if not failing:
        raise

  def _write(self) -> None:
    while self._held:
      size = os.fstat(self._file).st_size
      try:
        written = os.write(self._file, self._held[0])
        if written != len(self._held[0]):
          raise OSError(errno.ENOSPC, f"only {written} of {len(self._held[0])} bytes of a line fitted", str(self._path))
      except OSError:
        os.ftruncate(self._file, size)
        raise
      self._held.pop(0)
