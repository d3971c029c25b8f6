"""Floor 3, rewards: answers that are options of a list, by their letters.

What enters: an answer in plain notation such as `B`, `(B)`, `option (B)`, `\\text{Choice B}`, `(B) 12`, `A and C`. What leaves:
the letters that it chooses; or none when it is anything else.
"""

import re

_TEXT = re.compile(r"\\text(?:bf|it)?\s?\{([^{}]*)\}")
_NAMED = re.compile(
  r"(?:the )?(?:correct |right |best |final )?(?:option|choice|answer|letter)s?(?: is| are)?\s?:?\s*", re.IGNORECASE
)
_ONE = re.compile(r"\(([A-Z])\)|([A-Z])[).:]?")
_WITH_TEXT = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:](?=\s))\s*(.+)", re.DOTALL)
_ANOTHER = re.compile(r"\([A-Z]\)|(?<![a-zA-Z])[A-Z](?=[).:]|$|\s*[,/&|])")
_BETWEEN = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*")


def letters(text: str) -> frozenset[str] | None:
  """The letters of the options that an answer chooses.

  >>> letters("\\\\text{option (C)}"), letters("(B) 12"), sorted(letters("A, C")), letters("Ann")
  (frozenset({'C'}), frozenset({'B'}), ['A', 'C'], None)
  """
  if len(text) > 300:
    return None
  text = _TEXT.sub(r"\1", text).strip()
  named = _NAMED.match(text)
  text = text[named.end() :] if named else text
  parts = [_ONE.fullmatch(part.strip()) for part in _BETWEEN.split(text)]
  if None not in parts:
    return frozenset(part[1] or part[2] for part in parts)
  found = _WITH_TEXT.fullmatch(text)
  if found and not _ANOTHER.search(found[3]):
    return frozenset(found[1] or found[2])
  return None


def text_of(text: str) -> str | None:
  """What stands behind an option's letter.

  >>> text_of("(E) 7"), text_of("E")
  ('7', None)
  """
  found = _WITH_TEXT.fullmatch(_TEXT.sub(r"\1", text).strip()) if len(text) <= 300 else None
  return found[3] if found and not _ANOTHER.search(found[3]) else None
