"""Laws of the per-token losses, their sentences, and the numbers of TRL and verl on one batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxreason import losses, masks


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


@pytest.mark.parametrize("distance", [-1e4, -100.0, 100.0, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_extreme_ratios_stay_finite(distance, advantage):
  old, advantages = jnp.asarray([-2.0]), jnp.asarray([advantage])
  surrogate = lambda x: losses.clipped_surrogate(x, old, advantages).sum()
  for function in (surrogate, lambda x: losses.kl_k3(x, old).sum()):
    value, gradient = jax.value_and_grad(function)(old + distance)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


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


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_is_that_of_verl(kind):
  _, inputs, expected = reference.case(f"verl.kl.{kind}")
  estimator = {"k1": losses.kl_k1, "k2": losses.kl_k2, "k3": losses.kl_k3}[kind]
  got = estimator(jnp.asarray(inputs["logp"]), jnp.asarray(inputs["ref"]))
  np.testing.assert_allclose(got, expected["kl"], rtol=1e-4, atol=1e-6)


def mean_loss(reduction, logprobs, inputs, *, high=0.2, beta=0.0):
  """The batch's loss the way the rooms compose it: surrogate, KL, reduction, one division."""
  old = jnp.asarray(inputs.get("logp_old", inputs["logp_new"]))
  advantages = jnp.asarray(inputs["adv"])
  if advantages.ndim == 1:
    advantages = jnp.broadcast_to(advantages[:, None], logprobs.shape)
  loss = losses.clipped_surrogate(logprobs, old, advantages, clip_high=high)
  if beta:
    loss = loss + beta * losses.kl_k3(logprobs, jnp.asarray(inputs["logp_ref"]))
  return masks.divide(*reduction(loss, jnp.asarray(inputs["mask"])))


REDUCTIONS = {
  "grpo": masks.sequence_mean,
  "bnpo": masks.token_mean,
  "dapo": masks.token_mean,
  "dr_grpo": functools.partial(masks.constant_norm, length=24),
}
CASES = [f"trl.grpo.{name}.{kind}" for name in REDUCTIONS for kind in ("main", "onpolicy", "kl_plain")]
CASES += ["trl.grpo.dapo.cliphigher"]


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_trl(name):
  parameters, inputs, expected = reference.case(name)
  loss = functools.partial(
    mean_loss, REDUCTIONS[parameters["loss_type"]], inputs=inputs,
    high=parameters.get("epsilon_high", 0.2), beta=parameters.get("beta", 0.0),
  )  # fmt: skip
  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(inputs["logp_new"]))
  assert value == pytest.approx(float(expected["loss"]), rel=1e-5, abs=1e-7)
  np.testing.assert_allclose(gradient, expected["grad"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_losses_are_those_of_verl_where_its_dual_clip_is_idle(mode):
  """verl bounds the loss of a negative advantage at -3 A; such tokens are taken out of both sides."""
  _, inputs, expected = reference.case(f"verl.loss.vanilla.{mode}.main")
  reduction = {"token-mean": masks.token_mean, "seq-mean-token-mean": masks.sequence_mean}[mode]
  gradient = jax.jit(jax.grad(functools.partial(mean_loss, reduction, inputs=inputs)))(jnp.asarray(inputs["logp_new"]))
  idle = ~((inputs["adv"] < 0) & (np.exp(inputs["logp_new"] - inputs["logp_old"]) > 3))
  assert idle.mean() > 0.9
  np.testing.assert_allclose(np.asarray(gradient)[idle], expected["grad"][idle], rtol=1e-4, atol=1e-7)
