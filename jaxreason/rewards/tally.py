"""Floor 3, rewards: what the pool counts, for the log.

What enters: verdicts with the seconds they took, and what happened to workers. What leaves: plain dicts of numbers.
"""

import math
import threading
from collections import Counter, deque

_KEPT = 10_000


class Tally:
  """Counts per verifier and status, and the latest 10,000 latencies per verifier. Any thread may add to it."""

  def __init__(self):
    self._lock = threading.Lock()
    self._statuses: dict[str, Counter] = {}
    self._seconds: dict[str, deque] = {}
    self._workers: Counter = Counter()
    self._raised: set[str] = set()

  def judged(self, verifier: str, status: str, seconds: float) -> None:
    with self._lock:
      self._statuses.setdefault(verifier, Counter())[status] += 1
      self._seconds.setdefault(verifier, deque(maxlen=_KEPT)).append(seconds)

  def worker(self, event: str) -> None:
    with self._lock:
      self._workers[event] += 1

  def raised(self, verifier: str) -> bool:
    """Notes that a verifier let an exception out; True the first time, which is worth a line in the log."""
    with self._lock:
      first = verifier not in self._raised
      self._raised.add(verifier)
      return first

  def read(self, *, reset: bool) -> dict:
    """`{"verifiers": {name: {status: count, "p50_s", "p95_s", "max_s"}}, "workers": {event: count}}`."""
    with self._lock:
      verifiers = {name: {**counts, **_percentiles(self._seconds[name])} for name, counts in self._statuses.items()}
      found = {"verifiers": verifiers, "workers": dict(self._workers)}
      if reset:
        self._statuses, self._seconds, self._workers = {}, {}, Counter()
    return found


def _percentiles(seconds: deque) -> dict[str, float]:
  ranked = sorted(seconds)
  at = lambda share: ranked[math.ceil(share * len(ranked)) - 1]
  return {"p50_s": at(0.5), "p95_s": at(0.95), "max_s": ranked[-1]}
