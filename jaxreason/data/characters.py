"""Floor 3, host room `data`: a character tokenizer of ours, so that a small model needs no file from anywhere.

An alphabet enters; a `Tokenizer` leaves. Ids: 0 pads, 1 begins a prompt, 2 ends a response, 3 + i is character i of the
alphabet.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

from jaxreason.data.tokenizer import Prompt, Tokenizer
from jaxreason.errors import UserError

PAD, BEGIN, END = 0, 1, 2
FILE = "characters.json"
_FIRST = 3


def characters(alphabet: str) -> Tokenizer:
  """A tokenizer of single characters (Unicode code points).

  An id past the alphabet, which a model with a padded embedding could sample, decodes to U+FFFD: it must not vanish from a
  response that is then judged right.

  Args:
    alphabet: the characters, each once; their order gives the ids.

  Returns:
    The `Tokenizer`; `render(prompt)` is the begin token and the prompt's characters.

  Raises:
    UserError: an empty alphabet or one with a character twice; on `encode` and `render`, a character outside the alphabet.
  """
  if not alphabet:
    raise UserError("expected an alphabet of at least one character, got an empty one")
  ids = {character: _FIRST + i for i, character in enumerate(alphabet)}
  if len(ids) != len(alphabet):
    twice = next(c for c in alphabet if alphabet.count(c) > 1)
    raise UserError(f"expected each character of the alphabet once, got {twice!r} more than once")

  def encode(text: str) -> list[int]:
    try:
      return [ids[character] for character in text]
    except KeyError as error:
      raise UserError(f"character {error.args[0]!r} is outside the alphabet {alphabet!r}; add it to the alphabet") from None

  def decode(tokens: Sequence[int]) -> str:
    written = list(tokens[:-1] if len(tokens) and int(tokens[-1]) == END else tokens)
    places = [int(token) - _FIRST for token in written]
    return "".join(alphabet[place] if 0 <= place < len(alphabet) else "\ufffd" for place in places)

  def render(prompt: Prompt) -> list[int]:
    if not isinstance(prompt, str):
      raise UserError(f"expected a str prompt, got {type(prompt).__name__}; a character tokenizer has no chat template")
    return [BEGIN, *encode(prompt)]

  def save(directory: str | os.PathLike) -> None:
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps({"alphabet": alphabet}) + "\n", encoding="utf-8")

  identity = hashlib.sha256(json.dumps(["characters", alphabet]).encode()).hexdigest()
  return Tokenizer(
    encode=encode,
    decode=decode,
    render=render,
    reply=encode,
    stop_ids=(END,),
    pad_id=PAD,
    vocab_size=_FIRST + len(alphabet),
    fingerprint=identity,
    vocabulary=identity,
    save=save,
  )


def load_characters(directory: str | os.PathLike) -> Tokenizer:
  """The tokenizer that `save` wrote into `directory`.

  Raises:
    UserError: there is no such file, or it is not one of ours.
  """
  path = pathlib.Path(directory) / FILE
  try:
    alphabet = json.loads(path.read_text(encoding="utf-8"))["alphabet"]
  except OSError as error:
    raise UserError(f"expected a character tokenizer at {path}, got {error.strerror}; save one there first") from error
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'expected {{"alphabet": "..."}} in {path}, got something else; save the tokenizer again') from error
  if not isinstance(alphabet, str):
    raise UserError(f"expected the alphabet in {path} to be a string, got {type(alphabet).__name__}")
  return characters(alphabet)
