"""Floor 3, host room: what TensorBoard reads.

What enters: summaries of steps. What leaves: files of events. On a full disk events are kept in memory; once there is room they
go to a new file, for the old one may end in half a record, where a reader stops.
"""

import contextlib
import os
import socket
import time
from pathlib import Path

import tensorboardX
from tensorboardX.proto.event_pb2 import Event, SessionLog


class Events:
  """The event files of a run.

  Not `tensorboardX.SummaryWriter`: its thread and queue lose rows at a kill, and two of its files made within a second are one.

  Args:
    directory: made if need be.
    purge_step: TensorBoard hides what older files hold at or beyond it; None in a new run.

  Raises:
    OSError: the first file cannot be written.
  """

  def __init__(self, directory: Path, purge_step: int | None):
    self._directory = directory
    self._purge_step = purge_step
    self._files = 0
    self._held: list[bytes] = []  # what is not known to be on the disk
    directory.mkdir(exist_ok=True)
    self._writer = self._open()

  def add(self, **fields) -> None:
    """Takes an event. Never fails: see `flush`."""
    event = _event(**fields)
    self._held.append(event)
    if self._writer is not None:
      with self._given_up_on_failure():
        self._writer.write(event)

  def flush(self) -> None:
    """Writes what was taken; what does not fit is kept for the next call."""
    with self._given_up_on_failure():
      if self._writer is None:
        self._writer = self._open()
        for event in self._held:
          self._writer.write(event)
      self._writer.flush()
      self._held.clear()

  def close(self) -> None:
    """Writes what fits and closes the file."""
    self.flush()
    if self._writer is not None:
      self._writer.close()

  @contextlib.contextmanager
  def _given_up_on_failure(self):
    try:
      yield
    except OSError:
      writer, self._writer = self._writer, None
      if writer is not None:
        with contextlib.suppress(OSError):
          writer.close()

  def _open(self) -> tensorboardX.RecordWriter:
    self._files += 1
    host = f"{socket.gethostname()}.{os.getpid()}"
    name = f"events.out.tfevents.{int(time.time()):010d}.{host}.{self._purge_step or 0}.{self._files}"
    writer = tensorboardX.RecordWriter(str(self._directory / name))
    writer.write(_event(file_version="brain.Event:2"))
    if self._purge_step is not None and self._files == 1:
      writer.write(_event(step=self._purge_step, session_log=SessionLog(status=SessionLog.START)))
    writer.flush()
    return writer


def _event(**fields) -> bytes:
  return Event(wall_time=time.time(), **fields).SerializeToString()
