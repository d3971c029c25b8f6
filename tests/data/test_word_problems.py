"""Word problems: right answers, variety, and pairs of numbers that never straddle two splits."""

import re

import pytest

from jaxreason.data.tasks import word_problems
from jaxreason.data.tasks.splits import SPLITS
from jaxreason.errors import UserError


def equation_of(row) -> tuple[int, str, int, int]:
  a, operation, b, result = re.search(r"(\d+) ([-+*]) (\d+) = (\d+)\.", row["demonstration"]).groups()
  return int(a), operation, int(b), int(result)


def form_of(row) -> tuple:
  a, operation, b, _ = equation_of(row)
  return operation, *sorted((a, b))


@pytest.fixture(scope="module")
def drawn():
  def rows(split: str, count: int):
    three = (word_problems.rows(split, count, seed, operations="+-*", ranges={"*": (2, 40)}) for seed in range(3))
    return [row for rows in three for row in rows]

  return {"train": rows("train", 4000), "validation": rows("validation", 400), "test": rows("test", 400)}


def test_a_demonstration_restates_works_out_and_boxes(drawn):
  problem = word_problems.WordProblem("+", 23, 14, "Tom has 23 apples and buys 14 more.", "How many apples does Tom have now?")
  shown = "Tom has 23 apples and buys 14 more. 23 + 14 = 37. The answer is \\boxed{37}."
  assert word_problems.demonstration(problem) == shown
  for row in drawn["train"]:
    a, operation, b, result = equation_of(row)
    assert result == {"+": a + b, "-": a - b, "*": a * b}[operation] > 0
    assert row["answer"] == str(result)
    assert row["demonstration"].endswith(f"The answer is \\boxed{{{result}}}.")
    assert {str(a), str(b)} <= set(re.findall(r"\d+", row["prompt"]))


def test_prompts_are_whole_sentences_with_the_instruction(drawn):
  for row in drawn["train"]:
    assert re.fullmatch(r"[A-Z][^{}]+\. How many [^{}?]+\?", row["prompt"].removesuffix(word_problems.SUFFIX))
    assert "\\boxed{n}" in row["prompt"]
  assert word_problems.rows("test", 1, 0, suffix=" Answer:")[0]["prompt"].endswith("? Answer:")


def test_there_are_many_stories(drawn):
  stories = {re.sub(r"\d+", "N", row["prompt"]) for row in drawn["train"]}
  assert len(stories) > 500


def test_a_pair_of_numbers_is_in_one_split_only(drawn):
  forms = {split: {form_of(row) for row in rows} for split, rows in drawn.items()}
  assert not forms["test"] & (forms["train"] | forms["validation"])
  assert not forms["validation"] & forms["train"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_pairs_are_all_different(split):
  assert len({form_of(row) for row in word_problems.rows(split, 500, 0)}) == 500


@pytest.mark.parametrize("split", SPLITS)
def test_a_row_depends_on_its_index_and_not_on_the_count(split):
  assert word_problems.rows(split, 200, 3)[:30] == word_problems.rows(split, 30, 3)


def test_operations_and_ranges_are_kept():
  rows = word_problems.rows("train", 500, 0, operations=["-"], ranges={"-": (3, 6)})
  numbers = {n for row in rows for n in equation_of(row)[0:3:2]}
  assert numbers == {3, 4, 5, 6}
  assert {equation_of(row)[1] for row in rows} == {"-"}
  both = [equation_of(row)[1] for row in word_problems.rows("train", 500, 0)]
  assert 200 < both.count("+") < 300 and both.count("-") == 500 - both.count("+")


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"operations": "+/"}, "expected operations of .* got /"),
    ({"operations": ()}, "got none"),
    ({"ranges": {"+": (9, 9)}}, "smallest < largest, got"),
    ({"ranges": {"+": (1, 9)}}, "2 <= smallest"),
    ({"operations": "+", "ranges": {"+": (2, 9)}}, "expected 200 distinct test problems"),
  ],
)
def test_a_setting_out_of_range_is_refused(settings, words):
  with pytest.raises(UserError, match=words):
    word_problems.rows("test", 200, 0, **settings)
