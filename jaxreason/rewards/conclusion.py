"""Floor 3, rewards: a last sentence that says what came out.

What enters: a response that marks no answer. What leaves: the quantity that its last sentence ends in, as text, or ''.
`So she needs 7 buses.`, `Total: 12 + 24 = 36 pages` and a last line that is a number conclude; a sentence with two numbers and
no equals sign before the last, a guess, a question, or a number that something is said of (`42 is a nice number`) do not.
"""

import re

from jaxreason.rewards import clock, notation, numbers

_SENTENCE_END = re.compile(r"(?<![ap]\.m)[.!](?=\s+\S)")
_SHY = re.compile(
  r"(?<![a-zA-Z])(?:guess\w*|think|maybe|perhaps|possibly|probably|might|may|could|would|should|either|or|not|n't|never|unsure|if|unless"
  r"|depends?|answers?|close|see|above|below|suppose|assume|let|try|say|step|problem|question|example|wrong|incorrect|about|around|approximately|roughly|nearly|almost|between"
  r"|at (?:least|most)|(?:more|less|fewer) than)(?![a-zA-Z])|n't|[?~≈]",
  re.IGNORECASE,
)
_LETTERS = re.compile(r"[a-zA-Z]{2,}")
_MOST = 300  # characters of a sentence
_WORDS = 6  # of a quantity and its unit
_BARE = re.compile(r"[\s$*\d,./%-]+")


def of(response: str) -> str:
  """The quantity that the last sentence ends in, or ''.

  >>> [of(text) for text in ("He needs **7 buses**.", "It is 3 + 4 = 7 miles", "42 is a nice number.", "It is 3 and 4")]
  ['7 buses', '7 miles', '', '']
  """
  lines = [line for line in response.splitlines()[-20:] if line.strip()]
  if not lines or len(lines[-1]) > 4 * _MOST:
    return ""
  sentence = _SENTENCE_END.split(lines[-1])[-1].strip()
  if len(sentence) > _MOST or _SHY.search(sentence):
    return ""
  sentence = notation.plain(sentence.replace("**", "").replace("__", ""))
  if _quantity(sentence):
    return sentence if len(lines) > 1 and not _BARE.fullmatch(lines[-2]) else ""
  words = sentence.split(" ")
  for count in range(min(_WORDS, len(words) - 1), 0, -1):
    before, last = " ".join(words[:-count]), " ".join(words[-count:])
    if _quantity(last) and _concludes(before):
      return last
  return ""


def _quantity(text: str) -> bool:
  return re.search(r"[a-zA-Z\d]", text) is not None and (numbers.quantity(text) is not None or clock.parse(text) is not None)


def _concludes(before: str) -> bool:
  """Whether what stands before a quantity leads to it and to no other: an equals sign, or words without a number."""
  if before.endswith("="):
    return True
  words = _LETTERS.findall(before)
  return len(words) > 1 and not re.search(r"\d", before) and not any(numbers.quantity(word) for word in words)
