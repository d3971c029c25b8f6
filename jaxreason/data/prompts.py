"""Floor 3, host room `data`: rows -> one right-padded array of prompt tokens for a batch.

A tokenizer, rows and their visit_ids enter; numpy arrays leave, with a record of which prompts were too long and what became
of them. P prompts, S tokens of the bucket.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxreason.data.tokenizer import Tokenizer
from jaxreason.errors import UserError, nearest

POLICIES = ("truncate_left", "drop", "error")


class Prompts(NamedTuple):
  """A batch of prompts. P counts the prompts that were kept; S is a multiple of the bucket."""

  tokens: np.ndarray  # [P, S] int32, right-padded
  lengths: np.ndarray  # [P] int32, tokens of each prompt, all > 0
  visit_ids: np.ndarray  # [P] uint32
  rows: tuple[dict, ...]  # P rows
  truncated: tuple[int, ...]  # visit_ids of prompts that lost their beginning
  dropped: tuple[int, ...]  # visit_ids of prompts that are not in the batch


def pack_prompts(
  tokenizer: Tokenizer,
  rows: Sequence[dict],
  visit_ids: Sequence[int],
  *,
  bucket: int,
  max_length: int,
  policy: str = "error",
) -> Prompts:
  """Renders prompts and pads them to the least multiple of `bucket` that holds the longest.

  Args:
    tokenizer: renders a row's prompt.
    rows: P rows.
    visit_ids: P positions in the stream, one for each row.
    bucket: arrays are a multiple of this long, in tokens, so that few shapes are compiled.
    max_length: the most tokens of a prompt.
    policy: for a longer prompt: 'truncate_left' keeps its last `max_length` tokens, 'drop' leaves it out, 'error' raises.

  Returns:
    The `Prompts` in the order of `rows`. Where all are dropped it has P = 0 and one bucket.

  Raises:
    UserError: an unknown policy, a prompt without tokens, or one that is too long under 'error'.
  """
  if policy not in POLICIES:
    raise UserError(f"expected a policy of {', '.join(POLICIES)}, got {policy!r}{nearest(policy, POLICIES)}")
  if bucket < 1 or max_length < 1:
    raise UserError(f"expected bucket and max_length of at least 1 token, got bucket={bucket}, max_length={max_length}")
  kept, truncated, dropped = [], [], []
  for row, visit_id in zip(rows, visit_ids, strict=True):
    ids = tokenizer.render(row["prompt"])
    if not ids:
      raise UserError(f"expected a prompt of at least one token, got none in row {row['id']!r}")
    if len(ids) > max_length:
      if policy == "error":
        raise UserError(
          f"prompt of row {row['id']!r} has {len(ids)} tokens, more than max_prompt_tokens={max_length}; "
          "raise it, or set long_prompts to truncate_left or drop"
        )
      (truncated if policy == "truncate_left" else dropped).append(int(visit_id))
      if policy == "drop":
        continue
    kept.append((ids[-max_length:], visit_id, row))
  lengths = np.array([len(ids) for ids, _, _ in kept], np.int32)
  longest = max(int(lengths.max(initial=0)), 1)
  return Prompts(
    tokens=right_padded([ids for ids, _, _ in kept], -(-longest // bucket) * bucket, tokenizer.pad_id),
    lengths=lengths,
    visit_ids=np.array([visit_id for _, visit_id, _ in kept], np.uint32),
    rows=tuple(row for _, _, row in kept),
    truncated=tuple(truncated),
    dropped=tuple(dropped),
  )


def right_padded(sequences: Sequence[Sequence[int]], length: int, pad_id: int) -> np.ndarray:
  """[B, length] int32 with each sequence at the left and `pad_id` after it. No sequence may be longer than `length`."""
  tokens = np.full((len(sequences), length), pad_id, np.int32)
  for row, sequence in zip(tokens, sequences, strict=True):
    row[: len(sequence)] = sequence
  return tokens
