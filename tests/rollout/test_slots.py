"""Laws of a rollout: it is the model and the sampler and nothing else, whatever the slots, chunks and buckets.

P prompts x G samples = B slots, T completion budget.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxreason import policy
from jaxreason.assemble import join
from jaxreason.errors import UserError
from jaxreason.model import decoder
from jaxreason.records import BUDGET, STOP_TOKEN
from jaxreason.rollout.config import RolloutConfig, Shape, bucketed, width
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.slots import Slots, Written

P, TP, T = 4, 6, 10
PROMPTS = tiny.tokens(0, P, TP)
LENGTHS = np.array([6, 1, 3, 5], np.int32)
VISITS = np.array([7, 0, 2**31 - 1, 12], np.int32)
ROOT = jax.random.key(3)
STOPS = (tiny.STOP, 12, 19)  # several, so that a random model stops often


class Done(NamedTuple):
  """What a rollout left, on the host; row p·G + g is sample g of prompt p."""

  tokens: np.ndarray  # [B, T]
  logprobs: np.ndarray  # [B, T]
  log_mass: np.ndarray  # [B, T]
  lengths: np.ndarray  # [B]
  stop: np.ndarray  # [B]
  versions: np.ndarray  # [B, T]
  own: np.ndarray  # [B, T]
  told: list[list[Written]]  # what each chunk said had ended, where one had
  steps: int


@functools.cache
def prepared():
  return tiny.rollout_programs().prepare(tiny.params())


def shape(count=2 * P, group=2, lane=2, chunk=4, bucket=8, budget=T, ahead=0) -> Shape:
  return Shape(count, lane, budget, chunk, (min(2, count), count), (1, -(-count // group)), 8, bucket, ahead)


def rollout(rows=range(P), group=2, count=None, stop_ids=STOPS, version=5, visits=VISITS, cut=None, sizes=None, **kind) -> Done:
  """Samples from some of the prompts."""
  rows, sizes = list(rows), dict(lane=group) | (sizes or {})
  sizes = shape(count or len(rows) * group, group, **sizes)
  slots = Slots(tiny.rollout_programs(), sizes, Draw(ROOT, stop_ids, **kind), cut)
  for row in rows:
    slots.admit(int(visits[row]), PROMPTS[row, : LENGTHS[row]], range(group))
  told = tiny.finish(slots, prepared(), version)
  found = {written.name: written for ended in told for written in ended}
  order = [found[int(visits[row]), sample] for row in rows for sample in range(group)]
  assert len(found) == len(order) == sum(map(len, told))
  wide = {name: np.zeros((len(order), sizes.budget), values.dtype) for name, values in order[0].record.kept.items()}
  for row, written in enumerate(order):
    for name, values in written.record.kept.items():
      wide[name][row, : len(values)] = values
  lengths = np.array([len(written.record.tokens) for written in order])
  return Done(lengths=lengths, stop=np.array([written.stop for written in order]), told=told, steps=slots.steps, **wide)


@functools.cache
def usual():
  """The rollout that the others are compared with: temperature 1."""
  return rollout()


def same(one: Done, other: Done, rows=slice(None)):
  """Token for token; the log-probs up to the rounding of other shapes."""
  for name in ("tokens", "lengths", "stop"):
    np.testing.assert_array_equal(getattr(one, name), getattr(other, name)[rows])
  np.testing.assert_allclose(one.logprobs, other.logprobs[rows], rtol=1e-5, atol=1e-5)


def sequences(done: Done, group=2):
  """[B, TP + T] tokens, prompt lengths and lengths of prompt and completion."""
  prompt_lengths = np.repeat(LENGTHS, group)
  tokens = jax.jit(join)(np.repeat(PROMPTS, group, 0), prompt_lengths, done.tokens, done.lengths)
  return np.asarray(tokens), prompt_lengths, prompt_lengths + done.lengths


def test_the_usual_rollout_is_worth_comparing_with():
  """It has ragged lengths and both reasons to stop."""
  assert set(usual().stop) == {STOP_TOKEN, BUDGET}
  assert len(set(usual().lengths)) > 2
  assert len({tuple(row) for row in usual().tokens}) == len(usual().tokens)


def test_greedy_decoding_is_step_by_step_argmax_of_the_full_forward():
  done = rollout(group=1, temperature=0.0)
  columns = np.tile(np.arange(TP + T, dtype=np.int32), (P, 1))

  @jax.jit
  def best(params, tokens, at):
    hidden = decoder.apply(params, tiny.CONFIG, tokens, columns).hidden
    logits = decoder.unembed(params, tiny.CONFIG, jnp.take_along_axis(hidden, at[:, None, None], 1)[:, 0])
    return jnp.argmax(logits, -1)

  tokens, rows = np.pad(PROMPTS, ((0, 0), (0, T))), np.arange(P)
  expected, live = np.zeros((P, T), np.int32), np.ones(P, bool)
  for step in range(T):
    chosen = np.asarray(best(tiny.params(), tokens, LENGTHS - 1 + step))
    tokens[rows, LENGTHS + step] = chosen
    expected[live, step] = chosen[live]
    live &= ~np.isin(chosen, STOPS)
  np.testing.assert_array_equal(done.tokens, expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_are_those_of_the_policy_at_every_token(temperature):
  done = usual() if temperature == 1 else rollout(temperature=temperature)
  tokens, prompt_lengths, lengths = sequences(done)
  compute = jax.jit(functools.partial(policy.completion_logprobs, config=tiny.CONFIG, width=T))
  expected, _ = compute(tiny.params(), tokens=tokens, prompt_lengths=prompt_lengths, lengths=lengths, temperature=temperature)
  written = np.arange(T)[None] < done.lengths[:, None]
  last = np.take_along_axis(done.tokens, done.lengths[:, None] - 1, 1)[:, 0]
  np.testing.assert_array_equal(np.isin(last, STOPS), done.stop == STOP_TOKEN)
  np.testing.assert_allclose(done.logprobs[written], np.asarray(expected)[written], atol=1e-5)
  assert not done.logprobs[~written].any()
  assert not done.log_mass.any()


def test_tokens_do_not_depend_on_chunk_and_bucket():
  same(rollout(sizes=dict(chunk=10, bucket=64)), usual())
  same(rollout(sizes=dict(chunk=3, bucket=64)), usual())
  same(rollout(sizes=dict(chunk=1, bucket=1)), usual())


def test_tokens_do_not_depend_on_the_order_of_the_slots():
  order = [2, 0, 3, 1]
  slots = np.arange(2 * P).reshape(P, 2)[order].reshape(-1)
  same(rollout(rows=order), usual(), slots)


def test_tokens_do_not_depend_on_the_company_of_other_prompts_and_samples():
  same(rollout(rows=[2]), usual(), [4, 5])
  larger = rollout(group=3)
  same(usual(), larger, np.arange(3 * P).reshape(P, 3)[:, :2].reshape(-1))


def test_another_visit_of_the_same_prompt_draws_anew():
  other = rollout(visits=VISITS.astype(np.int64) + 1)
  assert (other.tokens != usual().tokens).any(axis=1).all()


def test_a_group_shares_one_prefill_and_each_sample_sees_its_prompt():
  greedy = rollout(temperature=0.0)
  np.testing.assert_array_equal(greedy.tokens[0::2], greedy.tokens[1::2])
  np.testing.assert_array_equal(greedy.tokens[0::2], rollout(group=1, temperature=0.0).tokens)
  calls = []
  made = tiny.rollout_programs()
  counted = made._replace(extend=lambda params, tokens, *rest: calls.append(tokens.shape) or made.extend(params, tokens, *rest))
  slots = Slots(counted, shape(count=3, lane=1), Draw(ROOT, STOPS))
  for row in range(P):
    slots.admit(row, PROMPTS[row, : LENGTHS[row]], range(2))
  tiny.finish(slots, prepared(), 0)
  assert sum(shape[0] for shape in calls) == P


def test_a_sample_may_end_with_its_first_token():
  done = rollout(stop_ids=tuple(range(tiny.CONFIG.vocab_size)))
  assert (done.lengths == 1).all()
  assert (done.stop == STOP_TOKEN).all()
  np.testing.assert_array_equal(done.tokens[:, 0], usual().tokens[:, 0])
  assert len(done.told) == 1


def test_a_sample_without_a_stop_token_ends_at_its_budget():
  done = rollout(stop_ids=(-1,))
  assert (done.lengths == T).all()
  assert (done.stop == BUDGET).all()
  first = usual().lengths[:, None] > np.arange(T)
  np.testing.assert_array_equal(done.tokens[first], usual().tokens[first])


def test_a_stop_token_in_the_last_place_of_the_budget_is_a_stop():
  short = int(usual().lengths[usual().stop == STOP_TOKEN].max())
  done = rollout(sizes=dict(budget=short))
  slot = np.flatnonzero((usual().stop == STOP_TOKEN) & (usual().lengths == short))[0]
  assert done.stop[slot] == STOP_TOKEN
  assert done.lengths[slot] == short


def test_every_token_bears_its_policys_version_and_is_its_own():
  done = usual()
  written = np.arange(T)[None] < done.lengths[:, None]
  assert (done.versions[written] == 5).all()
  assert done.own[written].all()


def test_each_sample_is_told_once_in_the_chunk_in_which_it_ends():
  told = usual().told
  names = [written.name for ended in told for written in ended]
  assert sorted(names) == sorted((int(visit), sample) for visit in VISITS for sample in range(2))
  chunks = [{-(-len(written.record.tokens) // 4) for written in ended} for ended in told]
  assert all(len(one) == 1 for one in chunks)
  assert [chunk for one in chunks for chunk in one] == sorted({-(-length // 4) for length in usual().lengths})


def test_a_truncated_sampler_records_the_mass_that_it_kept():
  done = rollout(top_k=2)
  written = np.arange(T)[None] < done.lengths[:, None]
  assert (done.log_mass[written] < 0).all()
  assert (done.logprobs[written] <= done.log_mass[written] + 1e-6).all()


def test_a_hundred_ragged_steps_compile_each_program_once_per_bucket():
  """Other prompts, lengths and versions, but the same shapes: nothing is compiled again."""
  tiny.rollout_programs.cache_clear()
  made, widths = tiny.rollout_programs(), set()

  def insert(state, prefix, rows, *rest, slots, prefix_slots, **kind):
    had = state and state.cache.keys[0].shape
    widths.add((had, prefix.keys[0].shape, len(rows.slot), slots, prefix_slots))
    return made.insert(state, prefix, rows, *rest, slots=slots, prefix_slots=prefix_slots, **kind)

  generator = np.random.default_rng(0)
  slots = Slots(made._replace(insert=insert), shape(count=4, lane=1, bucket=4), Draw(ROOT, STOPS))
  with tiny.compilations() as compiled:
    for step in range(100):
      params = made.prepare(tiny.params())
      for visit in range(3 * step, 3 * step + 3):
        slots.admit(visit, tiny.tokens(visit, int(generator.integers(1, 9))), range(2))
      tiny.finish(slots, params, step)
  # Prompts of up to 8 tokens prefilled one or two at a time, with 4 to 10 tokens behind them: caches of 12, 16 and 24 slots.
  counts = {name: compiled.count(f"jit({name})") for name in ("prepare_rollout_params", "extend", "insert", "decode")}
  assert counts == {"prepare_rollout_params": 1, "extend": 2, "insert": len(widths), "decode": 3}
  assert len(compiled) == sum(counts.values())


def test_buckets_hold_what_they_must_and_are_few():
  found = [bucketed(length, 8) for length in range(1, 1025)]
  assert all(length <= bucket for length, bucket in zip(range(1, 1025), found, strict=True))
  assert sorted(set(found)) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
  assert bucketed(0, 8) == 8
  fine = [bucketed(length, 8, steps=4) for length in range(1, 257)]
  assert all(length <= bucket < max(1.25 * length, length + 8) for length, bucket in zip(range(1, 257), fine, strict=True))
  assert sorted(set(fine)) == [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256]


def test_the_width_of_a_batch_is_a_bucket_within_the_budget():
  assert [width(longest, 4, 10) for longest in (0, 1, 4, 5, 9, 10)] == [4, 4, 4, 8, 10, 10]


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (dict(group=0), "rollout.group expected at least 1, got 0"),
    (dict(temperature=0.0), "rollout.temperature expected > 0"),
    (dict(top_p=0.0), r"top_p in \(0, 1\]"),
    (dict(min_p=1.0), r"min_p in \[0, 1\)"),
    (dict(stop_strings='["a", 1]'), "stop_strings expected a text or a JSON list of texts"),
    (dict(max_staleness=1, oversample=2.0), "oversample expected 1 with max_staleness=1, got 2.0"),
    (dict(turn_discount=0.9), "turn_discount expected 1 without an environment, got 0.9"),
    (dict(long_prompts="cut"), "rollout.long_prompts expected truncate_left, drop or error, got 'cut'"),
  ],
)
def test_a_wrong_setting_is_told_in_one_line(changes, told):
  with pytest.raises(UserError, match=told) as error:
    RolloutConfig(**changes)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("text", "stops"),
  [("", ()), ("\n\n", ("\n\n",)), ('["\\n\\nQ:", "###"]', ("\n\nQ:", "###"))],
)
def test_stop_strings_are_a_text_or_a_list(text, stops):
  assert RolloutConfig(stop_strings=text).stops == stops
