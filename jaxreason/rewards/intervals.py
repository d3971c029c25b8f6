"""Floor 3, rewards: alternatives of inequalities as a union of intervals.

What enters: an answer in plain notation such as `x > 3 \\text{ or } x < -1`. What leaves: `(3,\\infty)\\cup(-\\infty,-1)`, or
none when it is anything else. Only the form is looked at; the bounds may be any formula without an inequality of its own.
"""

import re

_OR = re.compile(r"\s*(?:\\text\s?\{\s*or\s*\}|(?<![a-zA-Z])or(?![a-zA-Z])|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z]))\s*")
_AND = re.compile(r"\s*(?:\\text\s?\{\s*and\s*\}|(?<![a-zA-Z])and(?![a-zA-Z])|\\l?and(?![a-zA-Z])|\\wedge(?![a-zA-Z]))\s*")
_SIGN = re.compile(r"(<=?|>=?|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z]))")
_NAME = re.compile(r"[a-zA-Z]")
_LESS = {"<": False, "<=": True, "\\le": True}  # whether the bound belongs to it
_MORE = {">": False, ">=": True, "\\ge": True}


def union(text: str) -> str | None:
  """The union of intervals that two or more inequalities in one variable, with `or` between them, say; or None."""
  parts = _OR.split(text)
  if len(parts) < 2:
    return _meet(_AND.split(text))
  found = [_interval(part) for part in parts]
  if None in found or len({name for name, _ in found}) != 1:
    return None
  return "\\cup ".join(interval for _, interval in found)


def _meet(parts: list[str]) -> str | None:
  """`x \\ge -3` and `x < 2` as `[-3,2)`."""
  found = [_interval(part) for part in parts] if len(parts) == 2 else [None]
  if None in found or found[0][0] != found[1][0]:
    return None
  low, high = sorted((interval for _, interval in found), key=lambda interval: interval.startswith("(-\\infty,"))
  if low.startswith("(-\\infty,") or not high.startswith("(-\\infty,") or not low.endswith(",\\infty)"):
    return None
  return low.removesuffix("\\infty)") + high.removeprefix("(-\\infty,")


def _interval(text: str) -> tuple[str, str] | None:
  """The variable and the interval of `x > a`, `a < x` or `a < x < b`."""
  sides = [side.strip() for side in _SIGN.split(text)]
  if len(sides) == 3 and _NAME.fullmatch(sides[0]):
    name, sign, bound = sides
  elif len(sides) == 3 and _NAME.fullmatch(sides[2]):
    bound, sign, name = sides
    sign = {"<": ">", "<=": ">=", "\\le": "\\ge", ">": "<", ">=": "<=", "\\ge": "\\le"}[sign]
  elif len(sides) == 5 and _NAME.fullmatch(sides[2]) and sides[1] in _LESS and sides[3] in _LESS:
    low, first, name, second, high = sides
    return name, f"{'[' if _LESS[first] else '('}{low},{high}{']' if _LESS[second] else ')'}"
  else:
    return None
  if sign in _LESS:
    return name, f"(-\\infty,{bound}{']' if _LESS[sign] else ')'}"
  return name, f"{'[' if _MORE[sign] else '('}{bound},\\infty)"
