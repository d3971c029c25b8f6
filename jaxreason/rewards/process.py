"""Floor 3, rewards: the trainer's handle on one worker process.

What enters: settings, then one request at a time with the seconds that it may take. What leaves: its reply, or an
exception that says how the worker failed. The process is started by exec in a session of its own (never forked:
a forked copy of a process that runs JAX deadlocks), with a clean environment that shows it no accelerator, and whatever
ends it ends its whole process group.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from jaxreason.rewards import frames

START_SECONDS = 60.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TZ")
_ENVIRONMENT = {
  "LANG": "C.UTF-8",
  "PYTHONHASHSEED": "0",  # the same answer meets the same sets in the same order: verdicts repeat
  "OPENBLAS_NUM_THREADS": "1",
  "OMP_NUM_THREADS": "1",
  "MKL_NUM_THREADS": "1",
  "CUDA_VISIBLE_DEVICES": "",
  "HIP_VISIBLE_DEVICES": "",
  "ROCR_VISIBLE_DEVICES": "",
  "TPU_VISIBLE_CHIPS": "",
  "JAX_PLATFORMS": "cpu",
  "SYMPY_GROUND_TYPES": "python",  # gmpy2 aborts the process on numbers too large, and nothing can interrupt it
  "MPMATH_NOGMPY": "1",
}


class StartFailed(Exception):
  """The worker process did not come up. `outside` is True when a signal from elsewhere ended it meanwhile."""

  def __init__(self, why: str, outside: bool = False):
    super().__init__(why)
    self.outside = outside


class NotLoaded(Exception):
  """The worker is well, but what it was asked for cannot be imported."""


class Overran(Exception):
  """No reply within the seconds given."""


class Died(Exception):
  """The process ended while it was judging. `outside` is True when a signal from elsewhere ended it."""

  def __init__(self, how: str, outside: bool):
    super().__init__(how)
    self.outside = outside


class Garbled(Exception):
  """The reply was too long, not JSON, or not the reply to what was asked."""


class WorkerProcess:
  """One running worker; `close` kills it, and its process group, and reaps it.

  Not for use from two threads at once, but for `kill`, which any thread may call to cut a wait short. On Linux the
  worker dies with the thread that made this object.
  """

  def __init__(self, *, memory_mb: int, verifiers: Mapping[str, str]):
    """Starts the process and does not wait for it.

    Raises:
      StartFailed: the operating system refused.
    """
    settings = {"paths": _paths(), "memory_bytes": memory_mb * 2**20, "parent": os.getpid(), "verifiers": dict(verifiers)}
    command = [sys.executable, "-s", "-P", str(Path(__file__).with_name("worker.py")), frames.encode(settings).decode()]
    environment = _ENVIRONMENT | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
      self._process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        close_fds=True,
        start_new_session=True,
        env=environment,
        cwd="/",
      )
    except OSError as error:
      raise StartFailed(f"{command[0]}: {error}") from error
    self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()
    self._writable, self._readable = select.poll(), select.poll()
    self._writable.register(self._requests, select.POLLOUT)
    self._readable.register(self._replies, select.POLLIN)
    os.set_blocking(self._requests, False)
    self._buffer = bytearray()
    self._reaping = threading.Lock()  # a process id may be used again once it is reaped: never kill it after that
    self._ready = False
    self._failures: dict[str, str | None] = {}
    self.judged = 0

  @property
  def pid(self) -> int:
    return self._process.pid

  def prepare(self, target: str) -> None:
    """Waits until the worker is up and has imported `target`, a `package.module:function`; at once when it has.

    Raises:
      StartFailed: the process did not come up; it is of no further use.
      NotLoaded: it cannot be imported; the message says why.
    """
    deadline = time.monotonic() + START_SECONDS
    try:
      if not self._ready and self._read(deadline) != {"ready": True}:
        raise Garbled("an unexpected greeting")
      self._ready = True
      if target not in self._failures:
        self._write(frames.encode({"load": target}), deadline)
        while "importing" in (reply := self._read(deadline)):
          pass
        self._failures[target] = reply.get("failed")
    except (Overran, Garbled) as error:
      raise StartFailed(f"{type(error).__name__} at its start") from error
    except Died as error:
      raise StartFailed(f"{error} at its start: {self._complaint()}", error.outside) from error
    if self._failures[target] is not None:
      raise NotLoaded(self._failures[target])

  def ask(self, body: bytes, seconds: float) -> dict:
    """The worker's reply to one request, within `seconds` from now; time spent on slow imports does not count.

    Raises:
      Overran, Died, Garbled: as they say. The process is then of no further use.
    """
    deadline = time.monotonic() + seconds
    self._write(body, deadline)
    self.judged += 1
    for _ in range(64):  # more slow imports than any verifier has
      reply = self._read(deadline)
      if "importing" not in reply:
        return reply
      deadline = time.monotonic() + (START_SECONDS if reply["importing"] is True else seconds)
    raise Garbled("no end of imports")

  def kill(self) -> None:
    """SIGKILL to the whole process group."""
    with self._reaping:
      if self._process.returncode is None:
        self._sweep()

  def close(self) -> None:
    """Kills, reaps and closes the pipes."""
    self.kill()
    with self._reaping:
      self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
      pipe.close()

  def _write(self, body: bytes, deadline: float) -> None:
    view = memoryview(frames.pack(body, frames.REQUEST_BYTES))
    while view:
      try:
        view = view[os.write(self._requests, view) :]
      except BlockingIOError:
        self._wait(self._writable, deadline)
      except BrokenPipeError:
        raise self._death() from None

  def _read(self, deadline: float) -> dict:
    buffer = self._buffer
    while True:
      if len(buffer) >= frames.HEADER.size:
        (size,) = frames.HEADER.unpack_from(buffer)
        if size > frames.REPLY_BYTES:
          raise Garbled(f"a reply of {size} bytes")
        end = frames.HEADER.size + size
        if len(buffer) >= end:
          body = bytes(buffer[frames.HEADER.size : end])
          del buffer[:end]
          return _as_mapping(body)
      self._wait(self._readable, deadline)
      chunk = os.read(self._replies, 2**16)
      if not chunk:
        raise self._death()
      buffer += chunk

  def _wait(self, poll: select.poll, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
      raise Overran()

  def _death(self) -> Died:
    """How the process ended, looked up before we kill its group, so that our own signal is not mistaken for the cause."""
    with self._reaping:
      try:
        code = self._process.wait(timeout=0.2)
      except subprocess.TimeoutExpired:
        return Died("closed its output", outside=False)
      self._sweep()
    if code >= 0:
      return Died(f"exit status {code}", outside=False)
    return Died(f"signal {-code}", outside=-code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

  def _sweep(self) -> None:
    with suppress(ProcessLookupError, PermissionError):  # the group is empty; macOS says the latter of a zombie
      os.killpg(self._process.pid, signal.SIGKILL)

  def _complaint(self) -> str:
    """The last line that a worker wrote to standard error before it was ready."""
    os.set_blocking(self._process.stderr.fileno(), False)
    lines = (self._process.stderr.read(2**16) or b"").decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "no message"


def _paths() -> list[str]:
  """The trainer's import path with absolute entries, so that its own and the user's modules are found."""
  paths = [os.path.abspath(entry) for entry in sys.path]
  return paths if str(_PACKAGE_ROOT) in paths else [*paths, str(_PACKAGE_ROOT)]


def _as_mapping(body: bytes) -> dict:
  try:
    value = frames.decode(body)
  except frames.FrameError as error:
    raise Garbled(str(error)) from error
  if not isinstance(value, dict):
    raise Garbled("a reply that is no mapping")
  return value
