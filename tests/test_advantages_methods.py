"""Laws of the advantages and slow sentences of their papers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import advantages

GENERATOR = np.random.default_rng(0)
REWARDS = GENERATOR.random((3, 5)).astype(np.float32)
REWARDS[1] = [0, 1, 1, 0, 1]
LENGTHS = GENERATOR.integers(1, 9, (3, 5))
MASK = np.arange(8) < LENGTHS[..., None]
VALID = np.ones((3, 5), bool)
VALID[0, 2] = VALID[1, 0] = VALID[1, 4] = False
ENERGY = GENERATOR.random((3, 5, 8)).astype(np.float32)

# Methods with one advantage for each sample, as functions of (rewards, valid, lengths).
BY_SAMPLE = {
  "group": lambda r, v, n: advantages.group_relative(r, v),
  "group_loo": lambda r, v, n: advantages.group_relative(r, v, leave_one_out=True),
  "centered": lambda r, v, n: advantages.centered(r, v),
  "leave_one_out": lambda r, v, n: advantages.leave_one_out(r, v),
  "lite_ppo": lambda r, v, n: advantages.lite_ppo(r, v),
  "opo": lambda r, v, n: advantages.opo(r, n, v),
  "gpg": lambda r, v, n: advantages.gpg(r, v),
  "max_rl": lambda r, v, n: advantages.max_rl(r, v),
  "pass_at_2": lambda r, v, n: advantages.pass_at_k(r, v, k=min(2, r.shape[-1] or 2)),
  "pass_at_2_mean": lambda r, v, n: advantages.pass_at_k(r, v, k=min(2, r.shape[-1] or 2), baseline="mean", std="subsets"),
  "pass_at_n": lambda r, v, n: advantages.pass_at_k(r, v, std="group"),
  "gdpo": lambda r, v, n: advantages.gdpo(r[..., None], v[..., None], batch_normalize=False),
}
# Those with more than the group behind a number, or with one for each token.
ACROSS = {
  "remax": lambda r, v, n: advantages.remax(r, jnp.full(r.shape[:-1], 0.3, r.dtype), v),
  "gdpo": lambda r, v, n: advantages.gdpo(r[..., None], v[..., None]),
  "baseline": lambda r, v, n: advantages.reinforce_plus_plus_baseline(
    r, jax.nn.one_hot(n, 8, axis=-1)[..., ::-1].cumsum(-1), v
  ),
}
ALL = BY_SAMPLE | {f"across_{name}": method for name, method in ACROSS.items()}


def others(method, rewards, valid, lengths):
  """The advantages of a batch that never had the samples that are not valid: groups of different sizes, one at a time."""
  assert len({int(row.sum()) for row in valid}) > 1
  groups = [(r[v][None], np.ones((1, v.sum()), bool), n[v][None]) for r, v, n in zip(rewards, valid, lengths, strict=True)]
  return [np.asarray(jax.jit(method)(*group))[0] for group in groups]


@pytest.mark.parametrize("name", [name for name in BY_SAMPLE if name not in ("lite_ppo", "gpg")])
def test_a_group_of_fewer_judged_samples_is_a_smaller_group(name):
  unjudged = np.where(VALID, REWARDS, np.nan).astype(np.float32)
  got = np.asarray(BY_SAMPLE[name](jnp.asarray(unjudged), jnp.asarray(VALID), jnp.asarray(LENGTHS)))
  assert not got[~VALID].any()
  for row, kept, expected in zip(got, VALID, others(BY_SAMPLE[name], REWARDS, VALID, LENGTHS), strict=True):
    np.testing.assert_allclose(row[kept], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_what_an_unjudged_sample_holds_is_read_by_nobody(name):
  judged = jax.jit(ALL[name])
  got = np.asarray(judged(jnp.where(VALID, REWARDS, jnp.nan), VALID, LENGTHS))
  np.testing.assert_array_equal(got, judged(jnp.where(VALID, REWARDS, 77.0), VALID, LENGTHS))
  assert np.isfinite(got).all()
  assert not got[~VALID].any()


@pytest.mark.parametrize("name", ALL)
def test_an_unjudged_column_is_no_column(name):
  valid = np.ones((3, 5), bool)
  valid[:, 3] = False
  got = jax.jit(ALL[name])(REWARDS, valid, LENGTHS)
  kept = [0, 1, 2, 4]
  alone = jax.jit(ALL[name])(REWARDS[:, kept], np.ones((3, 4), bool), LENGTHS[:, kept])
  np.testing.assert_allclose(np.asarray(got)[:, kept], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_permuting_a_group_permutes_its_advantages(name):
  order = np.asarray([3, 0, 4, 2, 1])
  method = jax.jit(ALL[name])
  got = method(*(x[:, order] for x in (REWARDS, VALID, LENGTHS)))
  np.testing.assert_allclose(got, np.asarray(method(REWARDS, VALID, LENGTHS))[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BY_SAMPLE)
@pytest.mark.parametrize("reward", [0.1, 1 / 3, 1e4, 1e-6])
def test_equal_rewards_give_exactly_nothing(name, reward):
  rewards = jnp.full((3, 5), reward, jnp.float32)
  assert not np.asarray(BY_SAMPLE[name](rewards, VALID, LENGTHS)).any()
  assert not np.asarray(BY_SAMPLE[name](rewards.at[0].set(REWARDS[0]), VALID, LENGTHS))[1:].any()


@pytest.mark.parametrize("name", ALL)
def test_nobody_judged_and_a_group_of_one_are_finite_with_their_gradients(name):
  both = jax.jit(jax.value_and_grad(lambda r, v, n: jnp.sum(ALL[name](r, v, n) ** 2)))
  for rewards, valid in ((REWARDS, np.zeros((3, 5), bool)), (REWARDS[:, :1], np.ones((3, 1), bool)), (0 * REWARDS, VALID)):
    got, gradient = both(jnp.asarray(rewards), valid, jnp.asarray(LENGTHS[:, : rewards.shape[1]]))
    assert np.isfinite(got)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", BY_SAMPLE)
def test_bad_input_is_told(name):
  with pytest.raises(ValueError, match=r"expected .*, got int"):
    BY_SAMPLE[name](jnp.zeros((2, 4), jnp.int32), jnp.ones((2, 4), bool), jnp.ones((2, 4)))
  with pytest.raises(ValueError, match=r"expected .*, got (shape )?.*\("):
    BY_SAMPLE[name](jnp.zeros((2, 4)), jnp.ones((2, 3), bool), jnp.ones((2, 4)))
  with pytest.raises(ValueError, match=r"expected .*, got shape \(2, 0.*\)"):
    BY_SAMPLE[name](jnp.zeros((2, 0)), jnp.ones((2, 0), bool), jnp.ones((2, 0)))


def test_leave_one_out_takes_the_mean_and_deviation_of_the_others():
  """And divides by nothing where the others are all equal."""
  got = np.asarray(advantages.group_relative(jnp.asarray(REWARDS), leave_one_out=True, eps=0.0))
  for p, i in itertools.product(range(3), range(5)):
    rest = np.delete(REWARDS[p], i)
    np.testing.assert_allclose(got[p, i], (REWARDS[p, i] - rest.mean()) / rest.std(ddof=1), rtol=1e-4, atol=1e-5)
  lone = advantages.group_relative(jnp.asarray([[1.0, 0.0, 0.0, 0.0]]), leave_one_out=True)
  np.testing.assert_allclose(lone[0, 0], 1.0)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_over_every_way_to_draw(k):
  got = np.asarray(advantages.pass_at_k(jnp.asarray(REWARDS), k=k))
  against_mean = np.asarray(advantages.pass_at_k(jnp.asarray(REWARDS), k=k, baseline="mean"))
  for p, i in itertools.product(range(3), range(5)):
    group, rest = list(REWARDS[p]), list(np.delete(REWARDS[p], i))
    with_it = [max([*drawn, group[i]]) for drawn in itertools.combinations(rest, k - 1)]
    without = [max(drawn) for drawn in itertools.combinations(rest, k - 1)] if k > 1 else [np.mean(rest)]
    np.testing.assert_allclose(got[p, i], np.mean(with_it) - np.mean(without), rtol=1e-4, atol=1e-5)
    best = [max(drawn) for drawn in itertools.combinations(group, k)]
    np.testing.assert_allclose(against_mean[p, i], np.mean(with_it) - np.mean(best), rtol=1e-4, atol=1e-5)


def test_pass_at_k_of_right_and_wrong_answers_has_the_papers_closed_form():
  """Chen et al. 2025: 3 of 5 right, k = 2; the deviation is that of a draw's success."""
  got = advantages.pass_at_k(jnp.asarray(REWARDS[1:2]), k=2, baseline="mean", std="subsets")[0]
  mean = 1 - 1 / 10
  deviation = np.sqrt(mean * (1 - mean))
  wrong = (1 - mean - 1 / 4) / deviation
  right = (1 - mean) / deviation
  np.testing.assert_allclose(got, np.where(REWARDS[1] == 1, right, wrong), rtol=1e-4)


def test_fewer_judged_samples_than_k_have_no_advantage():
  valid = jnp.asarray([[True, True, False, False]])
  assert not np.asarray(advantages.pass_at_k(jnp.asarray([[1.0, 0.0, 1.0, 0.0]]), valid, k=3)).any()
  with pytest.raises(ValueError, match="expected k from 1 to the group's size of 4, got 5"):
    advantages.pass_at_k(jnp.zeros((1, 4)), k=5)


def test_gpg_counts_the_groups_that_teach_nothing():
  rewards = jnp.asarray([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
  plain = advantages.centered(rewards)
  np.testing.assert_allclose(advantages.gpg(rewards), 2 * plain)
  np.testing.assert_allclose(advantages.gpg(rewards, alpha="zero_rewards"), 2 * plain)
  np.testing.assert_allclose(advantages.gpg(rewards, alpha=None, f_norm=0.5), 2 * plain)
  np.testing.assert_allclose(advantages.gpg(rewards.at[0].set(1.0)), 4 * advantages.centered(rewards.at[0].set(1.0)))


def test_max_rl_weighs_a_prompt_by_the_inverse_of_its_pass_rate():
  rewards = jnp.asarray([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
  expected = [[3, -1, -1, -1], [1 / 3, 1 / 3, 1 / 3, -1], [0, 0, 0, 0]]
  np.testing.assert_allclose(advantages.max_rl(rewards), expected, rtol=1e-6)


def test_a_prompt_whose_greedy_answer_has_no_verdict_teaches_nothing():
  got = advantages.remax(jnp.ones((2, 3)), jnp.asarray([0.0, jnp.nan]), greedy_valid=jnp.asarray([True, False]))
  np.testing.assert_array_equal(got, [[1, 1, 1], [0, 0, 0]])


def slow_gae(rewards, values, mask, gamma, lam, last):
  out, advantage, next_value = np.zeros(len(rewards)), 0.0, last
  for t in reversed(range(len(rewards))):
    if mask[t]:
      advantage = rewards[t] + gamma * next_value - values[t] + gamma * lam * advantage
      out[t], next_value = advantage, values[t]
  return out


HOLES = GENERATOR.random((6, 9)) < 0.7
HOLES[0], HOLES[1], HOLES[2] = False, False, True
HOLES[1, 4] = True
TOKEN_REWARDS, VALUES = GENERATOR.standard_normal((2, 6, 9)).astype(np.float32)


@pytest.mark.parametrize("bootstrap", [False, True])
def test_gae_is_its_sentence_with_holes_in_the_mask(bootstrap):
  last = GENERATOR.random(6).astype(np.float32) if bootstrap else np.zeros(6)
  rewards, values = (jnp.where(HOLES, x, jnp.nan) for x in (TOKEN_REWARDS, VALUES))
  got, returns = advantages.gae(rewards, values, HOLES, bootstrap_values=last if bootstrap else None, gamma=0.9, lam=0.8)
  expected = [slow_gae(*row, 0.9, 0.8, v) for *row, v in zip(TOKEN_REWARDS, VALUES, HOLES, last, strict=True)]
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(returns, np.where(HOLES, expected + VALUES, 0), rtol=1e-4, atol=1e-5)


def test_gae_without_discount_is_return_less_value():
  got, returns = advantages.gae(TOKEN_REWARDS, VALUES, HOLES, gamma=1.0, lam=1.0)
  to_go = advantages.returns_to_go(jnp.asarray(TOKEN_REWARDS), HOLES)
  np.testing.assert_allclose(got, np.where(HOLES, to_go - VALUES, 0), atol=1e-5)
  np.testing.assert_allclose(returns, to_go, atol=1e-5)


def test_padding_changes_no_token():
  pad = lambda x: jnp.pad(jnp.asarray(x), ((0, 0), (0, 3)), constant_values=1)
  mask = jnp.pad(jnp.asarray(HOLES), ((0, 0), (0, 3)))
  got, _ = advantages.gae(pad(TOKEN_REWARDS), pad(VALUES), mask)
  np.testing.assert_allclose(got[:, :9], advantages.gae(TOKEN_REWARDS, VALUES, HOLES)[0], atol=1e-6)
  whole = advantages.reinforce_plus_plus(jnp.asarray(TOKEN_REWARDS), HOLES)
  np.testing.assert_allclose(advantages.reinforce_plus_plus(pad(TOKEN_REWARDS), mask)[:, :9], whole, rtol=1e-4, atol=1e-5)


def test_reinforce_plus_plus_has_mean_0_and_variance_1_over_the_judged_tokens():
  valid = jnp.asarray([True, True, False, True, True, True])
  got = np.asarray(advantages.reinforce_plus_plus(jnp.asarray(TOKEN_REWARDS), HOLES, valid, gamma=0.9))
  kept = HOLES & np.asarray(valid)[:, None]
  np.testing.assert_allclose([got[kept].mean(), got[kept].std(ddof=1)], [0, 1], atol=1e-5)
  assert not got[~kept].any()
  assert not np.asarray(advantages.whiten(jnp.full((2, 3), 1 / 3), jnp.ones((2, 3), bool))).any()


def slow_otb(returns, weights, mask):
  out = np.zeros_like(returns)
  for t in range(returns.shape[-1]):
    on = mask[:, t]
    if on.any() and weights[on, t].sum() > 0:
      out[on, t] = returns[on, t] - (weights[on, t] * returns[on, t]).sum() / weights[on, t].sum()
  return out


def test_the_token_baseline_is_its_sentence():
  rewards, logprobs = GENERATOR.standard_normal((3, 5, 8)).astype(np.float32), np.log(ENERGY * 0.9 + 0.05)
  args = [np.where(MASK, x, np.nan) for x in (rewards, logprobs, ENERGY)]
  got = np.asarray(advantages.optimal_token_baseline(*(jnp.asarray(x) for x in args), MASK, VALID, zero_tail=False))
  kept = MASK & VALID[..., None]
  energy = np.where(kept, 1 - 2 * np.exp(logprobs) + ENERGY, 0).cumsum(-1)
  returns = np.where(kept, rewards, 0)[..., ::-1].cumsum(-1)[..., ::-1]
  for p in range(3):
    np.testing.assert_allclose(got[p], slow_otb(returns[p], energy[p], kept[p]), rtol=1e-3, atol=1e-4)
  tail = np.asarray(advantages.optimal_token_baseline(*(jnp.asarray(x) for x in args), MASK, VALID))
  alone = kept & (kept.sum(1, keepdims=True) == 1)
  assert alone.any()
  np.testing.assert_allclose(tail[alone], returns[alone], rtol=1e-5)
  np.testing.assert_allclose(tail[~alone], got[~alone], rtol=1e-5)


def test_the_token_baseline_by_count_does_not_see_where_the_holes_are():
  mask, spread = jnp.ones((1, 3, 4), bool), np.zeros((1, 3, 7), bool)
  spread[0, 0, :4] = spread[0, 1, 3:] = spread[0, 2, [0, 2, 4, 6]] = True
  arrays = GENERATOR.random((3, 1, 3, 4)).astype(np.float32) * 0.5 + 0.1
  holed = np.ones((3, 1, 3, 7), np.float32)
  holed[:, spread] = arrays.reshape(3, -1)
  plain = advantages.optimal_token_baseline(arrays[0], np.log(arrays[1]), arrays[2], mask)
  got = advantages.optimal_token_baseline(holed[0], np.log(holed[1]), holed[2], jnp.asarray(spread), align="count")
  np.testing.assert_allclose(np.asarray(got)[spread].reshape(3, 4), plain[0], rtol=1e-4, atol=1e-5)


def test_equal_returns_have_no_token_advantage():
  rewards = jnp.zeros((1, 3, 4)).at[..., -1].set(1 / 3)
  probabilities = GENERATOR.random((1, 3, 4)).astype(np.float32) * 0.5 + 0.1
  got = advantages.optimal_token_baseline(rewards, np.log(probabilities), probabilities, jnp.ones((1, 3, 4), bool))
  assert not np.asarray(got).any()


@pytest.mark.parametrize("method", [advantages.lite_ppo, advantages.group_relative, advantages.leave_one_out, advantages.gpg])
def test_nan_is_no_verdict(method):
  rewards = jnp.array([[1.0, jnp.nan, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
  np.testing.assert_array_equal(method(rewards), method(jnp.nan_to_num(rewards), ~jnp.isnan(rewards)))
