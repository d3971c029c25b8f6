"""Floor 3, host room `data`: evaluation prompts that also occur in training.

Two lists of rows enter; the ids of the evaluation rows whose prompt was trained on leave. Prompts are compared as a reader
would: case, spacing and punctuation do not count, numbers and the signs between them do. Both sides should be read with the
same template, as other instructions around a question are other words.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from jaxreason.data.tokenizer import Prompt

# A number, a word, or a sign that changes what is asked. A hyphen is a minus only before something to subtract: `4-8` and
# `4+8` are two problems, `120-page` and `120 page` are one.
_PIECES = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[+*/×÷=<>^%]|-(?=\s*(?:\d|\(|[^\W\d_](?![^\W\d_])))")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))


def overlap(training_rows: Iterable[Mapping], evaluation_rows: Iterable[Mapping]) -> list[str]:
  """Ids of the evaluation rows whose normalised prompt is that of a training row, in the order of evaluation.

  Args:
    training_rows: rows with a prompt.
    evaluation_rows: rows with a prompt and an id.
  """
  trained = {normalised(row["prompt"]) for row in training_rows}
  return [row["id"] for row in evaluation_rows if normalised(row["prompt"]) in trained]


def normalised(prompt: Prompt) -> str:
  """The words, numbers and signs of a prompt, in lower case, with single spaces; of messages, all contents in order."""
  text = prompt if isinstance(prompt, str) else _contents(prompt)
  folded = unicodedata.normalize("NFKC", text).casefold().translate(_DASHES)
  return " ".join(_PIECES.findall(_THOUSANDS.sub("", folded)))


def _contents(messages: Sequence[Mapping[str, str]]) -> str:
  return "\n".join(message["content"] for message in messages)
