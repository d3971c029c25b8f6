"""Laws of stop strings: a sample ends exactly where one is complete, wherever chunks end, and nobody else sees it."""

import functools
import itertools

import drawn
import numpy as np
import pytest
import test_replies

from jaxreason.answers import stop_finder
from jaxreason.data.characters import characters
from jaxreason.records import BUDGET, STOP_STRING, STOP_TOKEN

PROMPTS = drawn.prompts_of(32, seed=6)
TOKENIZER = characters("abcdefghijklmnopqrstu")  # with those that pad, begin and end, the tiny vocabulary
STRINGS = (*("".join(pair) for pair in itertools.product("abcdef", "ghijkl")), "m", "nop", "qr")
CUT = stop_finder(TOKENIZER, STRINGS)


@functools.cache
def whole(chunk=4, lane=1):
  """Samples that no string ends."""
  return drawn.drawn(PROMPTS, drawn.shape(16, chunk=chunk, lane=lane))


@functools.cache
def ends(name) -> int | None:
  """Tokens up to the end of the first string, found the slow way."""
  tokens = whole()[name].record.tokens.tolist()
  texts = (TOKENIZER.decode(tokens[:count]) for count in range(1, len(tokens) + 1))
  return next((count for count, text in enumerate(texts, 1) if any(string in text for string in STRINGS)), None)


def check_cut(found, expected):
  """Each sample is the whole one up to its string, to the bit, or all of it."""
  for name, written in found.items():
    kept = ends(name)
    record = expected[name].record
    wanted = expected[name] if kept is None else expected[name]._replace(
      stop=STOP_STRING, record=type(record)(*(values[:kept] for values in record.kept.values()))
    )  # fmt: skip
    drawn.check_bits({name: written}, {name: wanted})


def test_the_samples_have_strings_of_every_kind():
  """Across a border, in a stop token's chunk, at the budget's end, in the first token, and none."""
  found = {name: (ends(name), len(one.record.tokens), one.stop) for name, one in whole().items()}
  cut = {name: told for name, told in found.items() if told[0] is not None}
  assert 30 < len(cut) < len(found) - 10
  assert any(kept % 4 == 1 and kept > 4 for kept, _, _ in cut.values())
  assert any(stop == STOP_TOKEN and (kept - 1) // 4 == (length - 1) // 4 for kept, length, stop in cut.values())
  assert any(stop == BUDGET and kept == length for kept, length, stop in cut.values())
  assert any(kept == 1 for kept, _, _ in cut.values())


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("chunk", [1, 3, 4, 14])
def test_a_sample_ends_where_its_string_is_complete(chunk, ahead):
  found = drawn.drawn(PROMPTS, drawn.shape(16, chunk=chunk, ahead=ahead), cut=CUT)
  check_cut(found, whole(chunk))


@pytest.mark.parametrize("lane", [2, 4])
def test_a_sample_in_a_lane_ends_where_its_string_is_complete(lane):
  check_cut(drawn.drawn(PROMPTS, drawn.shape(16, lane=lane, ahead=1), cut=CUT), whole(4, lane))


@pytest.mark.parametrize("ahead", [0, 1])
def test_what_a_slot_writes_behind_a_string_is_not_counted(ahead):
  slots = drawn.opened(drawn.shape(16, chunk=3, ahead=ahead), cut=CUT)
  for visit, prompt in PROMPTS.items():
    slots.admit(visit, prompt, range(4))
  found = drawn.finish(slots, drawn.prepared())
  assert slots.tokens == sum(len(written.record.tokens) for written in found.values())


def test_a_sample_that_was_put_back_ends_where_its_string_is_complete():
  slots, found = drawn.opened(drawn.shape(16, chunk=1), cut=CUT), {}
  for visit, prompt in PROMPTS.items():
    slots.admit(visit, prompt, range(4))
  while slots.running or slots.waiting:
    found |= drawn.finish(slots, drawn.prepared(), chunks=5)
    ended, going = slots.so_far()
    assert not ended
    slots.unload()
    for one in going:
      slots.admit(one.visit, PROMPTS[one.visit], [one.sample], [one])
  assert {name: len(one.record.tokens) for name, one in found.items() if one.stop == STOP_STRING} == {
    name: ends(name) for name in whole() if ends(name) is not None
  }
  assert drawn.check_explained({name: one for name, one in found.items() if ends(name) is None}, _uncut(), PROMPTS) == 0


def _uncut():
  return {name: one for name, one in whole().items() if ends(name) is None}


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_sample_goes_on_behind_its_string(ahead, at_once):
  """The slot has run on past it; the sample begins again behind what counts, and strings in a reply end nothing."""
  slots = drawn.opened(drawn.shape(8, budget=44, chunk=3, ahead=ahead), cut=CUT)
  for visit, prompt in PROMPTS.items():
    slots.admit(visit, prompt, range(2))
  replied, said = 0, np.array(TOKENIZER.encode("agm" + "u" * 5), np.int32)

  def answer(written):
    nonlocal replied
    if written.stop != STOP_STRING or test_replies.turns(written) or len(written.record.tokens) + len(said) >= 44:
      return False
    if not at_once:
      slots.release(written.name)
    slots.reply(written, PROMPTS[written.visit], said)
    replied += 1
    return True

  found = drawn.finish(slots, drawn.prepared(), answer=answer)
  assert replied > 15
  assert drawn.check(found, PROMPTS, budget=44) > 200
  for written in found.values():
    own, count = written.record.own, test_replies.turns(written)
    np.testing.assert_array_equal(written.record.tokens[~own], np.tile(said, count))
    text = TOKENIZER.decode(written.record.tokens[len(own) - np.argmin(own[::-1]) if count else 0 :].tolist())
    assert any(text.endswith(string) for string in STRINGS) == (written.stop == STOP_STRING)
