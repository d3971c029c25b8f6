"""Laws of the verdict: the reward fits the status, and JSON keeps everything."""

import json

import pytest

from jaxreason.rewards.verdict import JUDGED, STATUSES, UNJUDGED, Verdict


def test_json_and_back_is_the_same_verdict():
  verdict = Verdict(0.5, "correct", "4\ud800", seconds=0.1, detail="half", parts={"worked": 1.0}, spans=((0, 3, 0.5),))
  assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


@pytest.mark.parametrize("status", STATUSES)
def test_only_a_judged_response_has_a_reward_and_only_a_correct_one_above_zero(status):
  allowed = {"correct": [1.0, 0.25], **{name: [0.0] for name in JUDGED[1:]}, **{name: [None] for name in UNJUDGED}}[status]
  for reward in (None, 0.0, 0.25, 1.0, -1.0, 2.0, float("nan"), True):
    if reward in allowed and reward is not True:
      assert Verdict(reward, status).reward == reward
    else:
      with pytest.raises(ValueError, match="expected a reward"):
        Verdict(reward, status)


@pytest.mark.parametrize(
  "change",
  [
    {"status": "superb"},
    {"reward": "1"},
    {"reward": True},
    {"seconds": None},
    {"extracted": 3},
    {"parts": {"a": "b"}},
    {"spans": [[3, 1, 0.0]]},
    {"spans": [[0, 1]]},
    {"extra": 1},
  ],
)
def test_a_forged_verdict_is_refused(change):
  with pytest.raises(ValueError, match="expected"):
    Verdict.from_json(Verdict(1.0, "correct").to_json() | change)
