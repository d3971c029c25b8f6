"""Laws of the turns of environments, with real worker processes: each is answered, whatever its text does to the worker."""

import os
import threading
import time

import pytest

from jaxreason.errors import UserError
from jaxreason.rewards.pool import VerifierPool
from jaxreason.rewards.turn import Turn

BAD = {"bad": "badenvironment", "plain": "plainenvironment", "absent": "no_such_module", "empty": "slowmodule"}


def turn(text, environment="bad", state=None, **more):
  return {"environment": environment, "state": {} if state is None else state, "text": text, **more}


@pytest.fixture
def turns_of(bad_path):
  def make(workers=1, deadline_s=5.0, **settings):
    return VerifierPool(workers=workers, deadline_s=deadline_s, environments=BAD, **settings)

  return make


def test_an_episode_is_carried_by_its_state_alone(turns_of):
  with turns_of(workers=2) as pool:
    begun = pool.reset({"environment": "bad", "row": {"id": "row/1", "deep": [1, {"a": None}]}}).result()
    assert (begun.text, begun.reward, begun.done, begun.status) == ("", 0.0, False, "ok")
    assert begun.state["row"] == {"id": "row/1", "deep": [1, {"a": None}]}
    state = begun.state
    for count, (text, reward, done) in enumerate([("a", 0.0, False), ("half", 0.5, False), ("right", 1.0, True)], 1):
      said = pool.step(turn(text, state=state)).result()
      assert (said.state["count"], said.reward, said.done, said.status) == (count, reward, done, "ok")
      state = said.state
    assert said.text == ""
    assert 0 <= said.seconds < 1


def test_environments_run_in_workers_only_and_load_no_jax(turns_of):
  with turns_of() as pool:
    begun = pool.reset({"environment": "bad", "row": {}}).result()
    said = pool.step(turn("modules")).result()
  assert begun.state["pid"] == said.state["pid"] != os.getpid()
  assert said.text == ""


@pytest.mark.parametrize(
  ("text", "status", "detail"),
  [
    ("hang", "limit", "no step within 1 s"),
    ("exit", "limit", "broke its judge 2 times"),
    ("segfault", "limit", "broke its judge 2 times"),
    ("memory", "limit", "out of memory"),
    ("recursion", "limit", "out of stack"),
    ("large state", "limit", "a state of"),
    ("large text", "limit", "a text of"),
    ("raise", "infra_error", "the environment raised KeyError"),
    ("three", "infra_error", "(state, text, reward, done), got tuple"),
    ("nothing", "infra_error", "(state, text, reward, done), got NoneType"),
    ("text", "infra_error", "expected text to be a string, got int"),
    ("more than one", "infra_error", "a reward in [0, 1]"),
    ("bool reward", "infra_error", "a reward in [0, 1]"),
    ("nan", "infra_error", "a reward in [0, 1]"),
    ("done", "infra_error", "expected done to be a bool"),
    ("last words", "infra_error", "empty text of a turn that is done"),
    ("set", "infra_error", "JSON values"),
    ("nan in state", "infra_error", "JSON values"),
    ("listed", "infra_error", "expected state to be a dict"),
    ("unjudged", "unjudged", "gave no reward"),
    ("print", "ok", ""),
  ],
)
def test_what_a_step_does_is_told_by_its_status_and_hurts_no_other(turns_of, text, status, detail):
  with turns_of(deadline_s=1.0, memory_mb=512) as pool:
    futures = [pool.step(turn(text)), pool.step(turn("after"))]
    said, after = [future.result() for future in futures]
  assert said.status == status
  assert detail in said.detail
  assert said.reward == {"limit": 0.0, "infra_error": None, "unjudged": None, "ok": 0.0}[status]
  assert said.done == (status != "ok")
  assert (after.status, after.text) == ("ok", "after")


@pytest.mark.parametrize(
  ("row", "detail"),
  [
    ({"do": "hang"}, "no reset within 1 s"),
    ({"do": "raise"}, "the environment raised KeyError"),
    ({"do": "list"}, "expected state to be a dict, got list"),
    ({"do": "large"}, "a state of"),
  ],
)
def test_whatever_fails_at_a_reset_is_ours(turns_of, row, detail):
  with turns_of(deadline_s=1.0) as pool:
    said = pool.reset({"environment": "bad", "row": row}).result()
  assert (said.status, said.reward, said.done, said.state) == ("infra_error", None, True, {})
  assert detail in said.detail


@pytest.mark.filterwarnings("ignore:workers are not jailed")
def test_a_crash_that_does_not_come_again_is_forgiven(turns_of, tmp_path):
  with turns_of(sandbox="unsafe") as pool:
    said = pool.step(turn("crash once", state={"path": str(tmp_path / "mark")})).result()
  assert (said.status, said.state["count"]) == ("ok", 1)


def test_a_step_that_asks_is_told_whether_the_turn_was_finished(turns_of):
  with turns_of() as pool:
    told = [pool.step(turn("a", **more)).result().state["finished"] for more in ({}, {"finished": True}, {"finished": False})]
    plain = pool.step(turn("7", "plain", {"wanted": "7"}, finished=False)).result()
  assert told == [True, True, False]
  assert (plain.reward, plain.done) == (1.0, True)


def test_what_cannot_be_imported_is_our_fault(turns_of):
  with turns_of() as pool:
    turns = [pool.step(turn("a", name)).result() for name in ("absent", "empty")]
  assert [(said.status, said.reward, said.done) for said in turns] == [("infra_error", None, True)] * 2
  assert "the environment 'absent' cannot be imported" in turns[0].detail


def test_verdicts_and_turns_share_workers_and_counts(turns_of):
  with turns_of(workers=2) as pool:
    turns = [pool.step(turn(str(i))) for i in range(20)]
    verdicts = pool.score([{"verifier": "chain", "response": f"#{i}", "answer": str(i - i % 2)} for i in range(20)])
    assert [future.result().text for future in turns] == [str(i) for i in range(20)]
    counts = pool.stats()["verifiers"]
  assert [verdict.reward for verdict in verdicts] == [float(i % 2 == 0) for i in range(20)]
  assert counts["bad"]["ok"] == 20
  assert (counts["chain"]["correct"], counts["chain"]["wrong"]) == (10, 10)


def test_a_raising_environment_is_logged_once(turns_of, caplog):
  with turns_of() as pool:
    for i in range(3):
      pool.step(turn("raise", state={"n": i})).result()
  assert [("environment 'bad' raised KeyError" in record.message) for record in caplog.records] == [True]


def test_waiting_turns_are_answered_when_the_pool_closes(turns_of):
  with turns_of(deadline_s=60) as pool:
    futures = [pool.step(turn("hang", state={"n": i})) for i in range(3)]
    while not pool.pids():
      time.sleep(0.01)
  assert {(future.result(timeout=1).status, future.result().done) for future in futures} == {("infra_error", True)}


def test_a_turn_too_large_to_send_is_the_texts_or_ours(turns_of):
  large = "a" * (33 * 2**20)
  with turns_of() as pool:
    by_text, by_state = pool.step(turn(large)).result(), pool.step(turn("a", state={"all": large})).result()
    by_row = pool.reset({"environment": "bad", "row": {"all": large}}).result()
  assert [said.status for said in (by_text, by_state, by_row)] == ["limit", "infra_error", "infra_error"]


@pytest.mark.parametrize(
  ("bad", "names"),
  [
    ("text", "a mapping"),
    ({"environment": "bad", "text": "a"}, "'state'"),
    ({**turn("a"), "state": [1]}, "'state' to be a mapping, got list"),
    ({**turn("a"), "text": None}, "'text' to be a string, got NoneType"),
    (turn("a", "bed"), "did you mean 'bad'"),
    (turn("a", state={"values": {1, 2}}), "JSON values"),
    (turn("a", finished="yes"), "'finished' to be a bool"),
    (turn("a", finnished=True), "only, got also ['finnished']"),
  ],
)
def test_a_malformed_turn_is_a_users_mistake(turns_of, bad, names):
  with turns_of() as pool, pytest.raises(UserError, match="expected the item") as caught:
    pool.step(bad)
  assert names in str(caught.value)
  assert "\n" not in str(caught.value)


def test_a_malformed_reset_is_a_users_mistake(turns_of):
  with turns_of() as pool:
    for bad in ({"environment": "bad"}, {"environment": "bad", "row": "text"}, {"environment": "retry", "row": {}}):
      with pytest.raises(UserError, match="expected the item"):
        pool.reset(bad)


@pytest.mark.parametrize("environments", [{"a": "os:system"}, {"a": print}, {1: "os"}, {"math": "badenvironment"}])
def test_bad_names_of_environments_are_refused(environments):
  with pytest.raises(UserError, match="expected environments"):
    VerifierPool(environments=environments)


def test_outside_its_block_a_pool_says_so(turns_of):
  with pytest.raises(UserError, match="with VerifierPool"):
    turns_of().step(turn("a"))


GOOD = Turn({"a": [1, None]}, "next", 0.5, False, "ok", "", 0.25)


def test_a_turn_survives_json():
  assert Turn.from_json(GOOD.to_json()) == GOOD


@pytest.mark.parametrize(
  "change",
  [
    {"state": [1]}, {"state": None}, {"state": {"a": float("inf")}}, {"state": {"a": {1}}}, {"state": {"a": "x" * 2**18}},
    {"text": 1}, {"text": "x" * 2**18}, {"reward": None}, {"reward": True}, {"reward": -0.1}, {"reward": 1.1},
    {"reward": float("nan")}, {"reward": "1"}, {"done": 1}, {"done": True}, {"status": "correct"}, {"status": ["ok"]},
    {"status": "limit"}, {"status": "infra_error"}, {"status": "limit", "reward": 0.0}, {"detail": None}, {"seconds": "1"},
    {"seconds": float("nan")}, {"more": 1},
  ],
)  # fmt: skip
def test_what_is_no_turn_is_refused(change):
  with pytest.raises(ValueError, match=r"expected|is over the cap"):
    Turn.from_json(GOOD.to_json() | change)


def test_a_turn_lacking_a_key_is_refused():
  for name in GOOD.to_json():
    with pytest.raises(ValueError, match="exactly the keys"):
      Turn.from_json({key: value for key, value in GOOD.to_json().items() if key != name})


def test_errands_of_an_answer_are_bounded_together(bad_path):
  with VerifierPool(environments={"errands": "errandenvironment"}, workers=1, deadline_s=0.2) as pool:
    assert pool.backend != "none", pool.refusal
    begin = time.monotonic()
    turn = pool.step({"environment": "errands", "state": {}, "text": ""}).result()
    assert turn.status == "limit" and time.monotonic() - begin < 60
    assert pool.score([{"verifier": "math", "response": "#### 1", "answer": "1"}])[0].reward == 1.0


TOO_LARGE = {"code": "#" + "x" * 1_100_000, "emoji": "```python\n#" + "\U0001f600" * 90_000 + "\n```"}


@pytest.mark.parametrize("text", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_program_too_large_to_be_sent_does_not_escape_its_zero(text):
  with VerifierPool(workers=1, environments={"python": "jaxreason.environments.python"}) as pool:
    code = {"verifier": "code", "fields": {"kind": "stdin", "tests": [{"input": "", "output": "1"}]}}
    row = {"answer": "18", **(code if text[0] == "#" else {"verifier": "math"})}
    state = pool.reset({"environment": "python", "row": row}).result().state
    said = pool.step({"environment": "python", "state": state, "text": text}).result()
  assert (said.reward, said.status) == (0.0, "ok")
  assert said.state["verdict"]["status"] == "limit" if said.done else "[not run: a program of" in said.text


def test_an_item_that_lacks_what_its_verifier_needs_is_a_bad_answer():
  with VerifierPool(workers=1) as pool:
    (found,) = pool.score([{"verifier": "code", "response": "print(1)"}])
  assert (found.status, found.reward) == ("bad_answer", None) and "kind" in found.detail


def test_judges_that_hang_hold_up_the_end_once_and_not_each(monkeypatch):
  monkeypatch.setattr("jaxreason.rewards.pool._END_SECONDS", 1.0)
  gate, begun = threading.Event(), threading.Semaphore(0)

  def hang(response):
    begun.release()
    gate.wait()

  with pytest.warns(UserWarning, match="10 threads"), VerifierPool(workers=10, trusted={"hang": hang}) as pool:
    for number in range(10):
      pool.submit({"verifier": "hang", "response": str(number)})
    for _ in range(10):
      begun.acquire()
    begin = time.monotonic()
  took = time.monotonic() - begin
  gate.set()
  assert took < 9
