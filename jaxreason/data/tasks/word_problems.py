"""Floor 3, host room `data/tasks`: arithmetic word problems in English with two operands, for a small instruct model.

A split, a count and a seed enter; rows leave. A row asks for the working and for the answer in `\\boxed{}`; its demonstration
restates the story, writes the one equation and boxes the result.
"""

import dataclasses
import random
from collections.abc import Mapping, Sequence

from jaxreason.data.tasks.splits import below, problems
from jaxreason.errors import UserError

SUFFIX = "\nShow your working and end with \\boxed{n}, where n is the answer."
RANGES: Mapping[str, tuple[int, int]] = {"+": (10, 99), "-": (10, 99), "*": (2, 12)}
_TASK = "word_problems"

_NAMES = ("Tom", "Anna", "Ben", "Maria", "Sam", "Lucy", "Omar", "Nina", "Jack", "Priya", "Leo", "Grace", "Ivan", "Mei")
_THINGS = ("apples", "marbles", "stickers", "books", "shells", "pencils", "cards", "stamps", "flowers", "cookies", "beads")

# (story, question) by operation; a is the larger operand of a difference, and the number of groups of a product.
_STORIES: Mapping[str, Sequence[tuple[str, str]]] = {
  "+": (
    ("{name} has {a} {things} and buys {b} more.", "How many {things} does {name} have now?"),
    ("{name} has {a} {things}. {other} gives {name} {b} more.", "How many {things} does {name} have now?"),
    ("{name} finds {a} {things} on one day and {b} {things} on the next.", "How many {things} does {name} find in all?"),
    ("There are {a} {things} in a box and {b} {things} in a bag.", "How many {things} are there in total?"),
    ("A shop sells {a} {things} on Monday and {b} {things} on Tuesday.", "How many {things} does the shop sell on both days?"),
    ("{name} has {a} {things} and {other} has {b} {things}.", "How many {things} do they have together?"),
    ("{name} gives away {a} {things} and has {b} {things} left.", "How many {things} did {name} have at first?"),
  ),
  "-": (
    ("{name} has {a} {things} and loses {b} of them.", "How many {things} does {name} have left?"),
    ("{name} has {a} {things} and gives {b} of them to {other}.", "How many {things} does {name} have left?"),
    ("A shop has {a} {things} and sells {b} of them.", "How many {things} are left in the shop?"),
    ("{name} has {a} {things} and {other} has {b} {things}.", "How many more {things} does {name} have than {other}?"),
    ("{name} needs {a} {things} and already has {b}.", "How many more {things} does {name} need?"),
    ("There are {a} {things} on a table. {name} takes {b} of them away.", "How many {things} are still on the table?"),
    ("There are {a} {things} in a box and {b} of them are red.", "How many {things} in the box are not red?"),
  ),
  "*": (
    ("{name} has {a} boxes with {b} {things} in each box.", "How many {things} does {name} have in all?"),
    ("{name} buys {b} {things} a day for {a} days.", "How many {things} does {name} buy in all?"),
    ("There are {a} rows of {b} {things}.", "How many {things} are there in total?"),
    ("Each of {a} children has {b} {things}.", "How many {things} do the children have together?"),
    ("A bag holds {b} {things}. {name} fills {a} bags.", "How many {things} are in the bags?"),
  ),
}


@dataclasses.dataclass(frozen=True)
class WordProblem:
  """One problem: what is computed, and the story around it."""

  operation: str
  a: int
  b: int
  story: str
  question: str

  @property
  def answer(self) -> int:
    return {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b}[self.operation]


def rows(
  split: str,
  count: int,
  seed: int,
  *,
  operations: Sequence[str] = ("+", "-"),
  ranges: Mapping[str, tuple[int, int]] | None = None,
  suffix: str = SUFFIX,
) -> list[dict[str, str]]:
  """Rows of word problems; row i is a function of (split, seed, i) and the settings, in any process.

  The operation and the sorted pair of operands decide the split, whatever the story and the seed: 23 + 14 is a training sum
  or a test sum and never both. Rows of validation and test have all different (operation, pair).

  Args:
    split: 'train', 'validation' or 'test'.
    count: number of rows.
    seed: names the draw.
    operations: of '+', '-', '*'; each equally often. Differences are positive.
    ranges: operation -> (smallest, largest) operand, inclusive, where it should differ from `RANGES`.
    suffix: the instruction after the question.

  Returns:
    Rows with prompt, answer, verifier ('math'), id and demonstration.

  Raises:
    UserError: an unknown operation, a range that is empty or starts below 2, or fewer distinct problems than an evaluation
      split needs.
  """
  bounds = {**RANGES, **(ranges or {})}
  unknown = [operation for operation in (*operations, *bounds) if operation not in _STORIES]
  if unknown or not operations:
    raise UserError(f"expected operations of {' '.join(_STORIES)}, got {' '.join(unknown) or 'none'}")
  for operation in operations:
    low, high = bounds[operation]
    # From 2 because the stories speak in the plural; two values because a difference needs two operands.
    if not 2 <= low < high:
      raise UserError(f"expected operands of {operation!r} in a range with 2 <= smallest < largest, got ({low}, {high})")

  def propose(generator: random.Random) -> WordProblem:
    operation = operations[below(generator, len(operations))]
    return _draw(generator, operation, *bounds[operation])

  def row(index: int, problem: WordProblem) -> dict[str, str]:
    return {
      "prompt": f"{problem.story} {problem.question}{suffix}",
      "answer": str(problem.answer),
      "verifier": "math",
      "id": f"{_TASK}/{split}/{seed}/{index}",
      "demonstration": demonstration(problem),
    }

  drawn = problems(split, count, seed, task=_TASK, propose=propose, form=canonical)
  return [row(index, problem) for index, problem in enumerate(drawn)]


def demonstration(problem: WordProblem) -> str:
  """'Tom has 23 apples and buys 14 more. 23 + 14 = 37. The answer is \\boxed{37}.'"""
  equation = f"{problem.a} {problem.operation} {problem.b} = {problem.answer}"
  return f"{problem.story} {equation}. The answer is \\boxed{{{problem.answer}}}."


def canonical(problem: WordProblem) -> str:
  """What all stories about the same numbers share: the operation and the sorted operands."""
  return f"{problem.operation}:{min(problem.a, problem.b)},{max(problem.a, problem.b)}"


def _draw(generator: random.Random, operation: str, low: int, high: int) -> WordProblem:
  """One problem with operands in [low, high]."""
  a = low + below(generator, high - low + 1)
  if operation == "-":
    # The second operand comes from the other values, so that nobody is asked for a difference of nothing.
    b = low + (a - low + 1 + below(generator, high - low)) % (high - low + 1)
    a, b = max(a, b), min(a, b)
  else:
    b = low + below(generator, high - low + 1)
  story, question = _STORIES[operation][below(generator, len(_STORIES[operation]))]
  first = below(generator, len(_NAMES))
  second = (first + 1 + below(generator, len(_NAMES) - 1)) % len(_NAMES)
  things = _THINGS[below(generator, len(_THINGS))]
  words = {"name": _NAMES[first], "other": _NAMES[second], "things": things, "a": a, "b": b}
  return WordProblem(operation, a, b, story.format(**words), question.format(**words))
