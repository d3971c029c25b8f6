"""Floor 3, rewards: answers that state a relation.

What enters: two answers in plain notation (see `notation`). What leaves: whether they state the same relation, or None where
they are not two of one kind: ratios (`2:3:5`), residues (`x \\equiv 3 \\pmod{7}`), equations between polynomials of two or
more variables (`y = 2x + 1`). Exact and bounded; nothing is evaluated but numbers.
"""

import re
from fractions import Fraction

from jaxreason.rewards import formula

_NUMBER = r"\s*\d{1,12}(?:\.\d{1,12})?\s*"
_RATIO = re.compile(rf"{_NUMBER}(?::{_NUMBER}){{1,9}}")
_OF_DAY = re.compile(r"\d{1,2}:[0-5]\d")  # 3:15 may be a time, and 6:30 is another one
_RESIDUE = re.compile(
  r"(?:([a-zA-Z])\s?(?:\\equiv|≡)\s?)?(-?\s?\d{1,30})\s*\(?\s*(?:\\text\s?\{\s*)?\\?[pb]?mod(?:\s*\})?\s*\{?\s?(\d{1,30})\s?\}?\s*\)?"
)
_FRACTION = re.compile(r"\\frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")
_POWER = re.compile(r"\^\s?\{(\d{1,2})\}")
_VARIABLES = ("x", "y", "z")


def same(gold: str, given: str) -> bool | None:
  """Whether two relations are one, or None where they are not relations of one kind.

  A ratio is the same multiplied by a number; residues agree in their modulus; an equation times a number is that equation.

  >>> same("2:3:5", "4:6:10"), same("11 \\\\pmod{12}", "x \\\\equiv -1 (mod 12)"), same("y = 2x + 1", "2x - y = -1")
  (True, True, True)
  """
  if _OF_DAY.fullmatch(gold) and _OF_DAY.fullmatch(given):
    return None
  for read in (_ratio, _residue, _equation):
    first, second = read(gold), read(given)
    if first is not None and second is not None:
      return first == second
  return None


def _ratio(text: str) -> tuple | None:
  if not _RATIO.fullmatch(text):
    return None
  parts = [Fraction(part.strip()) for part in text.split(":")]
  whole = sum(parts)
  return tuple(part / whole for part in parts) if whole else tuple(parts)


def _residue(text: str) -> tuple[int, int] | None:
  found = _RESIDUE.fullmatch(text)
  if not found or not int(found[3]):
    return None
  return int(found[2].replace(" ", "")) % int(found[3]), int(found[3])


def _equation(text: str) -> tuple | None:
  """The coefficients of left - right, divided by the first one; None with fewer than two variables."""
  sides = _POWER.sub(r"^\1", _FRACTION.sub(r"((\1)/(\2))", text)).split("=")
  if len(sides) != 2:
    return None
  try:
    left, right = (formula.polynomial(formula.parse(side, names=_VARIABLES)) for side in sides)
  except formula.Unreadable:
    return None
  terms = {monomial: left.get(monomial, 0) - right.get(monomial, 0) for monomial in left | right}
  terms = sorted((monomial, factor) for monomial, factor in terms.items() if factor)
  if len({name for monomial, _ in terms for name, _ in monomial}) < 2:
    return None
  return tuple((monomial, factor / terms[0][1]) for monomial, factor in terms)
