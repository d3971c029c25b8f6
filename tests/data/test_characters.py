"""The character tokenizer: round trips, its ids, and what it refuses."""

import json

import numpy as np
import pytest

from jaxreason.data.characters import BEGIN, END, PAD, characters, load_characters
from jaxreason.data.tasks import running_sums
from jaxreason.errors import UserError


def test_every_text_of_the_alphabet_comes_back():
  tokenizer = characters(running_sums.ALPHABET)
  for row in running_sums.rows("train", 200, 0):
    text = row["prompt"] + row["demonstration"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_are_the_special_ones_and_then_the_alphabet_in_order():
  tokenizer = characters("ba é")
  assert tokenizer.encode("ba é") == [3, 4, 5, 6]
  assert tokenizer.render("ab") == [BEGIN, 4, 3]
  assert (tokenizer.pad_id, tokenizer.stop_ids, tokenizer.vocab_size) == (PAD, (END,), 7)


def test_decode_drops_the_last_stop_token_and_shows_every_other_special_id():
  tokenizer = characters("ab")
  assert tokenizer.decode(np.array([3, 4, END], np.int32)) == "ab"
  assert tokenizer.decode(np.array([3, PAD, BEGIN, 4, END], np.int32)) == "a\ufffd\ufffdb"
  assert tokenizer.decode([3, 63]) == "a\ufffd"


@pytest.mark.parametrize("use", ["encode", "render"])
def test_a_character_outside_is_named(use):
  with pytest.raises(UserError, match=r"character 'x' is outside the alphabet 'ab'"):
    (characters("ab").encode if use == "encode" else characters("ab").render)("abx")


def test_messages_are_refused():
  with pytest.raises(UserError, match="expected a str prompt, got list"):
    characters("ab").render([{"role": "user", "content": "a"}])


@pytest.mark.parametrize(("alphabet", "words"), [("", "at least one character"), ("aba", "'a' more than once")])
def test_a_bad_alphabet_is_refused(alphabet, words):
  with pytest.raises(UserError, match=words):
    characters(alphabet)


def test_saved_and_loaded_it_is_the_same_tokenizer(tmp_path):
  tokenizer = characters("abé\n😀")
  tokenizer.save(tmp_path / "new" / "folder")
  again = load_characters(tmp_path / "new" / "folder")
  assert again.fingerprint == tokenizer.fingerprint
  assert again.encode("😀\né") == tokenizer.encode("😀\né")


def test_fingerprints_differ_with_the_alphabet_and_its_order():
  assert len({characters(alphabet).fingerprint for alphabet in ("ab", "ba", "abc")}) == 3


@pytest.mark.parametrize("content", ["{", "{}", "[1]", json.dumps({"alphabet": 3})])
def test_a_file_that_is_not_ours_is_one_line(tmp_path, content):
  (tmp_path / "characters.json").write_text(content)
  with pytest.raises(UserError, match=r"characters\.json") as caught:
    load_characters(tmp_path)
  assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
  with pytest.raises(UserError, match="No such file"):
    load_characters(tmp_path / "nowhere")
