"""Floor 3, rewards: whether an answer is worked out.

What enters: an answer in plain notation (see `notation`), without its unit. What leaves: whether arithmetic is left to do
in it. Where a number is asked for, `23 + 14` restates the problem and `5 + 5 = 10` leaves the reader to choose; an engine
that evaluates would reward both. A number, a fraction, a root, a power, a logarithm of numbers says one thing in closed form,
and so do `x = 37`, a factorised number, a power and one more or less, factorials over factorials. Only the form is looked at;
nothing is computed.
"""

import re

from jaxreason.rewards import formula, numbers

_COMMAND = re.compile(r"\\[a-zA-Z]+")
_TEXT = re.compile(r"\\text\s?\{[^{}]*\}")
_FUNCTION = re.compile(r"(?<![a-zA-Z\\])(?:sin|cos|tan|cot|sec|csc|log|exp|min|max|mod|gcd|lcm|sqrt)(?![a-zA-Z])")
_SPACE = re.compile(r"\s*([{}()\[\]^_!])\s*")
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|\w)")
_SCIENTIFIC = re.compile(r"\d(?:\.\d+)?\s?(?:\\times|\\cdot|\*)\s?10\^(?:\{[+-]?\d+\}|\d+)")
_SIGN = re.compile(r"(^|[{(\[,|^])\s*[+-]\s*")
_TIMES = r"\s?(?:\\cdot|\\times|\*)\s?"
_POWER = r"\d{1,9}\^(?:\{\d{1,4}\}|\d)"
_FACTORIALS = rf"\(?\d{{1,4}}!(?:{_TIMES}|\s?|\)|\(|\d{{1,4}}!)*"
_CLOSED = re.compile(  # 2^3 \cdot 3 \cdot 5, 2^8 - 1, 8!/(3!5!)
  rf"(?:\d{{1,9}}{_TIMES})*{_POWER}(?:{_TIMES}(?:{_POWER}|\d{{1,9}}))*|{_POWER}\s?[-+]\s?1"
  rf"|\\frac\{{{_FACTORIALS}\}}\{{{_FACTORIALS}\}}|{_FACTORIALS}/{_FACTORIALS}"
)
_DIVISION = re.compile(r"/|\\frac(?![a-zA-Z])|\^[{(]?-")
_LEFT = re.compile(
  r"[-+*&=]|\\(?:cdot|times|div|ast|star|bmod|pmod|mod|max|min|gcd|lcm)(?![a-zA-Z])|[^\s]\s*\\[pm][pm](?![a-zA-Z])"
  r"|(?<![a-zA-Z])(?:max|min|gcd|lcm|mod)(?![a-zA-Z])"
)
_SIDE_BY_SIDE = re.compile(  # a product, or a mixed number with a part of one or more
  r"[\d)}!]\(|[)!][\d{]|\d\s+\d|[\d)}!]\s*\\(?:frac|sqrt|binom|lfloor|lceil)(?![a-zA-Z])|[\d)}]\s*(?<!\\)[a-zA-Z]"
  r"|(?:^|[\d)(])\{|(?:\^|\\sqrt(?:\[\d+\])?)\{[^{}]*\}\s*[\d{\\]|\\r(?:floor|ceil)\s*[^\s})]"
)
_BARS = re.compile(r"[^|]*|\|[^|]*\|")


def arithmetic_left(text: str) -> bool:
  """Whether an answer leaves arithmetic to do: an operation between numbers, or more numbers than one said to be equal.

  >>> [arithmetic_left(text) for text in ("23+14", "5+5=10", "2(7)", "x=37", r"\\sqrt{1369}", r"\\frac{-3}{4}")]
  [True, True, True, False, False, False]
  """
  sides = [side.strip() for side in text.split("=")]
  values = [side for side in sides if not _names(side)] if len(sides) > 1 else sides
  return len(values) > 1 or any(_worked_on(value) for value in values or sides)


def worked_out(text: str) -> str | None:
  """The last side of a chain of equal numbers, `n = 36/3 = 12`, or None when it is anything else.

  >>> worked_out("n = 36/3 = 12"), worked_out("5 + 5 = 11"), worked_out("x = 3")
  ('12', None, None)
  """
  sides = [side.strip() for side in text.split("=")]
  if len(sides) > 2 and _names(sides[0]):
    sides = sides[1:]
  last = numbers.quantity(sides[-1])
  if last is None or not 1 < len(sides) < 9 or any(_value(side) != last.value for side in sides):
    return None
  return sides[-1]


def _value(side: str):
  if (known := numbers.quantity(side)) is not None:
    return known.value
  try:
    return formula.value(formula.parse(side))
  except formula.Unreadable:
    return None


def _names(text: str) -> bool:
  """Whether it has a variable, so that `AB`, `f(2)` and `2x` may be said to equal a number."""
  bare = _FUNCTION.sub(" ", _COMMAND.sub(" ", _TEXT.sub(" ", text)))
  return re.search("[a-zA-Z]", bare) is not None


def _worked_on(text: str) -> bool:
  if numbers.quantity(text) is not None:
    return False
  text = _SUBSCRIPT.sub("", _SPACE.sub(r"\1", text))
  if _CLOSED.fullmatch(text.strip()):
    return False
  text = _SCIENTIFIC.sub("1", text)
  divisions = len(_DIVISION.findall(text))  # those by a negative power, too
  text = _SIGN.sub(r"\1", text)
  if divisions > 1 or not _BARS.fullmatch(text.removeprefix("-")):
    return True
  return bool(_LEFT.search(text) or _SIDE_BY_SIDE.search(text)) or _divided(text)


def _divided(text: str) -> bool:
  """Whether a slash divides more than integers: `\\sqrt{16}/4` is to be worked out, an angle `\\pi/3` is not."""
  return "/" in re.sub(r"(?<![\d.)}])(?:\d+|\d*\\pi)\s?/\s?\d+(?![\d.])", "", text)
