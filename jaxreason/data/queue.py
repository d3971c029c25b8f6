"""Floor 3, host room `data`: which visits of the stream come next.

What enters: how many prompts are wanted, and how many samples of past visits were right. What leaves: visit_ids, each once,
ever. By default they are the visits of the stream in its order. Rows that the policy has solved can be left out for good, and
of the next visits those can come first whose outcome is least certain. A pure function of what was taken and recorded, in
order: no clock, no random draw.
"""

from collections.abc import Mapping
from typing import NamedTuple

from jaxreason.data.stream import PromptStream
from jaxreason.errors import UserError, nearest

ORDERS = ("stream", "difficulty")
WINDOW = 4  # so many times the visits that are wanted are looked at, for order="difficulty"
PATIENCE = 8  # takes that a visit is passed by, before it goes first
DECAY = 0.5  # what a row's past counts at its next visit


class _Record(NamedTuple):
  """What is known of a row: all its samples so far, and the same with the past forgotten."""

  right: int
  judged: int
  recent_right: float
  recent_wrong: float


class _Waiting(NamedTuple):
  """A visit that was looked at and not yet given."""

  visit_id: int
  row: int
  passed: int  # takes that did not give it


class PromptQueue:
  """Chooses the next visits of a stream, and learns from what became of them.

  Args:
    stream: the visits and their rows.
    order: "stream", as they come; or "difficulty": of a window of the next 4 x count visits (no more than rows that are not
      solved, but count at least), those with the largest p(1 - p) first, ties in the order of the stream; p is `estimate`. A
      visit that 8 takes have passed by goes before all others, the oldest first, so that at one count none waits for more
      than 12 takes.
    max_solve_rate: in (0, 1]. Below 1, a row leaves for good once the share of right ones among all its judged samples so far
      is at least this; its visits are passed over and counted in `skipped`. 1 turns the rule off.
    min_tries: judged samples of a row before that rule may apply to it. The paper names no least number; its groups are of
      16, hence the default.
    state: what `state()` gave, to go on from there; of a run without a queue, `{"next_visit": n}`.

  Source: no-positive-resampling, Khatri et al. 2025, https://arxiv.org/abs/2510.13786, with 0.9. It speaks of a history
    of pass rates; here that is the plain rate over the whole history, neither smoothed nor decayed, and what comes to be known
    later of a row that has left does not bring it back.

  Raises:
    UserError: an argument is out of range, or the state does not fit the stream.
  """

  def __init__(
    self,
    stream: PromptStream,
    *,
    order: str = "stream",
    max_solve_rate: float = 1.0,
    min_tries: int = 16,
    state: Mapping | None = None,
  ):
    if order not in ORDERS:
      raise UserError(f"expected an order of {', '.join(ORDERS)}, got {order!r}{nearest(str(order), ORDERS)}")
    if not 0 < max_solve_rate <= 1:
      raise UserError(f"expected max_solve_rate in (0, 1], got {max_solve_rate!r}; 1 turns it off")
    if min_tries < 1:
      raise UserError(f"expected min_tries of at least 1, got {min_tries!r}")
    self._stream, self._order = stream, order
    self._max_solve_rate, self._min_tries = max_solve_rate, min_tries
    self._next_visit, self._skipped = 0, 0
    self._records: dict[int, _Record] = {}
    self._solved: set[int] = set()
    self._waiting: list[_Waiting] = []  # by visit_id
    if state is not None:
      self._restore(state)

  @property
  def next_visit(self) -> int:
    """The first visit that was never looked at."""
    return self._next_visit

  @property
  def skipped(self) -> int:
    """Visits that were passed over because their row is solved."""
    return self._skipped

  @property
  def solved(self) -> int:
    """Rows that have left for good."""
    return len(self._solved)

  def take(self, count: int) -> list[int]:
    """The next `count` visit_ids, in the order in which they are to be sampled.

    Raises:
      UserError: every row is solved.
    """
    if count < 1:
      raise ValueError(f"expected to take at least 1 visit, got {count}")
    left = len(self._stream) - len(self._solved)
    if not left:
      raise UserError(
        f"expected a row with less than {self._max_solve_rate:.0%} of its samples right, got none: all {len(self._stream)} "
        "rows are solved; raise max_solve_rate, add harder rows, or end the run here"
      )
    window = count
    if self._order == "difficulty":
      window = max(count, min(WINDOW * count, left))
    self._look_at(window)
    ranked = sorted(self._waiting, key=self._rank)
    self._waiting = sorted(one._replace(passed=one.passed + 1) for one in ranked[count:])
    return [one.visit_id for one in ranked[:count]]

  def record(self, visit_id: int, right: int, judged: int) -> None:
    """Tells what became of a visit. Once a visit; a second time counts as more samples of its row.

    Args:
      visit_id: one that was taken.
      right: its samples that were right, in [0, judged].
      judged: its samples that have a verdict; of 0 nothing is learnt.

    Raises:
      UserError: the visit was not taken, or the counts are no counts.
    """
    if not 0 <= visit_id < self._next_visit or any(one.visit_id == visit_id for one in self._waiting):
      raise UserError(f"expected a visit_id that was taken, got {visit_id}, which was not; record visits of take() only")
    if not 0 <= right <= judged:
      raise UserError(f"expected right in [0, judged], got right={right} and judged={judged} of visit {visit_id}")
    if judged == 0:
      return
    row, right, judged = self._stream.row_index(visit_id), int(right), int(judged)
    old = self._records.get(row, _Record(0, 0, 0.0, 0.0))
    self._records[row] = _Record(
      old.right + right,
      old.judged + judged,
      DECAY * old.recent_right + right,
      DECAY * old.recent_wrong + judged - right,
    )
    self._retire(row)

  def estimate(self, visit_id: int) -> float:
    """The probability in (0, 1) that a sample of this visit's row is right: the mean of a Beta posterior that forgets.

        a ← γ a + right,   b ← γ b + wrong,   p = (a + 1) / (a + b + 2)

    at each recorded visit of the row, from a = b = 0, with γ = 0.5; so 1/2 for a row of which nothing is known.

    Source: Beta-Bernoulli with temporal discounting towards the prior, Qu et al. 2025 (MoPPS), https://arxiv.org/abs/2507.04632;
      the mean is taken and not a draw from the posterior, so that the order needs no random key.
    """
    return self._estimate(self._stream.row_index(visit_id))

  def state(self) -> dict:
    """All of the queue but its arguments, as JSON values; bounded by the rows seen, and the window."""
    return {
      "next_visit": self._next_visit,
      "skipped": self._skipped,
      "records": [[row, *record] for row, record in sorted(self._records.items())],
      "solved": sorted(self._solved),
      "waiting": [[one.visit_id, one.passed] for one in self._waiting],
    }

  def _look_at(self, window: int) -> None:
    """Fills up the waiting to `window` visits of rows that are not solved."""
    kept = [one for one in self._waiting if one.row not in self._solved]
    self._skipped += len(self._waiting) - len(kept)
    while len(kept) < window:
      row = self._stream.row_index(self._next_visit)
      if row in self._solved:
        self._skipped += 1
      else:
        kept.append(_Waiting(self._next_visit, row, 0))
      self._next_visit += 1
    self._waiting = kept

  def _rank(self, one: _Waiting) -> tuple:
    """What has waited too long, then the largest p(1 - p), then the order of the stream."""
    if self._order == "stream":
      return (one.visit_id,)
    if one.passed >= PATIENCE:
      return (0, 0.0, one.visit_id)
    p = self._estimate(one.row)
    return (1, -p * (1 - p), one.visit_id)

  def _estimate(self, row: int) -> float:
    record = self._records.get(row)
    if record is None:
      return 0.5
    return (record.recent_right + 1) / (record.recent_right + record.recent_wrong + 2)

  def _retire(self, row: int) -> None:
    record = self._records[row]
    tried = record.judged >= self._min_tries
    if self._max_solve_rate < 1 and tried and record.right / record.judged >= self._max_solve_rate:
      self._solved.add(row)

  def _restore(self, state: Mapping) -> None:
    """Takes over a state. Under another max_solve_rate rows that had left stay away, and those that now would leave do; under
    1 all are back.
    """
    try:
      self._next_visit, self._skipped = int(state["next_visit"]), int(state.get("skipped", 0))
      self._records = {row: _Record(*record) for row, *record in state.get("records", ())}
      self._waiting = [_Waiting(visit, self._stream.row_index(visit), passed) for visit, passed in state.get("waiting", ())]
      solved = {int(row) for row in state.get("solved", ())}
      rows = range(len(self._stream))
      fits = all(row in rows for row in (*self._records, *solved))
      fits = fits and all(one.visit_id < self._next_visit for one in self._waiting)
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(f"expected the state of a PromptQueue, got one with {type(error).__name__}: {error}") from error
    if not fits:
      raise UserError(f"expected a state of {len(rows)} rows, got one that names others; resume with the same data")
    if self._max_solve_rate < 1:
      self._solved = solved
      for row in self._records:
        self._retire(row)
