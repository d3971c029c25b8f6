"""Laws of refill: whoever sits where and beside whom, a sample is the one that its name means.

To the bit where programs and shapes are the same. Elsewhere but for draws at a rounding's distance from a boundary, each of
which is looked at.
"""

import functools
from collections import Counter

import drawn
import jax
import numpy as np
import pytest
import tiny

from jaxreason import rollout_plan, sharding
from jaxreason.model import weights
from jaxreason.records import BUDGET, STOP_TOKEN
from jaxreason.sharding import MeshSizes

PROMPTS = drawn.prompts_of(12)


@functools.cache
def usual(lane):
  """The samples that others are compared with to the bit: 12 prompts of 4 samples through 8 slots."""
  return drawn.drawn(PROMPTS, drawn.shape(lane=lane))


@pytest.mark.parametrize("lane", [1, 2, 4])
def test_the_usual_samples_are_worth_comparing_with(lane):
  found = usual(lane).values()
  assert {written.stop for written in found} == {STOP_TOKEN, BUDGET}
  assert len({len(written.record.tokens) for written in found}) > 6
  assert len({written.record.tokens.tobytes() for written in found}) > 40
  assert drawn.check(usual(lane), PROMPTS) > 300


@pytest.mark.parametrize("lane", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_a_sample_is_the_same_to_the_bit_whatever_the_order_of_refill(lane, seed):
  """Another order puts it into another slot, lane and row of a prefill, beside others, at another time."""
  visits = np.random.default_rng(seed).permutation(list(PROMPTS)).tolist()
  order = {visit: PROMPTS[visit] for visit in visits}
  drawn.check_bits(drawn.drawn(order, drawn.shape(lane=lane, ahead=seed % 2)), usual(lane))


@pytest.mark.parametrize("lane", [1, 4])
def test_a_sample_is_the_same_to_the_bit_whatever_its_place_in_its_lane(lane):
  slots = drawn.opened(drawn.shape(lane=lane, ahead=1))
  generator = np.random.default_rng(lane)
  for visit, prompt in PROMPTS.items():
    slots.admit(visit, prompt, generator.permutation(4).tolist())
  drawn.check_bits(drawn.finish(slots, drawn.prepared()), usual(lane))


@pytest.mark.parametrize("lane", [1, 4])
@pytest.mark.parametrize("ahead", [0, 1])
def test_a_sample_is_the_same_to_the_bit_whatever_its_company(lane, ahead):
  few = dict(list(PROMPTS.items())[4:7])
  drawn.check_bits(drawn.drawn(few, drawn.shape(lane=lane, ahead=ahead)), usual(lane))
  drawn.check_bits(drawn.drawn(few, drawn.shape(lane=lane, ahead=ahead), group=1), usual(lane))
  larger = drawn.drawn(few | drawn.prompts_of(3, seed=5, longest=4), drawn.shape(lane=lane, ahead=ahead), group=6)
  drawn.check_bits({name: one for name, one in larger.items() if name in usual(lane) and name[0] in few}, usual(lane))


def test_prompts_that_come_while_others_decode_change_nothing():
  slots, found, left = drawn.opened(drawn.shape(ahead=1)), {}, list(PROMPTS.items())
  while left or slots.running or slots.waiting:
    for visit, prompt in left[:1]:
      slots.admit(visit, prompt, range(4))
    left = left[1:]
    found |= drawn.finish(slots, drawn.prepared(), chunks=1)
  drawn.check_bits(found, usual(1))
  assert len(found) == 48


MANY = drawn.prompts_of(96, seed=1)


@functools.cache
def many():
  """A few thousand tokens: one chunk's slots for all, each with its copy of the prompt."""
  return drawn.drawn(MANY, drawn.shape(384, chunk=drawn.T, prefill=(96,)))


WAYS = {
  "refilled": dict(count=24, chunk=4),
  "one token a chunk": dict(count=40, chunk=1, ahead=1),
  "long chunks": dict(count=64, chunk=9, bucket=4),
  "small buckets": dict(count=32, chunk=3, bucket=2, prompt=1, ahead=1),
  "lanes of two": dict(count=24, lane=2, chunk=5, bucket=4),
  "lanes of four": dict(count=48, lane=4, chunk=4, ahead=1, prompt=4),
  "several sizes": dict(count=32, chunk=6, insert=(4, 32), prefill=(1, 8)),
}


def test_many_samples_are_what_their_draws_mean():
  assert drawn.check(many(), MANY) > 3000


@pytest.mark.parametrize("way", WAYS)
def test_slots_chunks_lanes_and_buckets_change_no_token_without_a_reason(way):
  found = drawn.drawn(MANY, drawn.shape(**WAYS[way]))
  assert drawn.check_explained(found, many(), MANY) <= 3
  assert drawn.check(found, MANY) > 3000


@pytest.mark.parametrize(("sizes", "lane"), [(MeshSizes(8, 1, 1), 1), (MeshSizes(2, 2, 2), 4)])
def test_eight_devices_change_no_token_without_a_reason(sizes, lane):
  mesh = sharding.make_mesh(sizes, jax.devices()[:8])
  with jax.set_mesh(mesh):
    made = rollout_plan.rollout_programs(tiny.CONFIG)
    params = made.prepare(jax.device_put(tiny.params(), weights.shardings(tiny.CONFIG, mesh)))
    sizes = drawn.shape(32, lane=lane, chunk=5, insert=(8, 32), prefill=(8,), bucket=8)
    found = drawn.drawn(MANY, sizes, programs=made, params=params)
  assert drawn.check_explained(found, many(), MANY) <= 3
  assert drawn.check(found, MANY) > 3000


def test_a_difference_without_a_reason_is_found():
  """The judge of differences is judged: a token that a draw does not mean is seen, one at a boundary is explained."""
  name = (7, 0)
  one = {name: usual(1)[name]}
  told = drawn.truth(one, PROMPTS)
  tokens = one[name].record.tokens
  other = tokens.copy()
  other[2] = next(token for token in range(3, 20) if abs(token - tokens[2]) > 1)
  changed = {name: one[name]._replace(record=one[name].record.replace(tokens=other))}
  with pytest.raises(AssertionError, match="differs at token 2: the draw lies"):
    drawn.check_explained(changed, one, PROMPTS)
  with pytest.raises(AssertionError):
    drawn.check(changed, PROMPTS)
  assert told.ends[name].shape == (len(tokens), tiny.CONFIG.vocab_size)


def test_tokens_and_steps_are_counted():
  budgets = {0: 3, 1: 14, 2: 1, 3: 7}
  for ahead in (0, 1):
    slots = drawn.opened(drawn.shape(ahead=ahead))
    for visit, prompt in PROMPTS.items():
      slots.admit(visit, prompt, range(4), budgets=budgets)
    found = drawn.finish(slots, drawn.prepared())
    assert slots.tokens == sum(len(written.record.tokens) for written in found.values())
    assert slots.steps % 4 == 0
    assert slots.steps * slots.count >= slots.tokens


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("looks", [False, True])
def test_a_chunk_is_read_once_and_again_only_where_a_sample_ended_or_is_looked_at(monkeypatch, ahead, looks):
  """The host's reads of the device: (stop, lengths) of each chunk, and its record where there is a reason."""
  reads, chunks, fetch = Counter(), 0, jax.device_get

  def counted(tree):
    reads["record" if hasattr(tree, "logprobs") else "report"] += 1
    assert hasattr(tree, "logprobs") or len(tree) == 2
    return fetch(tree)

  monkeypatch.setattr(jax, "device_get", counted)
  slots = drawn.opened(drawn.shape(chunk=2, ahead=ahead), cut=(lambda tokens, seen: None) if looks else None)
  for visit, prompt in PROMPTS.items():
    slots.admit(visit, prompt, range(4))
  told = 0
  while slots.running or slots.waiting:
    ended = slots.chunk(drawn.prepared(), 0)
    chunks, told = chunks + 1, told + bool(ended)
    for written in ended:
      slots.release(written.name)
  assert reads["report"] == chunks - ahead
  assert reads["record"] == (chunks - ahead if looks else told)
  assert told < chunks - ahead
