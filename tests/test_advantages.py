"""Laws of group-relative advantages, their sentence, and the numbers of TRL and verl."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxreason.advantages import group_relative


def slow(rewards, valid, std, eps=1e-4):
  """The sentence of GRPO section 4.1.2, group by group, without the samples that have no verdict."""
  centred = np.zeros_like(rewards, np.float64)
  for group, kept, out in zip(rewards, valid, centred, strict=True):
    if kept.sum() >= 2:
      out[kept] = group[kept] - group[kept].mean()
  if std is None:
    return centred
  if std == "batch":
    return centred / (rewards[valid].std(ddof=1) + eps)
  return centred / (np.sqrt((centred**2).sum(1, keepdims=True) / np.maximum(valid.sum(1, keepdims=True) - 1, 1)) + eps)


@pytest.mark.parametrize("std", ["group", "batch", None])
def test_advantages_are_their_sentence_with_unjudged_samples_left_out(std):
  generator = np.random.default_rng(0)
  rewards, valid = generator.random((6, 5)).astype(np.float32), generator.random((6, 5)) < 0.7
  valid[0], valid[1], valid[2, 1:] = True, False, False
  got = group_relative(jnp.asarray(rewards), jnp.asarray(valid), std=std)
  np.testing.assert_allclose(got, slow(rewards, valid, std), rtol=1e-4, atol=1e-6)
  assert not np.asarray(got)[~valid].any()


@pytest.mark.parametrize("std", ["group", "batch", "none"])
def test_advantages_are_those_of_trl(std):
  _, inputs, expected = reference.case(f"trl.adv.grpo.{std}")
  got = group_relative(jnp.asarray(inputs["rewards"]).reshape(4, 4), std=None if std == "none" else std)
  np.testing.assert_allclose(got.reshape(-1), expected["adv"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "std"), [("grpo", "group"), ("grpo_nostd", None)])
def test_advantages_are_those_of_verl(name, std):
  _, inputs, expected = reference.case(f"verl.adv.{name}.main")
  rewards = jnp.asarray(inputs["token_rewards"].sum(1)).reshape(4, 4)
  got = np.asarray(group_relative(rewards, std=std, eps=1e-6)).reshape(16, 1) * inputs["mask"]
  np.testing.assert_allclose(got, expected["adv"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("std", ["group", "batch", None])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, 1e4])
def test_equal_rewards_have_no_advantage(std, reward):
  assert not np.asarray(group_relative(jnp.full((3, 7), reward), std=std)).any()


def test_a_permutation_of_the_group_permutes_its_advantages():
  rewards = jnp.asarray(np.random.default_rng(0).random((3, 8)), jnp.float32)
  order = np.random.default_rng(1).permutation(8)
  np.testing.assert_allclose(group_relative(rewards[:, order]), group_relative(rewards)[:, order], rtol=1e-5)


def test_other_groups_do_not_matter_under_the_group_std():
  rewards = jnp.asarray(np.random.default_rng(0).random((3, 8)), jnp.float32)
  np.testing.assert_array_equal(group_relative(rewards)[1], group_relative(rewards.at[0].set(7.0))[1])


def test_an_unjudged_sample_changes_nothing_for_the_others():
  rewards = jnp.asarray([[1.0, 0.0, 0.0, 123.0]])
  got = group_relative(rewards, jnp.asarray([[True, True, True, False]]))
  np.testing.assert_allclose(got[:, :3], group_relative(rewards[:, :3]), rtol=1e-6)


def test_a_lone_sample_has_no_advantage_and_gradients_are_finite():
  lone = jnp.asarray([[True, False, False]])
  assert not np.asarray(group_relative(jnp.asarray([[1.0, 0.0, 0.0]]), lone)).any()
  for valid in (lone, jnp.zeros((1, 3), bool)):
    for std in ("batch", None):
      assert np.isfinite(group_relative(jnp.asarray([[1.0, 0.0, 0.0]]), valid, std=std)).all()


def test_advantages_sum_to_zero_and_are_invariant_to_shift_and_scale():
  rewards = jnp.asarray(np.random.default_rng(0).random((4, 6)), jnp.float32)
  got = jax.jit(group_relative)(rewards)
  np.testing.assert_allclose(got.sum(-1), 0, atol=1e-5)
  np.testing.assert_allclose(group_relative(3 * rewards + 2, eps=0.0), group_relative(rewards, eps=0.0), rtol=1e-4, atol=1e-5)


def test_an_unknown_std_is_told():
  with pytest.raises(ValueError, match="expected std 'group', 'batch' or None, got 'grup'"):
    group_relative(jnp.zeros((1, 2)), std="grup")
