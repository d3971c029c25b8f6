"""Floor 3, rewards: the judge of mathematical answers.

What enters: a response and the gold answer, as text. What leaves: a verdict. The last answer of the response is found
(`extraction`), both are brought into one notation, and the cheapest comparison that can decide does: exact numbers with
their units, then lists of exact numbers, then words, then sympy for formulas behind a guard. The first three import
nothing heavy and settle nearly all answers of grade-school sets in well under a millisecond.

Choices where graders disagree: exact means exact (1/3 is not 0.333333, 0.0000001 is not 0.0000002); a unit may be left out
but not be another one, unless the amount is the same (2 hours are 120 minutes); where a number is asked for it must be worked
out (`23 + 14` is wrong for 37, and a true `23 + 14 = 37` is not); `50%` is 0.5 and, for a gold answer without a unit, also
50; nothing but a marked last answer, or what the response ends in, counts; alternatives ("3 or 4", several different boxes in
a line) are wrong even when one is right.

Equal answers to equal gold answers are compared once while a process lives.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from jaxreason.rewards import (
  clock,
  closed_form,
  extraction,
  intervals,
  latex,
  listings,
  notation,
  numbers,
  options,
  relations,
  units,
)
from jaxreason.rewards.verdict import Verdict

_WORDS = re.compile(r"\(?([A-Za-z])\)?|[A-Za-z][A-Za-z' .-]*[A-Za-z]{2}[A-Za-z' .-]*")
_ASSIGNED = re.compile(r"(?:m?\s?\\angle\s?)?[a-zA-Z]{1,3}(?:_\{?\w\}?)?(?:\([a-z]\))?\s?=\s?([^=<>]+)")
_OVER_INTEGERS = re.compile(  # k\pi, k \in \mathbb{Z}
  r"(?:,\s?|\s?\(|\s?\\text\s?\{[^{}]{1,20}\}\s?)([kmn])\s?(?:\\in\s?\\mathbb\s?\{?Z\}?|\\text\s?\{[^{}]{0,12}integer\s*\})\)?$"
)
_LABEL = re.compile(
  r"(?:\\text\s?\{[^{}]*(?:[:=]|\b(?:is|are|equals))\s*\}|\\text\s?\{[^{}]*\}\s*[:=](?!=)"
  r"|(?:[Tt]he )?(?:[Ff]inal )?[Aa]nswer\s*(?:is|:|=))\s*"
)
_SENTENCE = re.compile(  # "There are 17 birds"
  r"[A-Za-z' ]{0,80}(?<![a-zA-Z])"
  r"(?:is|are|was|were|be|has|have|had|equals|makes?|costs?|gets?|takes?|needs?|left|total)\s+(?=[-+\d$\\])"
)
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_SPOKEN_POWER = re.compile(r"(?:\\text\s?\{)?([a-zA-Z]) (?:squared|(cubed))\}?")
_BARE_FUNCTION = re.compile(
  r"(?<![a-zA-Z\\])((?:arc|a)?(?:sin|cos|tan)|cot|csc|sinh|cosh|tanh|ln|log|exp|sec(?=\s?\())(?=\s?[({^\\]|\s?\d|\s[a-zA-Z](?![a-zA-Z]))"
)
_SUBJECT = re.compile(  # the limit does not exist
  r"^(?:the )?(?:limit|value|function|graph|curve|conic|series|it)(?: (?:is|diverges and))? (?:an? )?(?=.{3})"
  r"|^(?:an?|the) (?=.{3})"
)
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)(?![a-zA-Z])")
_ROWS = re.compile(r"\[\s?(\[[^\[\]]*\](?:\s?[,;]\s?\[[^\[\]]*\])*)\s?\]")
_RATIO = re.compile(r"(?<=\d)\s*to\s*(?=\d)")
_BASED = re.compile(r"([0-9A-Fa-f]+)\s?_\s?\{?\s?(\d+)\s?\}?")
_TRAILING_UNIT = re.compile(r"(.*\S)\s*\\text\s?\{\s*([a-zA-Z][a-zA-Z ./]*)\}(?:\s?\^\s?\{?(\d)\}?)?", re.DOTALL)
_PLAIN_UNIT = re.compile(r"(.*(?:[\d)}]|\\pi))\s+([a-zA-Z]{3,}(?: [a-zA-Z]{2,}){0,3})", re.DOTALL)
_NOTHING = re.compile(r"(?:there (?:is|are) )?no (?:real |such )?(?:solutions?|roots?)|(?:the )?empty set", re.IGNORECASE)
_INFINITE = re.compile(r"(?:(-|minus |negative )|\+|plus |positive )?\s?infinity", re.IGNORECASE)
_POINT = re.compile(r"[A-Z](?:_?\d|')?\s?=?\s?(?=\([^()]*,)")
_TEXT_LIST_WORD = re.compile(r",?\s*\\text\s?\{\s*(?:and|or)\s*\}|,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_SET_OF = re.compile(
  r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s?\{R\}\s*)?(?:\\mid|\||:)(?![a-zA-Z])\s*((?:(?!\\mid)[^|:])*?)\s*\\\}"
)
_PLUS_MINUS = "\\pm"
_REWRITTEN = [
  (_ROWS, lambda rows: "\\begin{pmatrix}" + "\\\\".join(
    row.replace(",", "&") for row in re.findall(r"\[([^\[\]]*)\]", rows[1])) + "\\end{pmatrix}"),
  (_BARE_FUNCTION, r"\\\1"),
  (re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc))\s?[({]?\s?(\d{1,9})\s?\^\\circ\s?[)}]?"), r"\1(\2\\pi/180)"),
  (re.compile(r"\s?\^\\circ"), ""),
  (re.compile(r"\\sqrt\s?\[([3579])\]\s?\{\s?-\s?([^{}]*)\}"), r"-\\sqrt[\1]{\2}"),  # the real root
  (re.compile(r"(\w+)\s?\\choose\s?(\w+)"), r"\\binom{\1}{\2}"),
]


@dataclass(frozen=True)
class _Answer:
  """An answer in every form that a comparison may want; built once per gold text."""

  text: str
  quantity: numbers.Quantity | None
  listing: listings.Listing | None
  word: str | None
  time: clock.Time | None
  options: frozenset[str] | None

  @property
  def settled(self) -> bool:
    """Whether it is read without the engine."""
    return bool(self.quantity or self.listing or self.word or self.time or _BASED.fullmatch(self.text))


def grade(response: str, answer: str) -> Verdict:
  """1 when the response's last answer equals `answer`, 0 otherwise.

  Never evaluates without bound: what is too large to compute is turned away by its form. Formulas that are merely hard
  can still take sympy long, so untrusted responses belong in a `VerifierPool`, which keeps the time.

  Args:
    response: what the model wrote. Of a longer one the last 64 KiB count.
    answer: the gold answer: a number, a formula in LaTeX, words, or a whole solution with `####` or `\\boxed`.

  Returns:
    A verdict: `correct`; `wrong`; `unparsable` (no answer, or none that can be read); `limit` (a formula too large to be
    evaluated); `bad_answer` (the gold answer cannot be read).

  Raises:
    NotInstalled: a formula has to be compared and math-verify is missing.
  """
  return _graded(response, answer, exactly=False)


def grade_exactly(response: str, answer: str) -> Verdict:
  """As `grade`, but formulas are `refused`: only numbers, lists of numbers and words are compared, by a parser of ours.

  Nothing heavy is imported and nothing is evaluated, so this needs no sandbox.
  """
  return _graded(response, answer, exactly=True)


def _graded(response: str, answer: str, *, exactly: bool) -> Verdict:
  gold, complaint = _gold(answer)
  if gold is None:
    return Verdict(None, "bad_answer", detail=complaint)
  if not exactly and not (gold.settled or _readable(gold.text)):
    return Verdict(None, "bad_answer", detail="the gold answer cannot be read")
  claim = extraction.last_answer(response)
  if claim is None or not claim.text.strip():
    return Verdict(0.0, "unparsable", detail="no answer in a box, behind #### or behind 'the answer is'")
  several = (gold.listing is not None and len(gold.listing.elements) > 1) or "\\cup" in gold.text or "\\pm" in gold.text
  several = several or extraction.hedged(gold.text)
  if claim.spam and not (several and claim.spam != extraction.SEVERAL_HASHES):
    return Verdict(0.0, "wrong", extracted=claim.text, detail=claim.spam)
  status, detail = _compare(gold, claim.text, exactly)
  if status == "refused":
    return Verdict(None, status, extracted=claim.text, detail=detail)
  return Verdict(1.0 if status == "correct" else 0.0, status, extracted=claim.text, detail=detail)


@lru_cache(maxsize=4096)
def _gold(answer: str) -> tuple[_Answer | None, str]:
  """The gold answer, or why there is none."""
  if "\\boxed" in answer or "####" in answer:
    claim = extraction.last_answer(answer)
    answer = claim.text if claim else ""
  gold = _answer(answer)
  if not gold.text:
    return None, "the gold answer is empty"
  if not gold.settled and (reason := latex.too_much(gold.text)):
    return None, f"the gold answer is too large: {reason}"
  return gold, ""


@lru_cache(maxsize=4096)
def _readable(text: str) -> bool:
  """Whether a gold answer that no parser of ours reads is words, or a formula that the engine reads."""
  return latex.not_a_formula(_formula(text)[0]) or latex.readable(_formula(text)[0])


def _answer(text: str) -> _Answer:
  text = notation.plain(text) if len(text) <= 4 * latex.MAX_CHARACTERS else text.strip()
  for label in _LABEL, _SENTENCE:
    if found := label.match(text):
      text = text[found.end() :] or text
  if raised := _SPOKEN_POWER.fullmatch(text):
    text = f"{raised[1]}^{3 if raised[2] else 2}"
  if _NOTHING.fullmatch(text):
    text = "\\emptyset"
  if infinite := _INFINITE.fullmatch(text):
    text = ("-" if infinite[1] else "") + "\\infty"
  quantity = numbers.quantity(text)
  if quantity is None and (assigned := _ASSIGNED.fullmatch(text)):
    quantity = numbers.quantity(assigned[1])
  if quantity is None and "=" in text and (last := closed_form.worked_out(text)):
    text, quantity = last, numbers.quantity(last)
  word = None if quantity else _word(text) or _word(_TEXT.sub(r"\1", text))
  return _Answer(text, quantity, None if quantity else listings.parse(text), word, clock.parse(text), options.letters(text))


def _word(text: str) -> str | None:
  """Words as they are compared, when the text is words: a name, `yes`, an option's letter."""
  found = _WORDS.fullmatch(text)
  if not found or (found[1] is None and not latex.not_a_formula(text)):
    return None
  return found[1] or _SUBJECT.sub("", " ".join(text.casefold().split()))


@lru_cache(maxsize=4096)
def _compare(gold: _Answer, text: str, exactly: bool) -> tuple[str, str]:
  """The status and the detail of one answer against the gold one, by the cheapest comparison that can tell."""
  if len(text) > 4 * latex.MAX_CHARACTERS:
    return "limit", f"an answer of {len(text)} characters"
  given = _answer(text)
  if gold.quantity and given.quantity:
    return _verdict(_same_name(gold.text, given.text) and _same_quantity(gold.quantity, given.quantity), "as numbers")
  if _squeezed(gold.text) == _squeezed(given.text):
    return "correct", "as text"
  if gold.time and given.time and (gold.time.half or given.time.half):
    return _verdict(clock.same(gold.time, given.time), "as times")
  if gold.options and given.options:
    return _verdict(gold.options == given.options, "as options")
  if gold.options and (behind := options.text_of(gold.text)):  # (E) 7, to which somebody says 7
    return _compare(_answer(behind), text, exactly)
  if given.options and (behind := options.text_of(given.text)):
    return _compare(gold, behind, exactly)
  if gold.word or given.word:
    same = gold.word is not None and given.word is not None and gold.word.casefold() == given.word.casefold()
    if same or None not in (gold.word, given.word) or len(gold.word or given.word) > 1:
      return _verdict(same, "as words")
  if _BASED.fullmatch(gold.text) or _BASED.fullmatch(given.text):
    return _verdict(_same_based(gold.text, given.text), "as digits of a base")
  gold_list, given_list = (
    one.listing or (one.quantity and listings.parse(one.text)) or _point(one.text) for one in (gold, given)
  )
  if gold_list and given_list:
    return _verdict(listings.equal(gold_list, given_list), "as lists of numbers")
  if (same := relations.same(_RATIO.sub(":", gold.text), _RATIO.sub(":", given.text))) is not None:
    return _verdict(same, "as relations")
  if exactly:
    return "refused", "a formula, which is compared in a sandbox only, and there is none"
  return _compare_formulas(gold.text, given.text, number=gold.quantity is not None)


def _point(text: str) -> listings.Listing | None:
  """The coordinates of `P(2, 3)`."""
  named = _POINT.match(text)
  return listings.parse(text[named.end() :]) if named else None


def _squeezed(text: str) -> str:
  """A text as it is compared: how its words are set says nothing."""
  return notation.squeezed(_ORDINAL.sub("", _RATIO.sub(":", _TEXT.sub(r"\1", text))))


def _compare_formulas(gold: str, given: str, *, number: bool) -> tuple[str, str]:
  """As sympy has it; where a number is asked for, only what is worked out counts."""
  if reason := latex.too_much(given):
    return "limit", f"too large to be evaluated: {reason}"
  gold, given = _without_name(gold, given), _without_name(given, gold)
  if bool(_OVER_INTEGERS.search(gold)) != bool(_OVER_INTEGERS.search(given)):
    gold, given = (_OVER_INTEGERS.sub("", one) for one in (gold, given))
  (gold, gold_unit), (given, given_unit) = _formula(gold), _formula(given)
  if gold_unit and given_unit and gold_unit != given_unit:
    return "wrong", "another unit"
  if latex.not_a_formula(gold) or latex.not_a_formula(given):
    return "wrong", "as text"
  if number and "'" in given:
    return "wrong", "as text"
  if number and closed_form.arithmetic_left(given):
    return "wrong", "arithmetic left to do"
  same = latex.equal(gold, given)
  return ("unparsable", "a formula that cannot be read") if same is None else _verdict(same, "as formulas")


def _formula(text: str) -> tuple[str, str]:
  """A formula without its trailing unit, its "and" and "or" as commas; and the unit's name or ''."""
  if built := _SET_OF.fullmatch(text):  # {x | x > 3}
    text = built[2]
  if text.count("\\pm") == 1 and "," not in text:
    text = f"{text.replace(_PLUS_MINUS, '+')}, {text.replace(_PLUS_MINUS, '-')}"
  text, unit = _TEXT_LIST_WORD.sub(",", intervals.union(text) or text), ""
  if found := _TRAILING_UNIT.fullmatch(text):
    text = found[1]
    unit = (numbers.quantity(f"1 \\text{{{found[2]}}}^{found[3] or 1}") or numbers.Quantity(None, "")).unit
  elif (found := _PLAIN_UNIT.fullmatch(text)) and latex.not_a_formula(found[2]):  # 9\pi square feet
    counted = numbers.quantity(f"1 {found[2]}")
    text, unit = (found[1], counted.unit) if counted else (text, "")
  for pattern, replacement in _REWRITTEN:
    text = pattern.sub(replacement, text)
  return text.strip(), unit


def _without_name(text: str, other: str) -> str:
  """`z = 3 + 4i` as `3 + 4i`, where the other answer is no equation."""
  found = _ASSIGNED.fullmatch(text)
  return found[1] if found and not re.search(r"[=<>]|\\[lg]e(?![a-zA-Z])", other) else text


def _same_quantity(gold: numbers.Quantity, given: numbers.Quantity) -> bool:
  """Equal numbers whose units do not contradict each other. 50% is 0.5, and is 50 where no unit is asked for.

  A dozen is twelve, or a unit that may be left out.
  """
  if "%" in (gold.unit, given.unit) and gold.unit != given.unit:
    if gold.unit and given.unit:
      return False
    percent, other = (gold, given) if gold.unit else (given, gold)
    return other.value in (percent.value, percent.value / 100)
  dozens = ["dozen" in one.unit.split() for one in (gold, given)]
  if dozens[0] != dozens[1]:
    dozen, other = (gold, given) if dozens[0] else (given, gold)
    return other.value == 12 * dozen.value or (not other.unit and other.value == dozen.value)
  if gold.unit and given.unit and gold.unit != given.unit and (amount := units.measured(*gold)) is not None:
    return amount == units.measured(*given)
  return gold.value == given.value and _same_unit(gold.unit, given.unit)


def _same_unit(gold: str, given: str) -> bool:
  """Whether two units can mean the same: one is left out, or they share a word (`red apple`, `apple`) around `per`."""
  pairs = zip(gold.split(" per "), given.split(" per "), strict=False)
  return not gold or not given or all(set(one.split()) & set(other.split()) for one, other in pairs)


def _same_name(gold: str, given: str) -> bool:
  """`x = 5` is not `y = 5`; a bare 5 is either."""
  names = [text.split("=")[0].strip() for text in (gold, given) if _ASSIGNED.fullmatch(text)]
  return len(names) < 2 or names[0] == names[1]


def _same_based(gold: str, given: str) -> bool:
  """`101_2` has the digits 101 and the base 2; the base may be left out but not be another."""
  (gold, gold_base), (given, given_base) = _digits_and_base(gold), _digits_and_base(given)
  return gold == given and (gold_base == given_base or not gold_base or not given_base)


def _digits_and_base(text: str) -> tuple[str, str]:
  found = _BASED.fullmatch(text)
  return (found[1].upper().lstrip("0"), found[2]) if found else (text.upper().lstrip("0"), "")


def _verdict(same: bool, how: str) -> tuple[str, str]:
  return ("correct" if same else "wrong"), how
