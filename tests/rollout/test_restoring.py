"""Laws of restoring: a sample that is taken out and put back goes on as if nothing had been, under the weights of the day."""

import functools

import drawn
import numpy as np
import pytest
import test_replies
import tiny

from jaxreason.records import RUNNING

PROMPTS = drawn.prompts_of(10, seed=4)
SIZES = dict(budget=30)
STOPS = (tiny.STOP,)


@functools.cache
def usual():
  """Without interruption."""
  return drawn.drawn(PROMPTS, drawn.shape(**SIZES), stop_ids=STOPS)


def admitted(slots):
  for visit, prompt in PROMPTS.items():
    slots.admit(visit, prompt, range(4))
  return slots


def put_back(slots, going, names=()):
  """In line again: samples behind what they have written, and names of others that have not begun."""
  for visit in PROMPTS:
    written = [one for one in going if one.visit == visit]
    left = sorted([one.sample for one in written] + [sample for at, sample in names if at == visit])
    if left:
      slots.admit(visit, PROMPTS[visit], left, written)


def taken_out(slots, found):
  """What is on its way, out of its slots; what had ended goes to what was found."""
  ended, going = slots.so_far()
  for written in ended:
    assert written.name not in found
    found[written.name] = written
  assert not found.keys() & {one.name for one in going}
  assert all(one.stop == RUNNING for one in going)
  slots.unload()
  return going


def interrupted(sizes, every, *, ahead=0):
  """The samples, taken out and put back every so many chunks."""
  slots, found = admitted(drawn.opened(drawn.shape(**SIZES, ahead=ahead, **sizes), stop_ids=STOPS)), {}
  times = 0
  while slots.running or slots.waiting:
    found |= drawn.finish(slots, drawn.prepared(), chunks=every)
    put_back(slots, taken_out(slots, found))
    times += 1
  assert times > 2
  assert slots.tokens == sum(len(written.record.tokens) for written in found.values())
  return found


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("sizes", [dict(), dict(lane=2, chunk=3, bucket=8), dict(count=5, insert=(2, 5), chunk=5)])
def test_a_sample_that_is_taken_out_and_put_back_is_the_same(sizes, ahead):
  found = interrupted(sizes, every=3, ahead=ahead)
  assert drawn.check_explained(found, usual(), PROMPTS, stop_ids=STOPS) <= 2
  assert drawn.check(found, PROMPTS, budget=30, stop_ids=STOPS) > 500


@pytest.mark.parametrize(
  ("before", "after"),
  [(dict(), dict(count=12, lane=4)), (dict(lane=4, ahead=1), dict(count=3)), (dict(count=40), dict(lane=2, ahead=1, chunk=1))],
)
def test_samples_go_on_in_another_number_of_slots(before, after):
  slots, found = admitted(drawn.opened(drawn.shape(**SIZES, **before), stop_ids=STOPS)), {}
  found |= drawn.finish(slots, drawn.prepared(), chunks=3)
  going = taken_out(slots, found)
  assert going
  other = drawn.opened(drawn.shape(**SIZES, **after), stop_ids=STOPS)
  put_back(other, going, usual().keys() - found.keys() - {one.name for one in going})
  found |= drawn.finish(other, drawn.prepared())
  assert drawn.check_explained(found, usual(), PROMPTS, stop_ids=STOPS) <= 2
  assert drawn.check(found, PROMPTS, budget=30, stop_ids=STOPS) > 500


@pytest.mark.parametrize("kind", [dict(), dict(lane=2, ahead=1), dict(count=6, chunk=3, bucket=16, ahead=1)])
def test_after_a_refresh_all_that_is_written_is_the_new_policys(kind):
  slots, found, since = admitted(drawn.opened(drawn.shape(**SIZES, **kind), stop_ids=STOPS)), {}, {}
  before = drawn.finish(slots, drawn.prepared(), version=3, chunks=4)
  going = taken_out(slots, before)
  since = {one.name: len(one.record.tokens) for one in going}
  put_back(slots, going)
  found = drawn.finish(slots, drawn.prepared(seed=1), version=4)
  assert drawn.check(before, PROMPTS, budget=30, stop_ids=STOPS) >= 10
  assert drawn.check(found, PROMPTS, budget=30, stop_ids=STOPS, params=tiny.params(seed=1), since=since) > 300
  assert max(since.values()) > 8
  for one in going:
    n, record = since[one.name], found[one.name].record
    for field, values in one.record.kept.items():
      np.testing.assert_array_equal(getattr(record, field)[:n], values)
    np.testing.assert_array_equal(record.versions, [3] * n + [4] * (len(record.tokens) - n))
  assert before.keys() | found.keys() == usual().keys()


def test_without_a_refresh_a_sample_goes_on_with_the_keys_it_has():
  """Under new weights, on the old keys: its numbers are neither policy's. The check sees it."""
  slots = admitted(drawn.opened(drawn.shape(count=40, budget=30), stop_ids=STOPS))
  drawn.finish(slots, drawn.prepared(), chunks=2)
  found = drawn.finish(slots, drawn.prepared(seed=1), version=1)
  with pytest.raises(AssertionError):
    drawn.check(found, PROMPTS, budget=30, stop_ids=STOPS, params=tiny.params(seed=1), since=dict.fromkeys(found, 8))


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("give_up", [False, True])
@pytest.mark.parametrize("unload", [False, True])
def test_a_reply_that_was_not_fed_yet_is_not_lost(ahead, give_up, unload):
  """Looked at between a reply and the next chunk, a sample is behind it, in its slot or in line; none ends twice."""
  said, found, behind = test_replies, {}, 0
  slots = drawn.opened(said.sizes(count=6, ahead=ahead), stop_ids=said.STOPS)
  for visit, prompt in said.PROMPTS.items():
    slots.admit(visit, prompt, range(4))

  def told(written):
    if not said.goes_on(written):
      slots.release(written.name)
      assert written.name not in found
      found[written.name] = written
      return
    if give_up:
      slots.release(written.name)
    slots.reply(written, said.PROMPTS[written.visit], said.words(written.name, said.turns(written)))

  chunk = 0
  while slots.running or slots.waiting:
    ended, chunk = slots.chunk(drawn.prepared(), 0), chunk + 1
    for written in ended:
      told(written)
    if chunk % 3:
      continue
    more, going = slots.so_far()
    assert {one.name for one in ended if said.goes_on(one)} <= {one.name for one in going}
    behind += sum(not one.record.own[-1] for one in going)
    for written in more:
      told(written)
    more, going = slots.so_far()
    assert not more
    assert len({one.name for one in going}) == len(going)
    behind += sum(not one.record.own[-1] for one in going)
    if unload:
      slots.unload()
      for one in going:
        slots.admit(one.visit, said.PROMPTS[one.visit], [one.sample], [one])
  assert behind > 15
  said.check_said(found)
  assert drawn.check_explained(found, said.usual(), said.PROMPTS, stop_ids=said.STOPS) <= 2


def test_a_sample_that_begins_under_new_weights_reads_its_prompt_under_them():
  """Two slots for a group of six: four begin after the change, with nothing of the older policy behind them."""
  slots = drawn.opened(drawn.shape(2, budget=8), stop_ids=())
  visit = next(iter(PROMPTS))
  slots.admit(visit, PROMPTS[visit], range(6))
  old = drawn.finish(slots, drawn.prepared(), chunks=2)
  new = drawn.finish(slots, drawn.prepared(seed=1), version=1)
  assert (len(old), len(new)) == (2, 4)
  assert all((one.record.versions == 1).all() for one in new.values())
  assert drawn.check(new, PROMPTS, budget=8, stop_ids=(), params=tiny.params(seed=1)) == 32
