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

from jaxreason import policy, sampling
from jaxreason.assemble import join
from jaxreason.errors import UserError
from jaxreason.model import decoder
from jaxreason.records import BUDGET, RUNNING, STOP_TOKEN
from jaxreason.rollout import engine

P, TP, T = 4, 6, 10
PROMPTS = tiny.tokens(0, P, TP)
LENGTHS = np.array([6, 1, 3, 5], np.int32)
VISITS = np.array([7, 0, 2**31 - 1, 12], np.int32)
ROOT = jax.random.key(3)
STOPS = (tiny.STOP, 12, 19)  # several, so that a random model stops often


class Done(NamedTuple):
  """What a rollout left, on the host."""

  tokens: np.ndarray  # [B, T]
  logprobs: np.ndarray  # [B, T]
  log_mass: np.ndarray  # [B, T]
  lengths: np.ndarray  # [B]
  stop: np.ndarray  # [B]
  versions: np.ndarray  # [B, T]
  told: list  # (slots, tokens, lengths, stop) of each call of on_finished


@functools.cache
def prepared():
  return tiny.rollout_programs().prepare(tiny.params())


def rollout(
  rows=range(P), group=2, budget=T, chunk=4, bucket=8, stop_ids=STOPS, version=5, made=None, chosen=None, **kind
) -> Done:
  """Samples from some of the prompts."""
  rows, told = list(rows), []
  wave = engine.Wave(PROMPTS[rows], LENGTHS[rows], VISITS[rows], group, budget)
  state = engine.run(
    made or tiny.rollout_programs(), prepared(), wave, chosen or engine.uniform_sampling(len(rows) * group, **kind),
    root=ROOT, version=version, stop_ids=stop_ids, chunk=chunk, cache_bucket=bucket,
    on_finished=lambda *event: told.append(event),
  )  # fmt: skip
  return Done(*(np.asarray(getattr(state, name)) for name in Done._fields[:-1]), told)


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
  same(rollout(chunk=10, bucket=64), usual())
  same(rollout(chunk=3, bucket=64), usual())


def test_tokens_do_not_depend_on_the_order_of_the_slots():
  order = [2, 0, 3, 1]
  slots = np.arange(2 * P).reshape(P, 2)[order].reshape(-1)
  same(rollout(rows=order), usual(), slots)


def test_tokens_do_not_depend_on_the_company_of_other_prompts_and_samples():
  same(rollout(rows=[2]), usual(), [4, 5])
  larger = rollout(group=3)
  same(usual(), larger, np.arange(3 * P).reshape(P, 3)[:, :2].reshape(-1))


def test_another_visit_of_the_same_prompt_draws_anew():
  wave = engine.Wave(PROMPTS, LENGTHS, VISITS + 1 - 2 * (VISITS > 100), 2, T)
  state = engine.run(
    tiny.rollout_programs(), prepared(), wave, engine.uniform_sampling(2 * P), root=ROOT, version=0,
    stop_ids=STOPS, chunk=4, cache_bucket=8, on_finished=lambda *event: None,
  )  # fmt: skip
  assert (np.asarray(state.tokens) != usual().tokens).any(axis=1).all()


def test_a_group_shares_one_prefill_and_each_sample_sees_its_prompt():
  cache = tiny.rollout_programs().prefill(prepared(), PROMPTS, LENGTHS)
  assert cache.positions.shape == (P, TP)
  np.testing.assert_array_equal(cache.used, LENGTHS - 1)
  np.testing.assert_array_equal((np.asarray(cache.positions) >= 0).sum(1), LENGTHS - 1)
  greedy = rollout(temperature=0.0)
  np.testing.assert_array_equal(greedy.tokens[0::2], greedy.tokens[1::2])
  np.testing.assert_array_equal(greedy.tokens[0::2], rollout(group=1, temperature=0.0).tokens)


def test_a_sample_may_end_with_its_first_token():
  done = rollout(stop_ids=tuple(range(tiny.CONFIG.vocab_size)))
  assert (done.lengths == 1).all()
  assert (done.stop == STOP_TOKEN).all()
  np.testing.assert_array_equal(done.tokens[:, 0], usual().tokens[:, 0])
  assert not done.tokens[:, 1:].any()
  assert len(done.told) == 1


def test_a_sample_without_a_stop_token_ends_at_its_budget():
  done = rollout(stop_ids=(-1,))
  assert (done.lengths == T).all()
  assert (done.stop == BUDGET).all()
  first = usual().lengths[:, None] > np.arange(T)
  np.testing.assert_array_equal(done.tokens[first], usual().tokens[first])


def test_a_stop_token_in_the_last_place_of_the_budget_is_a_stop():
  short = int(usual().lengths[usual().stop == STOP_TOKEN].max())
  done = rollout(budget=short)
  slot = np.flatnonzero((usual().stop == STOP_TOKEN) & (usual().lengths == short))[0]
  assert done.stop[slot] == STOP_TOKEN
  assert done.lengths[slot] == short


def test_what_lies_behind_the_end_is_blank_and_every_token_bears_its_policys_version():
  done = usual()
  behind = np.arange(T)[None] >= done.lengths[:, None]
  assert not done.tokens[behind].any()
  assert not done.versions[behind].any()
  assert (done.versions[~behind] == 5).all()


def test_each_sample_is_handed_over_once_when_it_has_ended():
  told = usual().told
  assert sorted(slot for event in told for slot in event[0]) == list(range(2 * P))
  for slots, tokens, lengths, stop in told:
    assert (stop[slots] != RUNNING).all()
    np.testing.assert_array_equal(tokens[slots], usual().tokens[slots])
    np.testing.assert_array_equal(lengths[slots], usual().lengths[slots])
  chunks = [-(-int(usual().lengths[event[0]].max()) // 4) for event in told]
  assert chunks == sorted(set(chunks))


def test_slots_with_their_own_budgets_and_parameters():
  """Rows of one batch decode greedily, truncated or freely, to budgets of their own, each as it would in uniform company."""
  made, kinds = tiny.rollout_programs(), [dict(temperature=0.0), dict(top_k=3), dict(), dict(temperature=0.5, top_p=0.9)]
  each = [engine.uniform_sampling(P * 2, **kind) for kind in kinds]
  kind = np.arange(2 * P) % len(kinds)
  mixed = sampling.Sampling(*(np.choose(kind, parts) for parts in zip(*each, strict=True)))
  budgets = np.array([T, 3, T, 5, 1, T, 7, T], np.int32)
  state = made.begin(
    made.prefill(prepared(), PROMPTS, LENGTHS), PROMPTS, LENGTHS, VISITS, ROOT, np.int32(0), mixed, budgets,
    np.array(STOPS, np.int32), group=2, budget=T, slots=16,
  )  # fmt: skip
  for _ in range(3):
    state = made.decode(prepared(), state, steps=4, truncate=True)
  for number, chosen in enumerate(each):
    alone = rollout(chosen=chosen, bucket=16)
    for slot in np.flatnonzero(kind == number):
      length = min(int(budgets[slot]), int(alone.lengths[slot]))
      assert int(state.lengths[slot]) == length
      np.testing.assert_array_equal(state.tokens[slot, :length], alone.tokens[slot, :length])
      ended = length == alone.lengths[slot] and alone.stop[slot] == STOP_TOKEN
      assert int(state.stop[slot]) == (STOP_TOKEN if ended else BUDGET)


def test_a_truncated_sampler_records_the_mass_that_it_kept():
  done = rollout(top_k=2)
  written = np.arange(T)[None] < done.lengths[:, None]
  assert (done.log_mass[written] < 0).all()
  assert (done.logprobs[written] <= done.log_mass[written] + 1e-6).all()


def test_two_waves_compile_each_program_once_per_bucket():
  """Other prompts, lengths, temperatures, versions and stop tokens, but the same shapes: nothing is compiled again.

  6 prompt columns and 4, 8 or 10 tokens need 12, 16 and 16 slots: two buckets.
  """
  tiny.rollout_programs.cache_clear()
  with tiny.compilations() as compiled:
    rollout(bucket=4, stop_ids=(-1, -1, -1))
  assert sorted(compiled) == ["jit(begin)", "jit(decode)", "jit(decode)", "jit(grow)", "jit(prefill)"]
  with tiny.compilations() as compiled:
    rollout(rows=[1, 3, 2, 0], bucket=4, temperature=0.6, version=9)
  assert compiled == []


def test_the_width_of_a_batch_is_a_bucket_within_the_budget():
  assert [engine.width(longest, 4, 10) for longest in (0, 1, 4, 5, 9, 10)] == [4, 4, 4, 8, 10, 10]


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (dict(group=0), "rollout.group expected at least 1, got 0"),
    (dict(temperature=0.0), "rollout.temperature expected > 0"),
    (dict(top_p=0.0), r"top_p in \(0, 1\]"),
    (dict(min_p=1.0), r"min_p in \[0, 1\)"),
    (dict(long_prompts="cut"), "rollout.long_prompts expected truncate_left, drop or error, got 'cut'"),
  ],
)
def test_a_wrong_setting_is_told_in_one_line(changes, told):
  with pytest.raises(UserError, match=told) as error:
    engine.RolloutConfig(**changes)
  assert "\n" not in str(error.value)
