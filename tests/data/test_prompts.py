"""Packed prompts and demonstrations: padding changes nothing, the bucket is kept, and too long is never silent."""

import numpy as np
import pytest

from jaxreason.data import demonstrations
from jaxreason.data.characters import BEGIN, END, PAD, characters
from jaxreason.data.prompts import pack_prompts
from jaxreason.data.tasks import running_sums
from jaxreason.errors import UserError

TOKENIZER = characters(running_sums.ALPHABET)
ROWS = running_sums.rows("train", 24, 0)
LENGTHS = [len(row["prompt"]) + 1 for row in ROWS]


def unpadded(tokens, lengths):
  return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]


@pytest.mark.parametrize("bucket", [1, 4, 16, 64])
def test_prompts_lie_at_the_left_of_the_least_bucket(bucket):
  packed = pack_prompts(TOKENIZER, ROWS, range(100, 124), bucket=bucket, max_length=64)
  assert unpadded(packed.tokens, packed.lengths) == [TOKENIZER.render(row["prompt"]) for row in ROWS]
  size = packed.tokens.shape[1]
  assert size % bucket == 0 and size - bucket < max(LENGTHS) <= size
  assert packed.tokens.dtype == packed.lengths.dtype == np.int32
  assert np.all(packed.tokens[np.arange(size) >= packed.lengths[:, None]] == PAD)
  assert packed.visit_ids.tolist() == list(range(100, 124)) and packed.visit_ids.dtype == np.uint32
  assert packed.rows == tuple(ROWS) and packed.truncated == packed.dropped == ()


def test_truncate_left_keeps_the_end_and_tells():
  packed = pack_prompts(TOKENIZER, ROWS, range(24), bucket=8, max_length=10, policy="truncate_left")
  assert unpadded(packed.tokens, packed.lengths) == [TOKENIZER.render(row["prompt"])[-10:] for row in ROWS]
  assert packed.truncated == tuple(i for i in range(24) if LENGTHS[i] > 10) != ()
  assert packed.dropped == ()


def test_drop_leaves_out_and_tells():
  packed = pack_prompts(TOKENIZER, ROWS, range(24), bucket=8, max_length=10, policy="drop")
  assert packed.dropped == tuple(i for i in range(24) if LENGTHS[i] > 10) != ()
  assert packed.visit_ids.tolist() == [i for i in range(24) if LENGTHS[i] <= 10]
  assert len(packed.rows) == len(packed.tokens) == len(packed.lengths) == 24 - len(packed.dropped)
  none = pack_prompts(TOKENIZER, ROWS, range(24), bucket=8, max_length=2, policy="drop")
  assert none.tokens.shape == (0, 8) and none.rows == () and len(none.dropped) == 24


def test_error_names_the_row_and_its_length():
  row = ROWS[LENGTHS.index(max(LENGTHS))]
  words = f"'{row['id']}' has {max(LENGTHS)} tokens, more than max_prompt_tokens={max(LENGTHS) - 1}"
  with pytest.raises(UserError, match=words):
    pack_prompts(TOKENIZER, [row], [0], bucket=8, max_length=max(LENGTHS) - 1)


@pytest.mark.parametrize(
  ("settings", "words"),
  [({"policy": "truncate"}, "did you mean 'truncate_left'"), ({"bucket": 0}, "bucket=0"), ({"max_length": 0}, "max_length=0")],
)
def test_a_setting_out_of_range_is_refused(settings, words):
  with pytest.raises(UserError, match=words):
    pack_prompts(TOKENIZER, ROWS, range(24), **{"bucket": 8, "max_length": 64, **settings})


def test_each_row_needs_its_visit():
  with pytest.raises(ValueError, match="zip"):
    pack_prompts(TOKENIZER, ROWS, range(23), bucket=8, max_length=64)


def test_a_demonstration_follows_its_prompt_and_ends_with_the_stop():
  batch = demonstrations.batch(TOKENIZER, ROWS, length=48)
  assert batch.tokens.shape == (24, 48) and batch.tokens.dtype == np.int32
  for row, tokens, prompt, length in zip(ROWS, batch.tokens, batch.prompt_lengths, batch.lengths, strict=True):
    assert tokens[0] == BEGIN and TOKENIZER.decode(tokens[1:prompt]) == row["prompt"]
    assert TOKENIZER.decode(tokens[prompt : length - 1]) == row["demonstration"]
    assert tokens[length - 1] == END and not tokens[length:].any()


def test_a_longer_array_holds_the_same_demonstrations():
  short, long = (demonstrations.batch(TOKENIZER, ROWS, length=length) for length in (48, 80))
  assert np.array_equal(long.tokens[:, :48], short.tokens) and not long.tokens[:, 48:].any()
  assert np.array_equal(long.lengths, short.lengths) and np.array_equal(long.prompt_lengths, short.prompt_lengths)


def test_too_long_a_demonstration_tells_the_length_that_would_do():
  needed = int(demonstrations.batch(TOKENIZER, ROWS, length=200).lengths.max())
  with pytest.raises(UserError, match=f"got {needed} tokens in"):
    demonstrations.batch(TOKENIZER, ROWS, length=needed - 1)
  assert demonstrations.batch(TOKENIZER, ROWS, length=needed).lengths.max() == needed


def test_a_row_without_a_demonstration_is_named():
  with pytest.raises(UserError, match="row 'bare', got none"):
    demonstrations.batch(TOKENIZER, [{"prompt": "1+1=", "answer": "2", "id": "bare"}], length=48)
