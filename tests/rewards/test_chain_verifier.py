"""Laws of the arithmetic-chain judge: well-formed, finished and right, or nothing."""

import pytest

from jaxreason.rewards.chain_verifier import grade


@pytest.mark.parametrize(
  ("response", "status", "worked"),
  [
    ("#17", "correct", 0.0),
    ("+8=12+5=17#17", "correct", 1.0),
    ("#16", "wrong", 0.0),
    ("+8=12#16", "wrong", 1.0),
    ("#-17", "wrong", 0.0),
    ("17", "unparsable", 0.0),
    ("", "unparsable", 0.0),
    ("#", "unparsable", 0.0),
    ("#17 ", "unparsable", 0.0),
    ("#17\n", "unparsable", 0.0),
    ("#17#17", "unparsable", 0.0),
    ("16#17#17", "unparsable", 1.0),
    ("#1 7", "unparsable", 0.0),
    ("#17.0", "unparsable", 0.0),
    ("x=17#17", "unparsable", 1.0),
    ("#+17", "unparsable", 0.0),
    ("#１７", "unparsable", 0.0),
  ],
)
def test_form_and_value_decide(response, status, worked):
  verdict = grade(response, "17")
  assert (verdict.status, verdict.parts["worked"]) == (status, worked)
  assert verdict.reward == (1.0 if status == "correct" else 0.0)


def test_a_negative_total_is_a_plain_integer():
  assert grade("-20=-3#-3", "-3").status == "correct"


def test_an_unfinished_response_is_never_rewarded():
  assert grade("#17", "17", finished=False).status == "wrong"


def test_a_gold_answer_that_is_no_integer_is_masked():
  verdict = grade("#17", "seventeen")
  assert (verdict.reward, verdict.status) == (None, "bad_answer")


def test_a_long_response_costs_no_backtracking():
  assert grade("1+" * 500_000, "17").status == "unparsable"
  assert grade("#" + "9" * 500_000, "17").status == "unparsable"
