"""Floor 3, host room `data`: rows with a demonstration -> arrays for a supervised step.

A tokenizer and rows enter; right-padded tokens and lengths leave. What is learnt are the tokens from `prompt_lengths` up to
`lengths`: the demonstration and the stop token, which is taught like any other. B sequences, S tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxreason.data.prompts import right_padded
from jaxreason.data.tokenizer import Tokenizer
from jaxreason.errors import UserError


class Demonstrations(NamedTuple):
  """A supervised batch."""

  tokens: np.ndarray  # [B, S] int32: prompt, demonstration, stop token, padding
  prompt_lengths: np.ndarray  # [B] int32, tokens of the prompt
  lengths: np.ndarray  # [B] int32, tokens of all three


def batch(tokenizer: Tokenizer, rows: Sequence[dict], *, length: int) -> Demonstrations:
  """Prompt + demonstration + the tokenizer's first stop token, right-padded to `length`.

  The demonstration is encoded apart from the prompt, as a response is sampled: no token spans the two.

  Args:
    tokenizer: renders prompts and encodes demonstrations.
    rows: B rows, each with a demonstration.
    length: S, in tokens.

  Returns:
    `Demonstrations`.

  Raises:
    UserError: a row without a demonstration, or a sequence longer than `length`; the message has the length that is needed.
  """
  sequences, prompt_lengths = [], []
  for row in rows:
    if not row.get("demonstration"):
      raise UserError(f"expected a demonstration in row {row['id']!r}, got none; supervised steps need rows that have one")
    prompt = tokenizer.render(row["prompt"])
    sequences.append([*prompt, *tokenizer.encode(row["demonstration"]), tokenizer.stop_ids[0]])
    prompt_lengths.append(len(prompt))
  lengths = [len(sequence) for sequence in sequences]
  needed = max(lengths, default=0)
  if needed > length:
    longest = rows[lengths.index(needed)]["id"]
    raise UserError(f"expected demonstrations of at most max_tokens={length}, got {needed} tokens in {longest!r}; raise it")
  return Demonstrations(
    tokens=right_padded(sequences, length, tokenizer.pad_id),
    prompt_lengths=np.array(prompt_lengths, np.int32),
    lengths=np.array(lengths, np.int32),
  )
