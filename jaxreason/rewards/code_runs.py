"""Floor 3, rewards: running a submission's tests, each in jailed processes that are driven from here.

What enters: a submission and its tests. What leaves: an outcome for each test. This is the trusted side: it hands programs
and inputs in, takes output and values out, and compares; no expected value of a stdin or call test leaves it, and the
sources of assert tests go to a process of their own. Whatever comes back is so many bytes and no more, and only compared.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxreason.rewards import frames, values
from jaxreason.rewards.comparison import same_lines, same_value
from jaxreason.rewards.launch import Bounds
from jaxreason.rewards.process import START_SECONDS, Died, Ended, Flooded, Garbled, Overran, Process, StartFailed
from jaxreason.rewards.sandbox import Sandbox

OUTPUT_BYTES = 8 * 2**20
_STARTS = 3
_PAUSE_SECONDS = 0.1
_TESTER_MEMORY_MB = 512  # at least: what a submission may use says nothing about its tests
_KILLS = 4  # by somebody else, of one test's process, before that counts as the submission's doing


class Outcome(NamedTuple):
  """What became of one test. `limit`: it ran out of time, memory or output."""

  passed: bool
  limit: bool = False
  why: str = ""


class Fault(Exception):
  """Our side could not run it."""


class BrokenTest(Exception):
  """A test that fails, or does nothing, without any part of the submission's."""


class Submission(NamedTuple):
  """A program and how it may be run."""

  sandbox: Sandbox
  source: str
  setup: str
  entry_point: str | None
  timeout_s: float  # of each test, counted from when its process has the program
  memory_mb: int


def outcomes(submission: Submission, kind: str, tests: list) -> Iterator[Outcome]:
  """The outcome of each test in turn; close the iterator to stop early.

  Raises:
    Fault: no process could be started.
    BrokenTest: as it says.
  """
  return {"stdin": _of_programs, "call": _of_calls, "assert": _of_asserts}[kind](submission, tests)


def ran(submission: Submission, given: str, *, echo: bool = False) -> Ended:
  """How a whole program ended and what it wrote, given its standard input.

  Raises:
    Overran, Flooded, Died, Fault: as they say.
  """
  process = _begun(submission, "program:run", submission.source, echo=echo, streams=True)
  try:
    return process.finish(given.encode(), submission.timeout_s)
  finally:
    process.close()


def _of_programs(submission: Submission, tests: list[dict]) -> Iterator[Outcome]:
  def outcome(test: dict) -> Outcome:
    ended = ran(submission, test["input"])
    if ended.status != 0:
      last = ended.stderr[-2000:].decode(errors="replace").strip().rpartition("\n")[2][:200]
      return Outcome(False, last.startswith("MemoryError"), f"exit status {ended.status}: {last}")
    return Outcome(True) if same_lines(test["output"], ended.stdout) else Outcome(False, why="another output")

  for test in tests:
    yield _tried(outcome, test)


def _of_calls(submission: Submission, tests: list[dict]) -> Iterator[Outcome]:
  def outcome(test: dict) -> Outcome:
    process, deadline = candidate.ready()
    arguments = [values.encode(one) for one in (submission.entry_point, *test["input"])]
    reply = _asked(process, {"do": "invoke", "keep": False, "arguments": arguments, "keywords": {}}, deadline)
    if "value" not in reply:
      raise _Raised(reply)
    return Outcome(True) if same_value(test["output"], reply["value"]) else Outcome(False, why="another result")

  with _Kept(submission, "candidate:serve", submission.source, greets=True) as candidate:
    for test in tests:
      yield _tried(outcome, test, candidate)


def _of_asserts(submission: Submission, tests: list[str]) -> Iterator[Outcome]:
  def outcome(test: str) -> Outcome:
    process, deadline = candidate.ready()
    judge, _ = tester.ready()
    try:
      frame = _asked(judge, {"test": test}, deadline, frames.TESTER_BYTES)
    except Died as error:
      if error.outside:
        raise
      raise BrokenTest(f"it ended its process: {error}") from error
    while "ask" in frame:
      frame = _asked(judge, _asked(process, frame["ask"], deadline), deadline, frames.TESTER_BYTES)
    if frame.get("outcome") == "broken":
      raise BrokenTest(str(frame.get("why"))[:200])
    return Outcome(frame.get("outcome") == "passed", why=str(frame.get("why"))[:200])

  with (
    _Kept(submission, "candidate:serve", submission.source, greets=True) as candidate,
    _Kept(submission, "tester:serve", "", greets=False) as tester,
  ):
    for test in tests:
      yield _tried(outcome, test, candidate, tester)


class _Raised(Exception):
  """The submission raised; the reply that tells of it."""

  def __init__(self, reply: dict):
    super().__init__(str(reply.get("text"))[:200])
    names = reply.get("raised")
    self.memory = isinstance(names, list) and "MemoryError" in names


class _Kept:
  """A process that serves one test after another, until `drop`; `greets` says whether it tells when its program is loaded."""

  def __init__(self, submission: Submission, target: str, source: str, *, greets: bool):
    self._submission, self._target, self._source, self._greets = submission, target, source, greets
    self._process: Process | None = None

  def __enter__(self) -> "_Kept":
    return self

  def __exit__(self, *exception) -> None:
    self.drop()

  def ready(self) -> tuple[Process, float]:
    """(the process, when the test that begins now has to be over); what it takes to load the program counts."""
    if self._process is not None:
      return self._process, time.monotonic() + self._submission.timeout_s
    self._process = _begun(self._submission, self._target, self._source)
    deadline = time.monotonic() + self._submission.timeout_s
    if self._greets and "loaded" not in (greeting := self._process.receive(deadline)):
      self.drop()
      raise _Raised(greeting)
    return self._process, deadline

  def drop(self) -> None:
    if self._process is not None:
      self._process.close()
    self._process = None


def _asked(process: Process, request: dict, deadline: float, most: int = frames.REPLY_BYTES) -> dict:
  process.send(frames.encode(request), deadline)
  return process.receive(deadline, most)


def _tried(outcome: Callable[[object], Outcome], test, *kept: _Kept) -> Outcome:
  """The outcome of a test, whatever happens to its processes; those that it broke are dropped."""
  for _ in range(_KILLS):
    try:
      return outcome(test)
    except _Raised as error:
      return Outcome(False, error.memory, str(error))
    except Overran:
      found = Outcome(False, True, "out of time")
    except Flooded as error:
      found = Outcome(False, True, str(error))
    except Garbled as error:
      found = Outcome(False, why=str(error))
    except Died as error:
      found = None if error.outside else Outcome(False, why=f"ended early: {error}")
    for one in kept:
      one.drop()
    if found is not None:
      return found
  return Outcome(False, True, f"killed {_KILLS} times")


def _begun(submission: Submission, target: str, source: str, *, echo: bool = False, streams: bool = False) -> Process:
  """A jailed process that has its program; nothing of the program's ran before this returns.

  Raises:
    Fault: not after a few tries.
  """
  own = submission.memory_mb if source else max(submission.memory_mb, _TESTER_MEMORY_MB)
  bounds = Bounds(memory_mb=own, output_bytes=OUTPUT_BYTES)
  order = {"setup": submission.setup, "source": source, "entry_point": submission.entry_point, "echo": echo}
  for tries in range(1, _STARTS + 1):
    process = None
    try:
      process = submission.sandbox.start(f"jaxreason.rewards.{target}", {}, bounds, stdin=streams, output=streams)
      deadline = time.monotonic() + START_SECONDS
      if process.receive(deadline) != {"ready": True}:
        raise Garbled("an unexpected greeting")
      process.send(frames.encode(order), deadline)
      return process
    except (StartFailed, Overran, Died, Garbled) as error:
      if process is not None:
        process.close()
      if tries == _STARTS:
        raise Fault(f"no process could be started: {type(error).__name__}: {error}") from error
    time.sleep(_PAUSE_SECONDS * tries)
  raise AssertionError
