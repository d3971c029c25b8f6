"""Laws of what crosses between a program and its assert tests: data by value, classes of the setup by name."""

import pytest

from jaxreason.rewards.code_verifier import grade
from jaxreason.rewards.sandbox import Sandbox

SETUP = """
from collections import namedtuple
from dataclasses import dataclass
from enum import Enum, IntEnum

class Color(Enum):
  RED = 1
  BLUE = 2

class Size(IntEnum):
  SMALL = 1

@dataclass
class Point:
  x: int
  y: object = 0

Pair = namedtuple("Pair", "left right")
"""


@pytest.fixture(scope="module")
def sandbox():
  with Sandbox() as sandbox:
    assert sandbox.backend != "none", sandbox.refusal
    yield sandbox


def status(sandbox, source, test, setup=""):
  return grade(source, "assert", [test], "f", timeout_s=20.0, memory_mb=512, setup=setup, sandbox=sandbox).status


@pytest.mark.parametrize(
  ("source", "test"),
  [
    (
      "from datetime import *\ndef f(d): return d + timedelta(days=1)",
      "from datetime import date\nassert f(date(2024, 2, 28)) == date(2024, 2, 29)",
    ),
    (
      "from datetime import *\ndef f(): return datetime(2024, 1, 2, 3, tzinfo=timezone.utc)",
      "import datetime as d\nassert f() == d.datetime(2024, 1, 2, 3, tzinfo=d.timezone.utc)\nassert f().hour == 3",
    ),
    (
      "from datetime import *\ndef f(): return [time(1, 2), timedelta(seconds=-5)]",
      "from datetime import time, timedelta\nassert f() == [time(1, 2), timedelta(seconds=-5)]",
    ),
    (
      "from decimal import *\nfrom fractions import *\ndef f(): return Decimal('1.50'), Fraction(1, 3)",
      "from decimal import Decimal\nfrom fractions import Fraction\nassert f() == (Decimal('1.5'), Fraction(1, 3))",
    ),
    (
      "from collections import *\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
      "assert f() == (1, 2)\nassert f().x == 1 and f().y == 2 and f()._replace(x=5) == (5, 2)",
    ),
    (
      "from collections import deque\ndef f(d):\n  d.rotate(1)\n  return d, range(3)",
      "from collections import deque\nassert f(deque([1, 2])) == (deque([2, 1]), range(3))",
    ),
    (
      "def helper(n): return n + 1\ndef f(n): return helper(n)",
      "assert helper(2) == 3\nassert f(1) == helper(1)\nassert list(map(helper, [1, 2])) == [2, 3]",
    ),
  ],
)  # fmt: skip
def test_data_of_the_standard_library_crosses_by_value(sandbox, source, test):
  assert status(sandbox, source, test) == "correct"


@pytest.mark.parametrize(
  ("source", "test"),
  [
    ("def f(n): return Color(n)", "assert f(1) is Color.RED and f(2) == Color.BLUE and f(1) != Color.BLUE"),
    ("def f(c): return c is Color.RED", "assert f(Color.RED) and not f(Color.BLUE)"),
    ("def f(): return {Color.RED: Size.SMALL}", "assert f() == {Color.RED: Size.SMALL} and f()[Color.RED] == 1"),
    (
      "def f(): return Point(1, [2])",
      "assert f() == Point(1, [2]) and Point(1, [2]) == f() and f() != Point(1, [3])\nassert f().x == 1",
    ),
    ("def f(): return [Point(1, Point(2))]", "assert f() == [Point(1, Point(2))]"),
    ("def f(p): return p.x + p.y.x", "assert f(Point(1, Point(2))) == 3"),
    ("def f(p): return Pair(p.right, p.left)", "assert f(Pair(1, 2)) == Pair(2, 1) and f(Pair(1, 2)).left == 2"),
    (
      "from dataclasses import dataclass\n@dataclass\nclass Point:\n  x: int\n  y: object = 0\ndef f(): return Point(1)",
      "assert f() == Point(1)",
    ),
  ],
)  # fmt: skip
def test_classes_of_the_setup_are_one_class_on_both_sides(sandbox, source, test):
  assert status(sandbox, source, test, SETUP) == "correct"


@pytest.mark.parametrize(
  ("source", "test"),
  [
    ("class A:\n  def __eq__(self, other): return True\ndef f(): return A()", "assert f() == Point(1)"),
    ("class A:\n  def __eq__(self, other): return True\ndef f(): return Point(A(), A())", "assert f() == Point(1, 2)"),
    (
      "class A(int):\n  def __eq__(self, other): return True\n  __hash__ = None\ndef f(): return Point(A(7), A(7))",
      "assert f() == Point(1, 2)",
    ),
    (
      "class Color:\n  def __eq__(self, other): return True\n  name = 'RED'\ndef f(): return Color()",
      "assert f() == Color.RED",
    ),
    (
      "import datetime\nclass D(datetime.date):\n  def __eq__(self, other): return True\ndef f(): return D(2000, 1, 1)",
      "import datetime\nassert f() == datetime.date(2024, 1, 1)",
    ),
    (
      "class P(tuple):\n"
      "  _fields = ('x',)\n"
      "  def __eq__(self, other): return True\n"
      "  def __new__(cls): return tuple.__new__(cls, (1,))\n"
      "def f(): return P()",
      "assert f() == (2,)",
    ),
    (
      "class P(tuple):\n  _fields = ('def',)\n  def __new__(cls): return tuple.__new__(cls, (1,))\ndef f(): return P()",
      "assert f() == (2,)",
    ),
    (
      "class A:\n"
      "  __dataclass_fields__ = {'x': 1, 'y': 2}\n"
      "  def __getattr__(self, name): return self\n"
      "  def __eq__(self, other): return True\n"
      "A.__name__ = 'Point'\n"
      "def f(): return A()",
      "assert f() == Point(1, 2)",
    ),
  ],
)  # fmt: skip
def test_always_equal_objects_are_equal_to_none_of_them(sandbox, source, test):
  assert status(sandbox, source, test, SETUP) == "wrong"


def test_all_tests_together_may_be_given_a_time(sandbox):
  tests = ["import time\nf()\ntime.sleep(0.5)\nf()"] * 40
  verdict = grade("def f(): return 1", "assert", tests, "f", fractional=True, within_s=1.0, sandbox=sandbox)
  assert verdict.status in ("correct", "limit") and 0 < verdict.parts["passed"] < 20


def test_arguments_may_be_large_and_what_comes_back_may_not(sandbox):
  source = "def f(x): return len(x)"
  assert status(sandbox, source, "assert f('a' * 2_000_000) == 2_000_000 and f(list(range(200_000))) == 200_000") == "correct"
  assert status(sandbox, source, "assert f('a' * 2_000_000) == 2_000_001") == "wrong"
  assert status(sandbox, "def f(x): return 'a' * x", "assert len(f(3_000_000)) == 3_000_000") == "wrong"
