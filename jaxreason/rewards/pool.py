"""Floor 3, rewards: the verifier pool, text in and verdicts out.

What enters: items, mappings such as `{"verifier": "math", "response": "... #### 18", "answer": "18"}`. What leaves: one
`Verdict` for each, in order, whatever the response does to its judge. Judging happens in worker processes that are
started by exec and killed at each item's own deadline.

Not sandboxed yet: a worker is an ordinary process of the same user, with limits on time and memory only. The verifiers
that come with jaxreason do not execute responses; a verifier of your own that does should not be used here.
"""

import os
import queue
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from itertools import count

from jaxreason.errors import UserError, nearest
from jaxreason.rewards import frames
from jaxreason.rewards.lane import Job, Lane, Limits, closed
from jaxreason.rewards.tally import Tally
from jaxreason.rewards.verdict import Verdict

VERIFIERS = {
  "math": "jaxreason.rewards.math_verifier:grade",
  "chain": "jaxreason.rewards.chain_verifier:grade",
}
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_QUEUED = 4096
_RECYCLE_AFTER = 5000


class VerifierPool:
  """Judges items in worker processes. Use it as a context manager: when the block ends, no process is left.

  Args:
    verifiers: names to `package.module:function`, added to `VERIFIERS`; a function takes the item's other fields by
      name (those that it has parameters for) and returns a `Verdict`. It is imported in the workers only. What it
      raises is `infra_error`: it has to judge hostile text itself, or a response that makes it raise escapes its zero.
    workers: how many processes; by default one less than the CPUs that this process may use, at least 1.
    deadline_s: seconds that one item may take, counted from when a worker begins with it.
    memory_mb: MiB of address space that a worker may use.

  Raises:
    UserError: an argument has the wrong form.
  """

  def __init__(
    self,
    verifiers: Mapping[str, str] | None = None,
    workers: int | None = None,
    deadline_s: float = 10.0,
    memory_mb: int = 2048,
  ):
    self._verifiers = VERIFIERS | _checked_verifiers(verifiers or {})
    self._workers = max(1, _cpus() - 1) if workers is None else _checked("workers", workers, int, 1)
    self._limits = Limits(
      deadline_s=_checked("deadline_s", deadline_s, int | float, 0.001),
      memory_mb=_checked("memory_mb", memory_mb, int, 64),
      recycle_after=_RECYCLE_AFTER,
    )
    self._jobs: queue.Queue[Job | None] = queue.Queue(maxsize=_QUEUED)
    self._tally = Tally()
    self._numbers = count()
    self._lanes: list[Lane] = []
    self._open = False

  def __enter__(self) -> "VerifierPool":
    if self._open:
      raise UserError("expected a VerifierPool that is not in use, got one that was entered before; make a second pool")
    if not sys.executable:
      raise UserError("expected sys.executable to name the Python interpreter, got nothing; workers cannot be started")
    warnings.warn("workers are not jailed: time and memory are limited, files and network are not", stacklevel=2)
    self._open = True
    self._lanes = [Lane(self._jobs, self._limits, self._tally, f"verifier-{i}") for i in range(self._workers)]
    return self

  def __exit__(self, *exception) -> None:
    self._open = False
    for lane in self._lanes:
      lane.stop()
    self._drain()
    for _ in self._lanes:
      self._jobs.put(None)
    for lane in self._lanes:
      lane.join()
    self._lanes = []
    self._drain()

  def score(self, items: Iterable[Mapping]) -> list[Verdict]:
    """One verdict per item, in the order of the items; waits for the last of them.

    Items that are equal in every field are judged once and share their verdict.

    Args:
      items: mappings with `verifier`, `response` and whatever else the verifier takes (`answer`), all JSON values.

    Raises:
      UserError: an item is malformed; nothing has been judged then.
    """
    keys = [self._checked_item(item, f"item {position}") for position, item in enumerate(items)]
    futures: dict[tuple[str, bytes], Future] = {}
    for key in keys:
      if key not in futures:
        futures[key] = self._submit(*key)
    return [futures[key].result() for key in keys]

  def submit(self, item: Mapping) -> Future:
    """A future of the item's verdict. Blocks while 4096 items are waiting; never raises through the future.

    Raises:
      UserError: the item is malformed, or the pool is not open.
    """
    return self._submit(*self._checked_item(item, "the item"))

  def stats(self, *, reset: bool = False) -> dict:
    """Counts and latencies since the pool was made, or since the last call with `reset=True`.

    Returns:
      `{"verifiers": {name: {status: count, "p50_s": s, "p95_s": s, "max_s": s}}, "workers": {event: count}}`. Counts
      are of judgements, so equal items in one `score` count once. Seconds are measured here, from when a worker is
      given the item until its verdict, retries included. Worker events are started, recycled, overran, crashed,
      killed_from_outside, start_failed and stopped.
    """
    return self._tally.read(reset=reset)

  def pids(self) -> list[int]:
    """The process ids of the workers that run now."""
    return [pid for lane in self._lanes if (pid := lane.pid) is not None]

  def _submit(self, verifier: str, fields: bytes) -> Future:
    if not self._open:
      raise UserError("expected an open VerifierPool, got one outside its `with` block; use `with VerifierPool() as pool:`")
    job = Job(next(self._numbers), verifier, self._verifiers[verifier], fields)
    if len(job.request(1)) > frames.REQUEST_BYTES:
      job.future.set_result(_oversized(job))
      return job.future
    self._jobs.put(job)
    if not self._open:  # closed while we waited for room: nobody else will answer
      self._drain()
    return job.future

  def _drain(self) -> None:
    """Answers every waiting job with `closed`."""
    while True:
      try:
        job = self._jobs.get_nowait()
      except queue.Empty:
        return
      if job is not None and job.future.set_running_or_notify_cancel():
        job.future.set_result(closed())

  def _checked_item(self, item: Mapping, where: str) -> tuple[str, bytes]:
    """The item's verifier, and its other fields as JSON."""
    if not isinstance(item, Mapping):
      raise UserError(f"expected {where} to be a mapping with 'verifier' and 'response', got {type(item).__name__}")
    required = ("verifier", "response", "answer") if item.get("verifier") in VERIFIERS else ("verifier", "response")
    for name in required:
      if name not in item:
        raise UserError(f"expected {where} to have {', '.join(map(repr, required))}, got only {sorted(map(str, item))}")
      if not isinstance(item[name], str):
        raise UserError(f"expected {where}'s {name!r} to be a string, got {type(item[name]).__name__}")
    verifier = item["verifier"]
    if verifier not in self._verifiers:
      known = ", ".join(sorted(self._verifiers))
      hint = nearest(verifier, self._verifiers)
      raise UserError(f"expected {where}'s verifier to be one of {known}, got {verifier!r}{hint}; name it in verifiers=")
    try:
      return verifier, frames.encode({name: value for name, value in item.items() if name != "verifier"})
    except (TypeError, ValueError, RecursionError) as error:
      raise UserError(f"expected {where} to hold JSON values, got: {error}; convert them to str, int, float, bool") from error


def _oversized(job: Job) -> Verdict:
  """An item too large to send: the response's own fault when the response alone would be."""
  response = frames.decode(job.fields)["response"]
  size = len(frames.encode(response))
  detail = f"an item of {len(job.fields)} bytes, {size} of them the response, is over the cap of {frames.REQUEST_BYTES}"
  if size > frames.REQUEST_BYTES // 2:
    return Verdict(0.0, "limit", detail=detail)
  return Verdict(None, "bad_answer", detail=detail)


def _checked_verifiers(verifiers: Mapping[str, str]) -> dict[str, str]:
  for name, target in verifiers.items():
    if not isinstance(name, str) or not isinstance(target, str) or not _TARGET.fullmatch(target):
      raise UserError(f"expected verifiers to map names to 'package.module:function', got {name!r}: {target!r}")
  return dict(verifiers)


def _checked(name: str, value, kind, least):
  if not isinstance(value, kind) or isinstance(value, bool) or not value >= least:
    raise UserError(f"expected {name} to be a number of at least {least}, got {value!r}")
  return value


def _cpus() -> int:
  try:
    return len(os.sched_getaffinity(0))  # what this process may use, also in a container
  except AttributeError:  # not Linux
    return os.cpu_count() or 1
