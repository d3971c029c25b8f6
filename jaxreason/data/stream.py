"""Floor 3, host room `data`: the endless stream of prompts that a visit_id indexes.

Rows and a seed enter; a row for any visit_id leaves, in any order and as often as asked. The stream is a pure function of
(rows, seed, visit_id): all that a checkpoint keeps of it is the next visit_id, and `fingerprint` to see that the function is
still the same one.
"""

import hashlib
import json
from collections.abc import Sequence

import grain

from jaxreason.errors import UserError

# visit_id is folded into a random key as a uint32.
_VISITS = 2**32
# So many rows of the shuffled order go into the fingerprint, to notice a grain that shuffles in another way.
_PROBE = 32


class PromptStream:
  """Rows in a new random order each epoch, without end.

  Each of the first len(rows) visits sees another row, and so does each following run of len(rows) visits.

  Attributes:
    fingerprint: hex sha256 of the rows, the seed and the order; a resumed run compares it.
  """

  def __init__(self, rows: Sequence[dict], *, seed: int):
    """Raises UserError for no rows, a row that is not JSON, or a seed outside [0, 2^32)."""
    if not rows:
      raise UserError("expected at least one row of data, got none")
    if not 0 <= seed < 2**32:
      raise UserError(f"expected a data seed in [0, 2^32), got {seed}")
    self._rows = len(rows)
    self._data = rows
    # Of places and not of rows: the order depends on their number and the seed alone.
    self._order = grain.MapDataset.source(range(len(rows))).seed(seed).shuffle().repeat()
    self.fingerprint = self._fingerprint(rows, seed)

  def __len__(self) -> int:
    """Rows in one epoch."""
    return self._rows

  def row(self, visit_id: int) -> dict:
    """The row at position `visit_id`, an int in [0, 2^32), of the stream; a copy that the caller may change."""
    return dict(self._data[self.row_index(visit_id)])

  def row_index(self, visit_id: int) -> int:
    """The place in the data, in [0, len(self)), of the row at `visit_id`: the same in each epoch."""
    if not 0 <= visit_id < _VISITS:
      raise ValueError(f"expected a visit_id in [0, 2^32), got {visit_id}")
    return int(self._order[int(visit_id)])

  def rows(self, visit_ids: Sequence[int]) -> list[dict]:
    """The rows at these positions."""
    return [self.row(visit_id) for visit_id in visit_ids]

  def epoch(self, visit_id: int) -> int:
    """How many times all rows were seen before `visit_id`."""
    return visit_id // self._rows

  def _fingerprint(self, rows: Sequence[dict], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}\n".encode())
    visited = (self.row(visit_id) for visit_id in range(min(self._rows, _PROBE)))
    for row in (*rows, *visited):
      digest.update(_canonical(row) + b"\n")
    return digest.hexdigest()


def visits(first: int, prompts: int) -> range:
  """The visit_ids of a batch of `prompts` prompts that begins at `first`; its `stop` is where the next batch begins."""
  return range(first, first + prompts)


def _canonical(row: dict) -> bytes:
  try:
    return json.dumps(row, sort_keys=True).encode()
  except (TypeError, ValueError) as error:
    raise UserError(f"expected rows of text, numbers and lists, got row {row.get('id')!r} with {error}") from None
