"""Floor 3, rewards: where in a response the final answer stands.

What enters: a response. What leaves: the text of its last answer, with why it cannot count when it was given in a hedged
way ("either 3 or 4"), or none. An answer is what stands in `\\boxed{...}`, behind `####`, between `<answer>` tags, or behind
"the answer is"; the last one wins, so a response may correct itself. Without any of these the last sentence counts if it ends
in its only number (see `conclusion`), and so does a bare response that is nothing but an answer. Other prose is never searched
for numbers: whoever mentions the right one in passing has not answered. Everything is linear in the response's length, of which
the last 64 KiB are kept.
"""

import re
from collections import deque
from dataclasses import dataclass

from jaxreason.rewards import conclusion, listings, notation, numbers, options

KEPT_CHARACTERS = 64 * 1024
ALTERNATIVES = "several answers at once"
SEVERAL_BOXES = "several boxes in one line"
SEVERAL_HASHES = "several #### in one line"
_LISTED_WITHIN = 200
_LOOKED_AT = 64  # of the places where an answer may stand, from the last one back

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,8}(\{|[0-9a-zA-Z])|\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*([^\n#]*)")
_TAG = re.compile(r"<answer>[ \t\n]{0,20}([^<>\n]{1,300}?)[ \t\n]{0,20}</answer>", re.IGNORECASE)
_STATED = re.compile(
  r"(?:(?:answer|(?:correct|right) (?:choice|option))(?:\*\*|__)?"
  r"(?:[ \t]+(?:to|for|of|in)[ \t](?!whether|if)[^\n.,:?=]{1,60}?(?=[ \t](?:is|are|equals)[ \t]))?"
  r"\s{0,3}(?:is|are|:|=|equals|(?:should|must|would|will)[ \t]+be|comes[ \t]+(?:out[ \t]+)?to)"
  r"(?:\*\*|__)?[ \t]*[:=]?"
  r"|^[ \t]*(?:#{1,6}[ \t]*(?:\*\*)?|\*\*)(?:the )?(?:final )?answer(?:\*\*)?[ \t]*$)[ \t]*(?:\n[ \t]*){0,2}"
  r"(?:(?:option|choice|letter|thus|therefore|hence|then|simply|just|now|indeed|exactly|equal to)[ \t:]+)?(?=([^\n]{1,300}))",
  re.IGNORECASE | re.MULTILINE,
)
_DENIED = re.compile(r"(?:not|n't|never|no(?![.!*$\s]*$|\.\s))\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$|\*)")
_INLINE_MATH = re.compile(r"\s*(?:\$((?:\\.|[^$\\])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\*\*([^*]+)\*\*)")
_ANOTHER = re.compile(r"\s*[,;]?\s*\(?(?:or|and|/|\$|\*\*|\\\()")
_ASSIGNED = re.compile(r"[a-zA-Z](?:_\w)?\s?=\s?([^=]+)")
_COMPUTED = re.compile(r"\d[\d\s.,+*/()-]*=\s?([^=]+)")  # 24 / 3 = 8
_LEADING_NUMBER = re.compile(r"([-+−]?\s?[$€£]?\s?[-+]?\d[\d,]*(?:\.\d+)?(?:\s?/\s?\d+)?(?:\s?%)?)(?![\d^*/])(.*)", re.DOTALL)
_SAID = re.compile(  # a letter, a word, an option with its text
  r"\(?[A-Za-z]\)?|(?:(?:an?|the) )?[A-Za-z]+|(?:\([A-Z]\)|[A-Z][.):]) .+"
)
_GOES_ON = re.compile(  # `9\pi`, `9x`
  r"\s*\\|[a-zA-Z](?![a-zA-Z])|\s*[-+*/^=<>]\s*(?:[\w(\\](?![a-zA-Z]{2})|$)|\s+[b-zA-Z](?![a-zA-Z])"
)
_REASON = re.compile(r"\s*,?\s*\(?(?:because|since|as|for|given)\b", re.IGNORECASE)
_HEDGE = re.compile(
  r"(?<![a-zA-Z\\])(?:or|either|neither|nor|maybe|perhaps|possibly|probably|might|could|not|isn't|unsure|alternatively"
  r"|otherwise)(?![a-zA-Z])|\\(?:lor|vee)(?![a-zA-Z])|(?<=[\w)}])\s?\?[\s$})*]*$",
  re.IGNORECASE,
)
_LISTING = re.compile(r"[\s,;:/|&.$()\[\]*\\-]*(?:(?:and|or|also|then|next|plus)\b[\s,;:/|&.$()\[\]*\\-]*)*", re.IGNORECASE)
_SOFT = re.compile(r"\b(?:or|either|maybe|perhaps|possibly|might|could|alternatively|otherwise|else)\b", re.IGNORECASE)
_ALSO = re.compile(  # between two statements: `3 and the answer is 4`
  r"\s{0,2}\S{1,40}?[\s,;.]{0,4}"
  r"(?:and|or|also|maybe|perhaps|possibly)[\s,]{1,3}(?:also\s|or\s|then\s)?(?:the\s|my\s|another\s)?(?:\w{1,12}\s)?",
  re.IGNORECASE,
)
_RUN = 4096
_ANSWER_LINE = re.compile(  # a line that is an answer and nothing else
  r"[\s\d.)(*>-]{0,12}(?:(?:so|or|and|maybe|perhaps|possibly|then|also|it),?\s){0,2}(?:(?:the|my)\s)?(?:(?:final|correct|right)\s)?"
  r"(?:answer(?:\s(?:is|should be|must be|would be|could be|may be|might be|is maybe|is perhaps))?"
  r"\s?[:=]?\s*|####\s*|(?=\$?\\boxed))"
  r"(\S{1,60})\s*",
  re.IGNORECASE,
)
_CORRECTS = re.compile(
  r"\b(?:wait|wrong|actually|instead|mistake|correct(?:ion|ed|ing)?|incorrect|sorry|oops|error|recheck|scratch|fix(?:ed|ing)?"
  r"|should\s+be|rather|revis(?:e|ed|ing)|double-check|no)\b",
  re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
  r"(?:\\text\s?\{)?\s*(?:[xX]|\.{2,}|…|\\[lc]?dots|(?:your |the )?(?:final )?answer|[?_]+|)\s*\}?", re.IGNORECASE
)


@dataclass(frozen=True)
class Claim:
  """The last answer of a response: its text as written, and why it cannot count ('' when it can)."""

  text: str
  spam: str = ""


@dataclass(frozen=True)
class _Found:
  start: int
  end: int
  text: str


def last_answer(response: str) -> Claim | None:
  """The last answer that the response gives, or None when it gives none.

  >>> last_answer("First \\\\boxed{3}. Wait, that is wrong: \\\\boxed {4}")
  Claim(text='4', spam='')
  >>> last_answer("#### 3 or 4").spam
  'several answers at once'
  """
  response = notation.visible(response[-KEPT_CHARACTERS:])
  boxes, cut_off = _boxes(response)
  hashes = _hashes(response, alone=not boxes)
  tagged = [_Found(tag.start(), tag.end(), tag[1]) for tag in deque(_TAG.finditer(response), maxlen=_LOOKED_AT)]
  hashes = sorted(hashes + tagged, key=lambda found: found.start)
  marked = max(boxes[-1:] + hashes[-1:], key=lambda found: found.start, default=None)
  stated = _last_statement(response, marked)
  last = stated or marked
  if cut_off is not None and (last is None or cut_off > last.start):
    return None  # it broke off inside its last answer
  if last is None:
    return _bare(response)
  if stated is None and boxes and marked is boxes[-1]:
    listed = _listed_with_last(response, boxes)
    if len(listed) > 1:
      return Claim(", ".join(listed), SEVERAL_BOXES)
  elif stated is None and _several_on_last_line(response, hashes):
    return Claim(last.text, SEVERAL_HASHES)
  elif stated is not None and _several_stated(response, stated):
    return Claim(last.text, ALTERNATIVES)
  if len(_enumerated(response, last.end)) > 2:
    return Claim(last.text, ALTERNATIVES)
  return Claim(last.text, ALTERNATIVES if hedged(last.text) else "")


def side_by_side(between: str) -> bool:
  """Whether two answers with this text between them stand as alternatives or as a list, and not as one and its correction."""
  if "\n" in between or len(between) > _LISTED_WITHIN or _CORRECTS.search(between):
    return False
  return bool(_LISTING.fullmatch(between) or _SOFT.search(between))


def hedged(text: str) -> bool:
  """Whether an answer's text offers alternatives or takes itself back: `3 or 4`, `maybe 3`, `6 (\\text{or } 5)`, `not 5`."""
  return _HEDGE.search(text) is not None


def _boxes(response: str) -> tuple[list[_Found], int | None]:
  """The outermost complete boxes in order, and where a box that never closes begins.

  One pass with a stack, so that ten thousand opened boxes cost no more than ten thousand braces.
  """
  found: list[_Found] = []
  stack: list[tuple[bool, int, int]] = []  # (is a box, its start, its content's start)
  for token in _BOX_TOKEN.finditer(response):
    text = token.group()
    if token[1] == "{":
      stack.append((True, token.start(), token.end()))
    elif token[1]:  # \boxed 5, which LaTeX reads as \boxed{5}
      found.append(_Found(token.start(), token.end(), token[1]))
    elif text == "{":
      stack.append((False, token.start(), token.end()))
    elif text == "}" and stack:
      is_box, start, content = stack.pop()
      if is_box:
        while found and found[-1].start > start:  # boxes inside this one
          found.pop()
        found.append(_Found(start, token.end(), response[content : token.start()].strip()))
  open_boxes = [start for is_box, start, _ in stack if is_box]
  return found, open_boxes[-1] if open_boxes else None


def _hashes(response: str, *, alone: bool) -> list[_Found]:
  """What stands behind `####`. Headings (`#### Step 2: add`) count only when nothing else does."""
  matches = deque(_HASHES.finditer(response), maxlen=_LOOKED_AT)
  found = [_Found(match.start(), match.end(), match[1].strip()) for match in matches]
  answers = [one for one in found if _answerlike(one.text)]
  return answers or (found[-1:] if alone else [])


def _answerlike(text: str) -> bool:
  """Whether a text can be an answer on its face: a number, a formula, an option's letter, or alternatives of these."""
  if numbers.quantity(text) is not None or (hedged(text) and re.search(r"\d", text)):
    return True
  return bool(text) and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2}", text)


def _listed_with_last(response: str, boxes: list[_Found]) -> list[str]:
  """The distinct contents of the boxes that stand as a list with the last one, on its line: `\\boxed{3} or \\boxed{4}`.

  Two boxes with reasoning between them are an intermediate result or a correction, and only the last counts; three
  different ones in a line are spam whatever stands between.
  """
  listed, in_line = [boxes[-1].text], [boxes[-1].text]
  joined = True
  for earlier, later in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
    between = response[earlier.end : later.start]
    if "\n" in between or len(between) > _LISTED_WITHIN or _CORRECTS.search(between):
      break
    if _PLACEHOLDER.fullmatch(earlier.text):  # the prompt's own words
      continue
    in_line.append(earlier.text)
    joined = joined and bool(_LISTING.fullmatch(between) or _SOFT.search(between))
    if joined:
      listed.append(earlier.text)
  distinct = list(dict.fromkeys(reversed(in_line)))
  return distinct if len(distinct) > 2 else list(dict.fromkeys(reversed(listed)))


def _several_on_last_line(response: str, hashes: list[_Found]) -> bool:
  line = response.rfind("\n", 0, hashes[-1].start)
  return len({found.text for found in hashes if found.start > line}) > 1


def _several_stated(response: str, last: _Found) -> bool:
  """Whether the last statement's line says of three or more different things that they are the answer, and corrects nothing;
  or of two with nothing but "and" or "or" between them."""
  line = response[response.rfind("\n", 0, last.start) + 1 : last.end + _LISTED_WITHIN].partition("\n")[0]
  said = [match for match in deque(_STATED.finditer(line), maxlen=_LOOKED_AT) if not _DENIED.match(match[1])]
  told = {_stated_answer(match[1]) for match in said} - {""}
  if _CORRECTS.search(line):
    return False
  return len(told) > 2 or (len(told) == 2 and bool(_ALSO.fullmatch(line[said[-2].end() : said[-1].start()])))


def _enumerated(response: str, end: int) -> set[str]:
  """The different answers of the unbroken run of lines, the last answer's and those before it, that are an answer and nothing
  else. Three are a list of guesses; two may be an answer and its correction, and lines of reasoning say more."""
  found: set[str] = set()
  stop = response.find("\n", end)
  for line in reversed(response[max(0, end - _RUN) : len(response) if stop < 0 else stop].splitlines()[-_LOOKED_AT:]):
    if not line.strip():
      continue
    if not (bare := _ANSWER_LINE.fullmatch(line)):
      break
    found.add(bare[1].strip(" .*$"))
  return found


def _last_statement(response: str, marked: _Found | None) -> _Found | None:
  """The last "answer is ..." that says something which can be an answer; behind a marked answer it must be plain."""
  for match in reversed(deque(_STATED.finditer(response), maxlen=_LOOKED_AT)):
    if marked is not None and match.start() < marked.end:
      return None
    text = "" if _DENIED.match(match[1]) else _stated_answer(match[1])
    if text and (marked is None or _answerlike(text)):
      return _Found(match.start(), match.end(), text)
  return None


def _stated_answer(text: str) -> str:
  """The answer at the beginning of what follows "answer is", or '' when there is none to be made out."""
  inline = _INLINE_MATH.match(text)
  if inline and not _ANOTHER.match(text, inline.end()):
    return next(filter(None, inline.groups())).strip()
  text = text.rstrip().rstrip("*_`").lstrip("`")  # of `**Answer: 5**`
  end = _SENTENCE_END.search(text)
  if end and end.group() == "?":
    return text[: end.end()]
  sentence = notation.plain(text[: end.start()] if end else text)
  if (assigned := _ASSIGNED.fullmatch(sentence)) or (assigned := _COMPUTED.fullmatch(sentence)):
    sentence = assigned[1]
  if not sentence or hedged(sentence) or numbers.quantity(sentence) is not None or listings.parse(sentence) is not None:
    return sentence
  leading = _LEADING_NUMBER.match(sentence)
  if leading and not _GOES_ON.match(leading[2]) and (not re.search(r"\d", leading[2]) or _REASON.match(leading[2])):
    return leading[1].strip()
  plain = _SAID.fullmatch(sentence) or "\\" in sentence or leading or conclusion.formulaic(sentence)
  return sentence if plain else ""


def _bare(response: str) -> Claim | None:
  """A response that is nothing but a number, an option or a formula between dollar signs; or what its last sentence ends in."""
  text = response.strip()
  if concluded := conclusion.of(text):
    return Claim(concluded)
  if len(text) > 200 or "\n" in text:
    return None
  if (letters := options.letters(text)) and len(letters) == 1:
    return Claim(text)
  if numbers.quantity(text) is not None or re.fullmatch(r"\${1,2}(?:\\.|[^$\\])+\${1,2}|\\\([^$]+\\\)|\\\[[^$]+\\\]", text):
    return Claim(text, ALTERNATIVES if hedged(text) else "")
  return None
