"""Overlap: what counts as the same prompt, and what does not."""

import pytest

from jaxreason.data.overlap import normalised, overlap


def rows(*prompts):
  return [{"prompt": prompt, "id": f"row/{i}"} for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ("Tom has 4 apples.", "  tom HAS\n4 apples"),
    ("It costs $1,000, no more", "It costs 1000 no more!"),
    ("a 120-page book", "a 120 page book"),
    ("5 − 3", "5-3"),
    ("1+2=", "1 + 2 ="),
    ("Straße １２", "STRASSE 12"),
    ("What’s 'half'?", "What's “half”"),
  ],
)
def test_case_spacing_and_punctuation_do_not_count(one, other):
  assert normalised(one) == normalised(other)
  assert overlap(rows(one), rows("unrelated", other)) == ["row/1"]


@pytest.mark.parametrize(
  ("one", "other"),
  [("4+8-5=", "4-8+5="), ("4+8=", "48="), ("4+8=", "8+4="), ("3.5 apples", "35 apples"), ("x+y", "x-y"), ("2*3", "2^3")],
)
def test_numbers_and_signs_count(one, other):
  assert overlap(rows(one), rows(other)) == []


def test_messages_are_compared_by_their_contents():
  messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
  assert overlap(rows("be brief: how many"), rows(messages)) == ["row/0"]


def test_ids_come_in_the_order_of_evaluation():
  assert overlap(rows("b", "a"), rows("a", "c", "b", "a")) == ["row/0", "row/2", "row/3"]
