"""The prompt stream: each row once an epoch, the same in any order and any process, and known again by its fingerprint."""

import collections
import os
import subprocess
import sys

import pytest

from jaxreason.data.stream import PromptStream, visits
from jaxreason.data.tasks import running_sums, word_problems
from jaxreason.errors import UserError

ROWS = [{"prompt": f"{i}+1=", "answer": str(i + 1), "verifier": "chain", "id": f"row/{i}"} for i in range(100)]


def ids(stream, visit_ids):
  return [stream.row(visit_id)["id"] for visit_id in visit_ids]


@pytest.mark.parametrize("count", [1, 2, 37, 100])
def test_each_epoch_visits_each_row_once(count):
  stream = PromptStream(ROWS[:count], seed=3)
  assert len(stream) == count
  for epoch in (0, 1, 5):
    seen = collections.Counter(ids(stream, range(epoch * count, (epoch + 1) * count)))
    assert seen == collections.Counter(row["id"] for row in ROWS[:count])
    assert stream.epoch(epoch * count) == stream.epoch((epoch + 1) * count - 1) == epoch


def test_epochs_are_shuffled_each_in_its_own_way():
  stream = PromptStream(ROWS, seed=3)
  orders = {tuple(ids(stream, range(epoch * 100, (epoch + 1) * 100))) for epoch in range(4)}
  assert len(orders | {tuple(row["id"] for row in ROWS)}) == 5


def test_access_is_random_and_leaves_no_trace():
  forward = ids(PromptStream(ROWS, seed=3), range(250))
  stream = PromptStream(ROWS, seed=3)
  assert ids(stream, reversed(range(250))) == forward[::-1]
  assert [row["id"] for row in stream.rows(range(40, 50))] == forward[40:50]
  stream.row(7).clear()
  assert stream.row(7)["id"] == forward[7]


def test_the_place_of_a_visits_row_is_told():
  stream = PromptStream(ROWS, seed=3)
  assert all(stream.row(visit_id) == ROWS[stream.row_index(visit_id)] for visit_id in range(250))
  assert sorted(map(stream.row_index, range(100, 200))) == list(range(100))


def test_order_and_fingerprint_are_those_of_runs_long_ago():
  stream = PromptStream(ROWS, seed=3)
  visited = [*range(12), 100, 101, 2**32 - 1]
  assert [stream.row_index(visit_id) for visit_id in visited] == [29, 30, 31, 86, 26, 66, 61, 19, 80, 99, 2, 87, 82, 74, 1]
  assert stream.fingerprint == "cfc23a75fe3215ec4a32f044ec101f29aa8eb890d31d6fe52712794a86e548bc"


def test_a_batch_goes_on_where_the_last_one_stopped():
  first = visits(0, 32)
  second = visits(first.stop, 32)
  assert [*first, *second] == list(range(64))


def test_the_end_of_the_range_is_reachable_and_nothing_past_it():
  stream = PromptStream(ROWS, seed=3)
  assert stream.row(2**32 - 1)["id"].startswith("row/")
  for visit_id in (-1, 2**32):
    for ask in (stream.row, stream.row_index):
      with pytest.raises(ValueError, match="expected a visit_id"):
        ask(visit_id)


def test_the_fingerprint_knows_rows_order_and_seed():
  changed = [*ROWS[:50], {**ROWS[50], "answer": "0"}, *ROWS[51:]]
  streams = [PromptStream(ROWS, seed=3), PromptStream(ROWS, seed=4), PromptStream(ROWS[:99], seed=3)]
  streams += [PromptStream(changed, seed=3), PromptStream(ROWS[::-1], seed=3)]
  assert len({stream.fingerprint for stream in streams}) == 5
  reworded = [dict(reversed(row.items())) for row in ROWS]
  assert PromptStream(reworded, seed=3).fingerprint == streams[0].fingerprint


@pytest.mark.parametrize(
  ("rows", "seed", "words"),
  [([], 0, "at least one row"), (ROWS, -1, "seed in"), (ROWS, 2**32, "seed in"), ([{"id": b"x"}], 0, "bytes")],
)
def test_what_makes_no_stream_is_refused(rows, seed, words):
  with pytest.raises(UserError, match=words):
    PromptStream(rows, seed=seed)


_FRESH = """
from jaxreason.data.stream import PromptStream
from jaxreason.data.tasks import running_sums, word_problems
for task in (running_sums, word_problems):
  for split in ("train", "test"):
    print(PromptStream(task.rows(split, 150, 11), seed=5).fingerprint)
"""


def test_a_fresh_interpreter_makes_the_same_rows_in_the_same_order():
  environment = {**os.environ, "PYTHONHASHSEED": "12345", "JAX_PLATFORMS": "cpu"}
  printed = subprocess.run([sys.executable, "-c", _FRESH], env=environment, capture_output=True, text=True, check=True).stdout
  here = [
    PromptStream(task.rows(split, 150, 11), seed=5).fingerprint
    for task in (running_sums, word_problems)
    for split in ("train", "test")
  ]
  assert printed.split() == here
