"""What the clipped surrogate and the KL estimators promise, closely looked at.

Beside this file: `test_losses_laws` for laws that all losses obey, `test_losses_sentences` for what each one computes, and
`test_losses_trl` and `test_losses_verl` for other systems' numbers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import losses


def slow_clipped(new, old, advantage, low, high):
  """The sentence of PPO's equation 7, one token."""
  ratio = np.exp(np.float64(new) - np.float64(old))
  return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def example(seed=0, shape=(4, 6)):
  generator = np.random.default_rng(seed)
  old = -generator.exponential(size=shape)
  new = old + generator.normal(size=shape) * 0.4
  return tuple(jnp.asarray(x, jnp.float32) for x in (new, old, generator.normal(size=shape)))


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.0, 0.0)])
def test_clipped_surrogate_is_its_sentence(low, high):
  new, old, advantages = example()
  got = losses.clipped_surrogate(new, old, advantages, clip_low=low, clip_high=high)
  expected = np.vectorize(functools.partial(slow_clipped, low=low, high=high))(new, old, advantages)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
  new, _, advantages = example()
  gradient = jax.grad(lambda x: losses.clipped_surrogate(x, new, advantages).sum())(new)
  np.testing.assert_allclose(gradient, -advantages, rtol=1e-6)


def test_gradients_flow_to_the_policy_alone():
  arguments = example()
  gradients = jax.grad(lambda args: losses.clipped_surrogate(*args).sum())(arguments)
  assert np.asarray(gradients[0]).any()
  assert not np.asarray(gradients[1]).any()
  assert not np.asarray(gradients[2]).any()


def test_a_token_is_silent_exactly_where_clip_fractions_says_so():
  new, old, advantages = example(3, (64, 16))
  bounds = dict(clip_low=0.2, clip_high=0.3)
  gradient = jax.grad(lambda x: losses.clipped_surrogate(x, old, advantages, **bounds).sum())(new)
  low, high = losses.clip_fractions(new, old, advantages, **bounds)
  np.testing.assert_array_equal(np.asarray(gradient) == 0, np.asarray(low + high) == 1)
  assert 0 < low.mean() < 1
  assert 0 < high.mean() < 1
  ratio = np.exp(np.asarray(new - old))
  np.testing.assert_array_equal(low, (ratio < 0.8) & (np.asarray(advantages) < 0))
  np.testing.assert_array_equal(high, (ratio > 1.3) & (np.asarray(advantages) > 0))


def test_without_a_cap_the_ratio_is_the_plain_one():
  new, old, advantages = jnp.asarray([25.0]), jnp.asarray([0.0]), jnp.asarray([-1.0])
  assert losses.clipped_surrogate(new, old, advantages, log_ratio_cap=None)[0] == pytest.approx(np.exp(25), rel=1e-5)
  assert losses.clipped_surrogate(new, old, advantages)[0] == pytest.approx(np.exp(20), rel=1e-5)
  assert losses.kl_k3(old, new, log_ratio_cap=None)[0] == pytest.approx(np.exp(25) - 26, rel=1e-5)


def test_kl_estimators_on_every_token_of_a_distribution():
  """Σ π k1 = Σ π k3 = KL(π ‖ ref); k3 is never negative; the gradient of Σ k2, drawn from π, is that of the KL."""
  logits = jax.random.normal(jax.random.key(0), (2, 7))
  policy, other = jax.nn.log_softmax(logits)
  p = jnp.exp(policy)
  kl = float(jnp.sum(p * (policy - other)))
  assert jnp.sum(p * losses.kl_k1(policy, other)) == pytest.approx(kl, rel=1e-5)
  assert jnp.sum(p * losses.kl_k3(policy, other)) == pytest.approx(kl, rel=1e-5)
  assert (losses.kl_k3(policy, other) >= 0).all()
  assert (losses.kl_k3(policy, policy) == 0).all()
  weighed = lambda logits: jnp.sum(p * losses.kl_k2(jax.nn.log_softmax(logits), other))
  true = lambda logits: jnp.sum(jax.nn.softmax(logits) * (jax.nn.log_softmax(logits) - other))
  np.testing.assert_allclose(jax.grad(weighed)(logits[0]), jax.grad(true)(logits[0]), rtol=1e-4, atol=1e-6)


def test_sft_is_the_negative_log_likelihood():
  new, _, _ = example()
  np.testing.assert_array_equal(losses.sft(new), -new)


def test_dual_clip_and_max_ratio_bound_the_loss_of_bad_tokens_alone():
  new, old = jnp.asarray([3.0, 3.0, -3.0]), jnp.zeros(3)
  advantages = jnp.asarray([-1.0, 1.0, -1.0])
  plain = losses.clipped_surrogate(new, old, advantages)
  for bound in (dict(dual_clip=4.0), dict(max_ratio=4.0)):
    loss = lambda x: losses.clipped_surrogate(x, old, advantages, **bound)  # noqa: B023
    np.testing.assert_allclose(loss(new), [4.0, plain[1], plain[2]], rtol=1e-6)
    assert not np.asarray(jax.grad(lambda x: loss(x).sum())(new)).any()  # noqa: B023
  assert jax.grad(lambda x: losses.clipped_surrogate(x, old, advantages).sum())(new)[0] == pytest.approx(np.exp(3), rel=1e-5)


def test_a_student_far_off_still_learns_from_a_distribution():
  """Forward KL has the gradient π - q, however many nats the student is off."""
  teacher = jnp.log(jnp.array([0.5, 0.5]))
  loss = lambda gap: losses.distill(jax.nn.log_softmax(jnp.array([gap, 0.0])), teacher, form="forward")
  for gap in (1.0, 19.0, 30.0, 80.0):
    assert jax.grad(loss)(gap) == pytest.approx(float(jax.nn.sigmoid(gap)) - 0.5, abs=1e-6)


@pytest.mark.parametrize(("alpha", "same"), [(1.0, "reverse_kl"), (0.0, "forward_kl")])
def test_the_limits_of_the_alpha_divergence_are_the_kls(alpha, same):
  pairs = [jnp.array([value]) for value in (-1.0, -2.0, -1.5, -1.2)]
  got = losses.dpo(*pairs, divergence="alpha", alpha=alpha)
  np.testing.assert_allclose(got, losses.dpo(*pairs, divergence=same), rtol=1e-6)
