"""Floor 3, rewards: one way to write an answer.

What enters: an answer as somebody typed it (Unicode signs, LaTeX spacing, currency, Markdown, a sentence's full stop).
What leaves: the same answer in one plain LaTeX notation, still text. Nothing is evaluated here. Rules that every judge of
mathematics needs before it compares anything: full-width digits are digits, `½` after a 1 is a half more and not eleven
halves, `√2` is `\\sqrt{2}`, `\\dfrac` is `\\frac`, `1\\,000` has a space in it and nothing else.
"""

import html
import re
import unicodedata

from jaxreason.rewards import number_words

_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5"} | {
  "⅙": "1/6", "⅚": "5/6", "⅐": "1/7", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8", "⅑": "1/9", "⅒": "1/10"
}  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_LOWERED_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SIGNS = str.maketrans(
  {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "×": r"\times ", "✕": r"\times ", "⋅": r"\cdot ",
    "·": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "∞": r"\infty ", "π": r"\pi ", "°": r"^\circ ",
    "º": r"^\circ ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
    "∈": r"\in ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "ω": r"\omega ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "“": '"', "”": '"', "‘": "'", "’": "'",
    "\u200b": "", "\ufeff": "", "\u2061": "", "\u2062": "",
  }
)  # fmt: skip
_ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?|[a-zA-Z]|\([^()]*\)|\{[^{}]*\})")
_SPELLED_BASE = re.compile(r"_\s?\{?\s?\\text\s?\{\s?([a-z]{3,9})\s?\}\s?\}?")
_COMMANDS = [
  (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*"), ""),
  (re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|bf|rm|it|sf|tt|small|[lL]arge|LARGE|[hH]uge)(?![a-zA-Z])\s*"), ""),
  (re.compile(r"\\(?:text)?color\s*\{[^{}]*\}\s*"), ""),
  (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
  (re.compile(r"\\(?:textrm|textnormal|textsf|mathrm|mathsf|mbox|operatorname)(?![a-zA-Z])\*?"), r"\\text"),
  (re.compile(r"\\(?:mathbf|mathit|mathnormal|boldsymbol|bm|textbf|textit|emph|underline)(?![a-zA-Z])\s*\{([^{}]*)\}"), r"\1"),
  (re.compile(r"\\(?:varnothing|O)(?![a-zA-Z])"), r"\\emptyset "),
  (re.compile(r"\\leq(?:slant)?(?![a-zA-Z])"), r"\\le "),
  (re.compile(r"\\geq(?:slant)?(?![a-zA-Z])"), r"\\ge "),
  (re.compile(r"\\neq(?![a-zA-Z])"), r"\\ne "),
  (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
  (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
  (re.compile(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ|\\degree(?![a-zA-Z])|\\text\s*\{\s*degrees?\s*\}"), r"^\\circ "),
  (re.compile(r"(?<=\d)\s?\^\s?(?:\{\s?o\s?\}|o(?![a-zA-Z]))"), r"^\\circ "),
  (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
  (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
  (re.compile(r"\{\s*,\s*\}"), ","),
  (re.compile(r"\\langle(?![a-zA-Z])\s*"), "("),
  (re.compile(r"\s*\\rangle(?![a-zA-Z])"), ")"),
  (re.compile(r"\\textdollar(?![a-zA-Z])\s*"), r"\\$"),
  (re.compile(r"(?<!\\)\\!"), ""),
  (re.compile(r"(?<!\\)\\[,;:> ]|\\(?:quad|qquad|thinspace|space)(?![a-zA-Z])|(?<!\\)~"), " "),
  (re.compile(r"\\text\s*\{\s*\\?([$%])\s*\}"), r"\\\1"),
  (re.compile(r"\\%"), "%"),
  (re.compile(r"\{:\}"), ":"),
  (re.compile(r"(?<=\\overline\{)[\d ]+(?=\})"), lambda digits: digits.group().replace(" ", "")),
  (_SPELLED_BASE, lambda base: "_{" + number_words.digits(base[1]) + "}"),
  (re.compile(r"(\d)\s*\*\s*\*\s*(\d+)"), r"\1^{\2}"),
  (re.compile(r"(?<=[a-zA-Z)}])\*\*(?:(-?\d+)|\((-?\w+)\)|([a-zA-Z]))(?![\w*]|\s*\*\*)"), r"^{\1\2\3}"),
  (re.compile(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])"), r"\\pi "),
  (re.compile(r"\s+"), " "),
]
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_MARKUP = re.compile(r"</?(?:b|i|u|p|br|em|strong|span|div|code|h[1-6])(?:\s[^<>]{0,60})?/?>", re.IGNORECASE)
_SPECIAL = re.compile(r"[\\~*{]|\^o|(?<![a-zA-Z])pi(?![a-zA-Z])")
_WRAPPERS = [
  ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("*", "*"), ("__", "__"), ("`", "`"), ('"', '"'),
  ("_", "_"), ("'", "'"), (r"\boxed{", "}"), (r"\text{", "}"), ("{", "}"),
]  # fmt: skip


def plain(text: str) -> str:
  """The answer `text` in one notation: NFKC, ASCII signs, plain LaTeX commands, no wrappers, no final full stop.

  Idempotent on what it returns. Time is linear in the length but for nested wrappers, of which at most 8 are taken off.
  """
  if text.isascii() and not _SPECIAL.search(text):
    return _unwrapped(" ".join(text.split()))
  for sign, fraction in _VULGAR.items():
    if sign in text:
      text = text.replace(sign, f" {fraction}")
  text = _RAISED_RUN.sub(lambda run: "^{" + run.group().translate(_RAISED) + "}", text)
  text = _LOWERED_RUN.sub(lambda run: "_{" + run.group().translate(_LOWERED) + "}", text)
  text = text.translate(_SIGNS)  # before NFKC, which would split some of them
  text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
  text = _ROOT.sub(lambda root: r"\sqrt{" + root.group(1).strip("(){}") + "}", text)
  for pattern, replacement in _COMMANDS:
    text = pattern.sub(replacement, text)
  return _unwrapped(text.strip())


def visible(text: str) -> str:
  """`text` as a browser would show it: no marks without width or of direction, no tags of layout, no entities.

  >>> visible("<p>The answer is <b>&minus;3</b>.</p>")
  'The answer is −3.'
  """
  text = _INVISIBLE.sub("", text)
  if "<" in text:
    text = _MARKUP.sub("", text)
  return html.unescape(text) if "&" in text and ";" in text else text


def squeezed(text: str) -> str:
  """`text` without white space but between digits, and without braces around single characters: for comparing as text."""
  return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text))


def _unwrapped(text: str) -> str:
  for _ in range(8):
    before = text
    text = text.strip().strip("?").rstrip(",;:").rstrip()
    for mark in (".", "\\"):  # an ellipsis stays: it says that something is missing
      if text.endswith(mark) and not text.endswith(2 * mark):
        text = text[:-1].rstrip()
    for left, right in _WRAPPERS:
      if len(text) > len(left) + len(right) - 1 and text.startswith(left) and text.endswith(right):
        inner = text[len(left) : len(text) - len(right)]
        if _whole(inner, left):
          text = inner.strip()
    if text == before:
      break
  return text


def _whole(inner: str, left: str) -> bool:
  """Whether what a wrapper encloses is one thing: `$1$ and $2$` is not, nor `{1}+{2}`."""
  if not left.endswith("{"):
    return left not in inner and not inner.endswith("\\")
  depth = 0
  for token in re.findall(r"\\.|[{}]", inner):
    depth += (token == "{") - (token == "}")
    if depth < 0:
      return False
  return depth == 0 and not inner.endswith("\\")
