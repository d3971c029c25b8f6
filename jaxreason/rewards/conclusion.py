"""Floor 3, rewards: a last sentence that says what came out.

What enters: a response that marks no answer. What leaves: what its last sentence ends in, as text, or ''. `So she needs 7
buses.`, `Total: 12 + 24 = 36 pages`, a last line that is a number or a formula, what is said behind the sentence's last "is" or
alone in bold conclude; a sentence with two numbers and no equals sign before the last, a guess, a question, a number that
something is said of (`42 is a nice number`), or working that breaks off do not.
"""

import re

from jaxreason.rewards import clock, notation, numbers

_SENTENCE_END = re.compile(r"(?<![ap]\.m)[.!?](?=\s+\S)")
_EMPHASIS = re.compile(r"(?<!\w)(?:\*\*|__)|(?:\*\*|__)(?!\w)")  # and no x**2
_SHY = re.compile(
  r"(?<![a-zA-Z])(?:guess\w*|think|maybe|perhaps|possibly|probably|might|may|could|would|should|either|or|not|n't|never|unsure|if|unless"
  r"|depends?|answers?|close|see|above|below|suppose|assume|let|try|say|step|problem|question|example|wrong|incorrect|about|around|approximately|roughly|nearly|almost|between"
  r"|at (?:least|most)|(?:more|less|fewer) than)(?![a-zA-Z])|n't|[?~≈]",
  re.IGNORECASE,
)
_LETTERS = re.compile(r"[a-zA-Z]{2,}")
_MOST = 300  # characters of a sentence
_WORDS = 6  # of a quantity and its unit
_BOLD = re.compile(r"\*\*([^*]{1,60})\*\*")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_FORMULA_WORDS = frozenset(
  ("mod", "sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp", "sqrt", "pi", "and", "to", "xy", "yz", "xz", "xyz")
)
_FORMULA = re.compile(r"\d|[a-zA-Z]\s?[-+*/^=<>]|[-+*/^=<>]\s?[a-zA-Z]|\\(?:infty|pi|sqrt|frac|emptyset)(?![a-zA-Z])")
_BROKEN_OFF = re.compile(r"(?:[-+*/=^,(<>&]|\\(?:times|cdot|le|ge|frac|sqrt|equiv))\s*$|\.\.|\\l?dots|…")
_LEADS = re.compile(
  r"(?<![a-zA-Z])(?:is|are|equals|becomes|leaves|gives|yields|(?:obtain|get|have|find|reach)(?: that)?|therefore|thus|hence"
  r"|that is,?)[ :]\s*|:\s"
)
_POLYNOMIAL = re.compile(r"(?<![a-zA-Z])[a-z]\s?[-+]|[-+]\s?\d*[a-z](?![a-zA-Z])")
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = re.compile(rf"{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:, \d{{4}})?|\d{{1,2}}(?:st|nd|rd|th)? {_MONTH}(?: \d{{4}})?")
_MOST_FORMULA = 120
_BARE = re.compile(r"[\s$*\d,./%-]+")


def of(response: str) -> str:
  """The quantity or the formula that the last sentence ends in, or ''.

  >>> [of(text) for text in ("He needs **7 buses**.", "It is 3 + 4 = 7 miles", "42 is a nice number.", "The roots are 3 and 4")]
  ['7 buses', '7 miles', '', '3 and 4']
  """
  lines = [line for line in response.splitlines()[-20:] if line.strip()]
  if not lines or len(lines[-1]) > 4 * _MOST:
    return ""
  sentence = _SENTENCE_END.split(lines[-1])[-1].strip()
  if len(sentence) > _MOST or _SHY.search(sentence):
    return ""
  if bold := _in_bold(sentence):
    return bold
  sentence = notation.plain(_EMPHASIS.sub("", sentence))
  if _quantity(sentence):
    return sentence if len(lines) > 1 and not _BARE.fullmatch(lines[-2]) else ""
  words = sentence.split(" ")
  for count in range(min(_WORDS, len(words) - 1), 0, -1):
    before, last = " ".join(words[:-count]), " ".join(words[-count:])
    if _quantity(last) and _concludes(before):
      return last
  return _formula_at_end(sentence, alone=len(lines) > 1 and not formulaic(notation.plain(lines[-2]), listed=True))


def formulaic(text: str, *, listed: bool = False) -> bool:
  """Whether a text is a formula, a tuple or a list of numbers, and no words.

  Args:
    text: in plain notation.
    listed: only whether it is one without an equals sign, as in a column of guesses.
  """
  if len(text) > _MOST_FORMULA or _BROKEN_OFF.search(text) or (listed and "=" in text):
    return False
  words = set(_LETTERS.findall(_COMMAND.sub(" ", text)))
  return words <= _FORMULA_WORDS and _FORMULA.search(text) is not None


def _in_bold(sentence: str) -> str:
  """What the sentence has in bold, once, at its end; or a quantity in bold behind words, with no number after it."""
  found = list(_BOLD.finditer(sentence))
  if len(found) != 1:
    return ""
  text, after = notation.plain(found[0][1]), sentence[found[0].end() :]
  if not after.strip(" .!"):
    return text if _quantity(text) or formulaic(text) or len(_LETTERS.findall(text)) in (1, 2, 3) else ""
  return text if _quantity(text) and not re.search(r"\d", after) and _LETTERS.search(sentence[: found[0].start()]) else ""


def _formula_at_end(sentence: str, *, alone: bool) -> str:
  """The formula that a sentence is or ends in; of `A = \\pi r^2 = 25\\pi` the last side."""
  if not formulaic(sentence):
    lead = list(_LEADS.finditer(sentence))
    if not lead or len(_LETTERS.findall(sentence[: lead[-1].end()])) < 2:
      return ""
    sentence = notation.plain(sentence[lead[-1].end() :])
    if not (formulaic(sentence) or _DATE.fullmatch(sentence)):
      return ""
  elif not alone:
    return ""
  name, *sides = sentence.split("=")
  named_by_letter = len(sides) == 1 and not name.strip().startswith("\\")
  return sentence if not sides or named_by_letter else sides[-1].strip()


def _quantity(text: str) -> bool:
  return re.search(r"[a-zA-Z\d]", text) is not None and (numbers.quantity(text) is not None or clock.parse(text) is not None)


def _concludes(before: str) -> bool:
  """Whether what stands before a quantity leads to it and to no other: an equals sign, or words without a number."""
  if before.endswith("="):
    return not _POLYNOMIAL.search(before[-40:])
  if re.search(r"[<>,]$|\\[lg]e$", before):
    return False
  words = _LETTERS.findall(before)
  return len(words) > 1 and not re.search(r"\d", before) and not any(numbers.quantity(word) for word in words)
