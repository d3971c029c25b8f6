"""Floor 3, rewards: the trainer's handle on one process of the sandbox.

What enters: frames to send, seconds that an answer may take. What leaves: frames, output, or an exception that says how
the process failed. Three descriptors belong to it: a channel for frames, a line on which the zygote tells its beginning and
its end, and a handle (pidfd) to kill it by. Closing the line kills it too. Everything that is read has a cap.
"""

import json
import os
import select
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from jaxreason.rewards import frames

START_SECONDS = 60.0
_REAP_SECONDS = 10.0
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StartFailed(Exception):
  """The process did not come up. `outside` is True when something else ended it, or its zygote, meanwhile."""

  def __init__(self, why: str, outside: bool = False):
    super().__init__(why)
    self.outside = outside


class Overran(Exception):
  """Not done within the seconds given."""


class Flooded(Exception):
  """More output than was allowed."""


class Died(Exception):
  """The process ended. `status` is its exit status, or minus the signal, or None when nobody knows; `outside` is True when
  a signal from elsewhere ended it, or its zygote."""

  def __init__(self, how: str, status: int | None, outside: bool):
    super().__init__(how)
    self.status, self.outside = status, outside


class Garbled(Exception):
  """A frame was too long, not JSON, or no mapping."""


class Ended(NamedTuple):
  """How a process ended: its exit status, or minus the signal that ended it; and what it wrote."""

  status: int
  stdout: bytes
  stderr: bytes


class Process:
  """One process, running. `close` kills it and waits until it is reaped.

  Not for use from two threads at once, but for `kill`, which any thread may call to cut a wait short.
  """

  def __init__(self, line: socket.socket, channel: socket.socket, pipes: dict[str, int], output_bytes: int):
    self._line, self._channel, self._pipes, self._output_bytes = line, channel, pipes, output_bytes
    channel.setblocking(False)
    for descriptor in pipes.values():
      os.set_blocking(descriptor, False)
    self._buffer = bytearray()
    self._output = {name: bytearray() for name in ("stdout", "stderr")}
    self._lock = threading.Lock()  # guards the descriptors against kill() after close()
    self._handle: int | None = None
    self._pid: int | None = None
    self._status: int | None = None  # once it has ended
    self._failure = ""  # why it was not confined
    self._over = self._closed = False

  @property
  def pid(self) -> int | None:
    """Its process id as this process sees it; None until it has begun and after it is closed."""
    return None if self._closed else self._pid

  def begun(self, seconds: float = START_SECONDS) -> None:
    """Waits until the process runs, confined or about to be; at once when it does.

    Raises:
      StartFailed: it does not.
    """
    if self._handle is None and not self._listen(time.monotonic() + seconds):
      raise StartFailed(f"nothing was heard within {seconds:g} s")
    if self._failure:
      raise StartFailed(self._failure)
    if self._handle is None:
      raise StartFailed("its zygote ended", outside=True)

  def ask(self, body: bytes, seconds: float) -> dict:
    """Sends a frame and waits for one, both within `seconds` from now.

    Raises:
      Overran, Died, Garbled: as they say. The process is then of no further use.
    """
    deadline = time.monotonic() + seconds
    self.send(body, deadline)
    return self.receive(deadline)

  def send(self, body: bytes, deadline: float) -> None:
    """Writes one frame. Raises Overran past the deadline (of `time.monotonic`), Died."""
    view = memoryview(frames.pack(body, frames.REQUEST_BYTES))
    while view:
      try:
        view = view[self._channel.send(view) :]
      except BlockingIOError:
        self._wait(select.POLLOUT, deadline)
      except OSError:
        raise self._death() from None

  def receive(self, deadline: float, most: int = frames.REPLY_BYTES) -> dict:
    """Reads one frame of at most so many bytes. Raises Overran past the deadline (of `time.monotonic`), Died, Garbled."""
    buffer = self._buffer
    while True:
      if len(buffer) >= frames.HEADER.size:
        (size,) = frames.HEADER.unpack_from(buffer)
        if size > most:
          raise Garbled(f"a reply of {size} bytes")
        end = frames.HEADER.size + size
        if len(buffer) >= end:
          body = bytes(buffer[frames.HEADER.size : end])
          del buffer[:end]
          return _as_mapping(body)
      self._wait(select.POLLIN, deadline)
      try:
        chunk = self._channel.recv(2**16)
      except BlockingIOError:
        continue
      except OSError:
        chunk = b""
      if not chunk:
        raise self._death()
      buffer += chunk

  def finish(self, given: bytes = b"", seconds: float = START_SECONDS) -> Ended:
    """Feeds standard input, reads what is written, until the process ends; never waits for a pipe that outlives it.

    Args:
      given: for its standard input, when it was started with one.
      seconds: that all of it may take, from now.

    Raises:
      Overran: it did not end in time.
      Flooded: it wrote more than its bounds allow, both streams together.
      Died: it was not confined, or its zygote ended first.
    """
    deadline, view = time.monotonic() + seconds, memoryview(given)
    while not self._over:
      view = self._feed(view)
      poll = select.poll()
      poll.register(self._line, select.POLLIN)
      for name in self._pipes:
        poll.register(self._pipes[name], select.POLLOUT if name == "stdin" else select.POLLIN)
      left = deadline - time.monotonic()
      if left <= 0 or not (events := poll.poll(left * 1000)):
        raise Overran()
      self._read_pipes()
      if self._line.fileno() in dict(events):
        self._listen(deadline)
    self._read_pipes()
    if self._status is None:
      raise self._death()
    return Ended(self._status, *(bytes(self._output[name]) for name in ("stdout", "stderr")))

  def read_output(self) -> tuple[bytes, bytes]:
    """What it has written so far to the streams that it was given, without waiting. Raises Flooded."""
    self._read_pipes()
    return bytes(self._output["stdout"]), bytes(self._output["stderr"])

  def kill(self) -> None:
    """SIGKILL to the process, and so to all of its pid namespace."""
    with self._lock:
      if self._closed or self._over:
        return
      if self._handle is not None:
        with suppress(OSError):
          signal.pidfd_send_signal(self._handle, signal.SIGKILL)
      with suppress(OSError):
        self._line.shutdown(socket.SHUT_WR)  # the zygote sees it and kills: where we may not, or it has not begun

  def close(self) -> None:
    """Kills it, waits until it is reaped, and closes what belongs to it."""
    self.kill()
    deadline = time.monotonic() + _REAP_SECONDS
    while not self._over and self._listen(deadline):
      pass
    with self._lock:
      self._closed = True
      self._line.close()
      self._channel.close()
      for descriptor in (self._handle, *self._pipes.values()):
        if descriptor is not None:
          os.close(descriptor)
      self._handle, self._pipes = None, {}

  def _wait(self, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(self._channel, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
      raise Overran()

  def _listen(self, deadline: float) -> bool:
    """Takes the next message of the line; False when none comes in time."""
    if self._over:
      return True
    self._line.settimeout(max(0.0, deadline - time.monotonic()))
    try:
      message, descriptors, _, _ = socket.recv_fds(self._line, 2**16, 1)
    except (TimeoutError, BlockingIOError):
      return False
    except OSError:
      message, descriptors = b"", []
    told = json.loads(message) if message else {}
    with self._lock:
      if "started" in told:
        self._handle, self._pid = descriptors[0], _pid_behind(descriptors[0])
      elif "failed" in told:
        self._over, self._failure = True, told["failed"]
      else:
        self._over, self._status = True, told.get("exit")
    return True

  def _death(self) -> Died:
    """How it ended, looked up before anything kills it, so that our own signal is not mistaken for the cause."""
    deadline = time.monotonic() + 1.0
    while not self._over:
      if not self._listen(deadline):
        return Died("closed its channel", None, outside=False)
    if self._failure:
      return Died(f"it was not confined: {self._failure}", None, outside=False)
    if self._status is None:
      return Died("its zygote ended", None, outside=True)
    if self._status >= 0:
      return Died(f"exit status {self._status}", self._status, outside=False)
    return Died(f"signal {-self._status}", self._status, outside=-self._status in _FROM_OUTSIDE)

  def _feed(self, view: memoryview) -> memoryview:
    """Writes what its standard input takes now; closes it behind the last byte."""
    if "stdin" in self._pipes:
      try:
        while view:
          view = view[os.write(self._pipes["stdin"], view) :]
      except BlockingIOError:
        return view
      except OSError:  # it does not read on
        pass
      os.close(self._pipes.pop("stdin"))
    return view[:0]

  def _read_pipes(self) -> None:
    for name in [name for name in self._pipes if name != "stdin"]:
      with suppress(BlockingIOError):
        while chunk := os.read(self._pipes[name], 2**16):
          self._output[name] += chunk
          if sum(map(len, self._output.values())) > self._output_bytes:
            raise Flooded(f"more than {self._output_bytes} bytes of output")
        os.close(self._pipes.pop(name))


def _pid_behind(handle: int) -> int | None:
  try:
    with open(f"/proc/self/fdinfo/{handle}") as file:
      return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
  except (OSError, StopIteration):
    return None


def _as_mapping(body: bytes) -> dict:
  try:
    value = frames.decode(body)
  except frames.FrameError as error:
    raise Garbled(str(error)) from error
  if not isinstance(value, dict):
    raise Garbled("a reply that is no mapping")
  return value
