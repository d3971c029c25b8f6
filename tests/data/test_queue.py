"""The prompt queue: each visit once, in order by default, solved rows gone for good, uncertain ones first, none starved."""

import json
import random

import pytest

from jaxreason.data.queue import PATIENCE, WINDOW, PromptQueue
from jaxreason.data.stream import PromptStream
from jaxreason.errors import UserError

STREAM = PromptStream([{"id": f"row/{i}", "answer": str(i)} for i in range(40)], seed=3)
SETTINGS = [
  {},
  {"order": "difficulty"},
  {"max_solve_rate": 0.9, "min_tries": 8},
  {"order": "difficulty", "max_solve_rate": 0.9, "min_tries": 8},
]


def skill(row):
  """Samples of eight that are right: rows 0 to 9 always, 10 to 19 half of them, the others never."""
  return {0: 8, 1: 4}.get(row // 10, 0)


def step(queue, count, stream=STREAM):
  """Takes and records, as a run does."""
  visits = queue.take(count)
  for visit_id in visits:
    queue.record(visit_id, skill(stream.row_index(visit_id)), 8)
  return visits


def saved(queue):
  return json.loads(json.dumps(queue.state()))


def test_by_default_it_is_the_plain_range_whatever_is_recorded():
  queue, following = PromptQueue(STREAM), 0
  for count in (1, 7, 40, 100, 3):
    assert queue.next_visit == following
    assert step(queue, count) == list(range(following, following + count))
    following += count
  assert (queue.next_visit, queue.skipped, queue.solved) == (following, 0, 0)


def test_a_run_that_had_no_queue_goes_on():
  queue = PromptQueue(STREAM, state={"next_visit": 123})
  assert queue.take(5) == list(range(123, 128))


@pytest.mark.parametrize("settings", SETTINGS)
def test_each_visit_is_given_once_and_all_looked_at_are_given_waiting_or_skipped(settings):
  queue, given = PromptQueue(STREAM, **settings), []
  for count in [5, 1, 16, 9] * 6:
    visits = step(queue, count)
    assert len(visits) == count
    given += visits
  assert len(set(given)) == len(given)
  state = queue.state()
  waiting = {visit_id for visit_id, _ in state["waiting"]}
  assert not waiting & set(given)
  assert len(given) + len(waiting) + queue.skipped == queue.next_visit


@pytest.mark.parametrize("settings", SETTINGS)
def test_saved_at_any_point_it_goes_on_as_if_nothing_had_been(settings):
  """Between a take and its records too."""
  queue, states, later = PromptQueue(STREAM, **settings), [], []
  for _ in range(30):  # long enough for some to lose patience
    states.append(saved(queue))
    visits = queue.take(5)
    later.append(visits)
    middle = PromptQueue(STREAM, **settings, state=saved(queue))
    for visit_id in visits:
      for one in (queue, middle):
        one.record(visit_id, skill(STREAM.row_index(visit_id)), 8)
    assert middle.state() == queue.state() == saved(queue)
  for start, state in [*enumerate(states)][::3]:
    resumed = PromptQueue(STREAM, **settings, state=state)
    assert resumed.state() == state
    assert [step(resumed, 5) for _ in range(30 - start)] == later[start:]


def test_solved_rows_never_come_again_and_the_others_keep_coming():
  queue = PromptQueue(STREAM, max_solve_rate=0.9, min_tries=8)
  first = [STREAM.row_index(visit_id) for visit_id in step(queue, 40)]
  assert sorted(first) == list(range(40))
  assert queue.solved == 10
  later = [STREAM.row_index(visit_id) for _ in range(9) for visit_id in step(queue, 10)]
  assert sorted(later) == sorted([*range(10, 40)] * 3)
  assert queue.skipped == 30


def test_the_rule_is_on_the_whole_history_and_not_on_the_estimate():
  queue = PromptQueue(STREAM, max_solve_rate=0.9, min_tries=1)
  visits = [visit_id for visit_id in queue.take(400) if STREAM.row_index(visit_id) == 7]
  queue.record(visits[0], 0, 8)
  for visit_id in visits[1:9]:
    queue.record(visit_id, 8, 8)
  assert queue.estimate(visits[0]) > 0.9  # it has forgotten the first failures
  assert queue.solved == 0  # 64 of 72
  queue.record(visits[9], 8, 8)
  assert queue.solved == 1  # 72 of 80, which is 0.9
  queue.record(visits[9], 0, 800)
  assert queue.solved == 1  # for good


def test_the_rule_waits_for_enough_tries():
  queue = PromptQueue(STREAM, max_solve_rate=0.5)
  (visit_id, *_) = queue.take(1)
  queue.record(visit_id, 15, 15)
  assert queue.solved == 0
  queue.record(visit_id, 1, 1)
  assert queue.solved == 1


def test_rows_that_are_solved_while_they_wait_are_passed_over():
  queue = PromptQueue(STREAM, order="difficulty", max_solve_rate=0.9, min_tries=8)
  first = queue.take(10)
  waiting = [visit_id for visit_id, _ in queue.state()["waiting"]]
  assert len(waiting) == 30
  again = {STREAM.row_index(visit_id): visit_id for visit_id in range(40, 80)}
  queue = PromptQueue(STREAM, order="difficulty", max_solve_rate=0.9, min_tries=8, state=queue.state() | {"next_visit": 80})
  for visit_id in waiting[:20]:
    queue.record(again[STREAM.row_index(visit_id)], 8, 8)
  assert queue.take(10) == waiting[20:]
  assert queue.skipped >= 20
  assert first == list(range(10))


@pytest.mark.parametrize("order", ["stream", "difficulty"])
def test_no_row_left_is_told_in_one_line(order):
  queue = PromptQueue(STREAM, order=order, max_solve_rate=0.9, min_tries=8)
  for _ in range(20):
    if queue.solved == 40:
      break
    for visit_id in queue.take(8):
      queue.record(visit_id, 8, 8)
  with pytest.raises(UserError, match="all 40 rows are solved; raise max_solve_rate") as caught:
    queue.take(1)
  assert "\n" not in str(caught.value)


def test_uncertain_rows_come_before_those_that_are_always_right_or_wrong():
  queue = PromptQueue(STREAM, order="difficulty")
  for _ in range(4):  # every row is seen once
    step(queue, 10)
  assert sorted(row for row, *_ in queue.state()["records"]) == list(range(40))
  window = {STREAM.row_index(visit_id) // 10 for visit_id in range(40, 80)}
  assert window == {0, 1, 2, 3}
  assert {STREAM.row_index(visit_id) // 10 for visit_id in step(queue, 10)} == {1}


def test_rows_of_which_nothing_is_known_count_as_uncertain_and_ties_go_by_the_stream():
  queue = PromptQueue(STREAM, order="difficulty")
  assert queue.take(10) == list(range(10))
  assert {queue.estimate(visit_id) for visit_id in range(40)} == {0.5}
  for visit_id in range(10):
    queue.record(visit_id, 8, 8)
  assert queue.take(10) == list(range(10, 20))


@pytest.mark.parametrize("count", [1, 3, 8])
def test_none_starves(count):
  queue, entered, seen = PromptQueue(STREAM, order="difficulty"), {}, 0
  for take in range(150):
    visits = step(queue, count)
    entered |= dict.fromkeys(range(seen, queue.next_visit), take)
    seen = queue.next_visit
    assert len(queue.state()["waiting"]) <= (WINDOW - 1) * count
    assert all(take - entered[visit_id] < PATIENCE + WINDOW for visit_id in visits)
    for visit_id in visits:
      del entered[visit_id]
  assert all(take - began < PATIENCE + WINDOW for began in entered.values())


def test_the_estimate_follows_a_policy_that_improves():
  queue = PromptQueue(STREAM)
  visits = [visit_id for visit_id in queue.take(400) if STREAM.row_index(visit_id) == 7]
  wrong, right = 0.0, 0.0
  for visit_id, samples in zip(visits, [0, 2, 4, 8, 8, 8], strict=False):
    queue.record(visit_id, samples, 8)
    right, wrong = right / 2 + samples, wrong / 2 + 8 - samples
    assert queue.estimate(visit_id) == (right + 1) / (right + wrong + 2)
  assert queue.estimate(visits[0]) == queue.estimate(visits[-1]) > 0.8
  before = queue.state()
  queue.record(visits[7], 0, 0)
  assert queue.state() == before


def test_the_state_is_bounded_by_the_rows():
  queue, draw = PromptQueue(STREAM, order="difficulty"), random.Random(0)
  for _ in range(100):
    for visit_id in queue.take(8):
      queue.record(visit_id, draw.randrange(9), 8)
  assert len(queue.state()["records"]) == 40
  assert len(json.dumps(queue.state())) < 5000


def test_nothing_waiting_is_lost_when_the_order_changes():
  queue = PromptQueue(STREAM, order="difficulty")
  given = queue.take(5)
  assert given + PromptQueue(STREAM, state=queue.state()).take(25) == list(range(30))


def test_what_was_not_taken_cannot_be_recorded():
  queue = PromptQueue(STREAM, order="difficulty")
  taken = queue.take(3)
  for visit_id in (taken[-1] + 1, queue.next_visit, 10**6, -1):
    with pytest.raises(UserError, match=f"expected a visit_id that was taken, got {visit_id}"):
      queue.record(visit_id, 1, 2)
  for right, judged in ((3, 2), (-1, 2), (0, -1)):
    with pytest.raises(UserError, match="expected right in"):
      queue.record(taken[0], right, judged)


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"order": "dificulty"}, "did you mean 'difficulty'"),
    ({"max_solve_rate": 0.0}, "max_solve_rate in"),
    ({"max_solve_rate": 1.1}, "max_solve_rate in"),
    ({"max_solve_rate": float("nan")}, "max_solve_rate in"),
    ({"min_tries": 0}, "min_tries of at least 1"),
    ({"state": {}}, "state of a PromptQueue"),
    ({"state": {"next_visit": 3, "records": [[1, 2]]}}, "state of a PromptQueue"),
    ({"state": {"next_visit": 3, "waiting": [[5, 0]]}}, "resume with the same data"),
    ({"state": {"next_visit": 3, "records": [[40, 1, 2, 1.0, 1.0]]}}, "resume with the same data"),
  ],
)
def test_what_makes_no_queue_is_refused(settings, words):
  with pytest.raises(UserError, match=words):
    PromptQueue(STREAM, **settings)
