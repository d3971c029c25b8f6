"""Slow sentences of the papers, one token or one answer at a time in float64, and what the other losses promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import losses


def example(seed=0, rows=5, tokens=6):
  generator = np.random.default_rng(seed)
  old = -generator.exponential(size=(rows, tokens))
  new = np.minimum(old + generator.normal(size=old.shape) * 0.4, -0.01)
  mask = generator.random(old.shape) < 0.7
  mask[:, 0] = True
  return *(x.astype(np.float32) for x in (new, old, generator.normal(size=old.shape))), mask


def clip(x, low, high):
  return min(max(x, low), high)


def surrogate(r, a, low, high):
  return -min(r * a, clip(r, 1 - low, 1 + high) * a)


def binary_kl(q, p):
  return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


# A token's loss from log π, log μ and the advantage.
SENTENCES = {
  "clipped_surrogate": lambda n, o, a: surrogate(math.exp(n - o), a, 0.2, 0.2),
  "dual": lambda n, o, a: min(surrogate(math.exp(n - o), a, 0.2, 0.2), -1.5 * a if a < 0 else math.inf),
  "two_sided": lambda n, o, a: -min(min(math.exp(n - o), 1.3) * a, clip(math.exp(n - o), 0.8, 1.2) * a),
  "cispo": lambda n, o, a: -clip(math.exp(n - o), 0.9, 1.3) * a * n,
  "sapo": lambda n, o, a: -a * 4 / (t := 1.0 if a > 0 else 1.05) / (1 + math.exp(-t * (math.exp(n - o) - 1))),
  "dppo_tv": lambda n, o, a: -min(math.exp(n - o), 20) * a * n * (abs(math.exp(n) - math.exp(o)) <= 0.15 or (n - o) * a <= 0),
  "dppo_kl": lambda n, o, a: (
    -min(math.exp(n - o), 20) * a * n * (binary_kl(math.exp(o), math.exp(n)) <= 0.05 or (n - o) * a <= 0)
  ),
  "reinforce": lambda n, o, a: -a * n,
  "gpg": lambda n, o, a: -a * n,
  "dro": lambda n, o, a: -a * n + 0.25 * (n - o) ** 2,
  "kimi_quadratic": lambda n, o, a: -a * n + 0.05 * (n - o) ** 2,
  "topr": lambda n, o, a: -a * n if a > 0 else -min(math.exp(n - o), 1) * a * n,
  "decoupled": lambda n, o, a: math.exp(o - a) * surrogate(math.exp(n - o), 1.0, 0.2, 0.2),
  "k1": lambda n, o, a: n - o,
  "k2": lambda n, o, a: (n - o) ** 2 / 2,
  "k3": lambda n, o, a: math.exp(o - n) - 1 - (o - n),
  "abs": lambda n, o, a: abs(n - o),
  "k3_unbiased": lambda n, o, a: math.exp(n - a) * (math.exp(o - n) - 1 - (o - n)),
  "k1_distilled": lambda n, o, a: math.exp(n - a) * (n - o),
}
LOSSES = {
  "clipped_surrogate": losses.clipped_surrogate,
  "dual": lambda n, o, a: losses.clipped_surrogate(n, o, a, dual_clip=1.5),
  "two_sided": lambda n, o, a: losses.clipped_surrogate(n, o, a, max_ratio=1.3),
  "cispo": lambda n, o, a: losses.cispo(n, o, a, min_ratio=0.9, max_ratio=1.3),
  "sapo": losses.sapo,
  "dppo_tv": losses.dppo_tv,
  "dppo_kl": losses.dppo_kl,
  "reinforce": lambda n, o, a: losses.reinforce(n, a),
  "gpg": lambda n, o, a: losses.gpg(n, a),
  "dro": lambda n, o, a: losses.dro(n, o, a, beta=0.5),
  "kimi_quadratic": losses.kimi_quadratic,
  "topr": lambda n, o, a: losses.topr(n, o, a, np.ones(n.shape, bool), level="token"),
  "decoupled": lambda n, o, a: losses.decoupled_surrogate(n, o, a, np.ones_like(n)),
  "k1": lambda n, o, a: losses.kl_k1(n, o),
  "k2": lambda n, o, a: losses.kl_k2(n, o),
  "k3": lambda n, o, a: losses.kl_k3(n, o),
  "abs": lambda n, o, a: losses.kl_abs(n, o),
  "k3_unbiased": lambda n, o, a: losses.kl_k3(n, o, unbiased=True, behavior_logprobs=a),
  "k1_distilled": lambda n, o, a: losses.distill(n, o, behavior_logprobs=a),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_token_losses_are_their_sentences(name):
  new, old, advantages, _ = example(rows=20)
  expected = np.vectorize(SENTENCES[name])(*(np.float64(x) for x in (new, old, advantages)))
  np.testing.assert_allclose(LOSSES[name](new, old, advantages), expected, rtol=1e-4, atol=1e-5)


def gmpo(logs, a):
  clipped = [min(l, 0.4) if a > 0 else max(l, -0.4) for l in logs]
  return -a * math.exp(sum(clipped) / len(clipped))


def phi(logs, a):
  k, scale = (2, 3) if a >= 0 else (3, 2)
  w = math.exp(sum(logs))
  return w**k * math.exp(scale * (1 - w))


# An answer's loss from the log ratios of its tokens and its advantage.
ANSWERS = {
  "sequence_ratio": lambda logs, a: math.exp(sum(logs) / len(logs)),
  "sequence_surrogate": lambda logs, a: surrogate(math.exp(sum(logs) / len(logs)), a, 0.1, 0.2),
  "luspo": lambda logs, a: len(logs) * surrogate(math.exp(sum(logs) / len(logs)), a, 0.1, 0.2),
  "geometric_mean_surrogate": gmpo,
  "vespo_weight": phi,
}
bounds = dict(clip_low=0.1, clip_high=0.2)
OF_ANSWERS = {
  "sequence_ratio": lambda n, o, a, m: losses.sequence_ratio(n, o, m),
  "sequence_surrogate": lambda n, o, a, m: losses.sequence_surrogate(n, o, a, m, **bounds),
  "luspo": lambda n, o, a, m: losses.luspo(n, o, a, m, **bounds),
  "geometric_mean_surrogate": losses.geometric_mean_surrogate,
  "vespo_weight": losses.vespo_weight,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_losses_are_their_sentences(name):
  new, old, advantages, mask = example(rows=20)
  got = OF_ANSWERS[name](new, old, advantages[:, 0], mask)
  rows = [np.float64(n[m]) - np.float64(o[m]) for n, o, m in zip(new, old, mask, strict=True)]
  expected = [ANSWERS[name](logs.tolist(), a) for logs, a in zip(rows, advantages[:, 0].tolist(), strict=True)]
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
  each = np.broadcast_to(advantages[:, :1], mask.shape)
  np.testing.assert_allclose(OF_ANSWERS[name](new, old, each, mask), got, rtol=1e-5, atol=1e-6)


def test_vespo_and_topr_weigh_every_token_by_its_answer():
  new, old, advantages, mask = example(rows=20)
  weight = losses.vespo_weight(new, old, advantages[:, 0], mask)
  expected = np.where(mask, -weight[:, None] * advantages[:, :1] * new, 0)
  np.testing.assert_allclose(losses.vespo(new, old, advantages[:, 0], mask), expected, rtol=1e-5)
  total = np.exp(np.sum((new - old) * mask, axis=-1, keepdims=True, dtype=np.float64))
  expected = np.where(mask, -np.where(advantages > 0, 1, np.minimum(total, 1)) * advantages * new, 0)
  np.testing.assert_allclose(losses.topr(new, old, advantages, mask), expected, rtol=1e-4, atol=1e-6)


def test_gspo_token_is_gspo_when_an_answer_has_one_advantage():
  new, old, advantages, mask = example()
  mean = lambda x: jnp.sum(jnp.where(mask, x, 0), axis=-1) / jnp.sum(mask, axis=-1)
  token = lambda x: jnp.sum(mean(losses.gspo_token(x, old, advantages[:, 0], mask, **bounds)))
  whole = lambda x: jnp.sum(losses.sequence_surrogate(x, old, advantages[:, 0], mask, **bounds))
  one, other = (jax.value_and_grad(f)(jnp.asarray(new)) for f in (token, whole))
  np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
  np.testing.assert_allclose(one[1], other[1], rtol=1e-5, atol=1e-7)


def test_unbiased_kl_has_the_gradient_of_the_true_kl():
  """Over every token of a distribution, weighed by the probability μ that it is drawn with."""
  logits, reference, behavior = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (3, 7)))
  true = jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) * (jax.nn.log_softmax(x) - reference)))(logits)
  for kl in (losses.kl_k1, losses.kl_k3):
    drawn = lambda x, mu: jnp.sum(
      jnp.exp(mu) * kl(jax.nn.log_softmax(x), reference, unbiased=True, behavior_logprobs=mu)  # noqa: B023
    )
    np.testing.assert_allclose(jax.grad(drawn)(logits, behavior), true, rtol=1e-4, atol=1e-6)
    own = jax.grad(lambda x: jnp.sum(jnp.exp(logits) * kl(jax.nn.log_softmax(x), reference, unbiased=True)))  # noqa: B023
    np.testing.assert_allclose(own(logits), true, rtol=1e-4, atol=1e-6)


def test_distillation_is_the_divergence_and_its_policy_gradient():
  student, teacher = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (2, 7)))
  p, q = (np.exp(np.float64(x)) for x in (student, teacher))
  assert losses.distill(student, teacher, form="reverse") == pytest.approx(np.sum(p * np.log(p / q)), rel=1e-5)
  assert losses.distill(student, teacher, form="forward") == pytest.approx(np.sum(q * np.log(q / p)), rel=1e-5)
  whole = jax.grad(lambda x: losses.distill(jax.nn.log_softmax(x), teacher, form="reverse"))(student)
  drawn = jax.grad(lambda x: jnp.sum(jnp.exp(student) * losses.distill(jax.nn.log_softmax(x), teacher)))(student)
  np.testing.assert_allclose(drawn, whole, rtol=1e-4, atol=1e-6)


def test_distillation_leaves_out_what_cannot_be_drawn():
  student = jax.nn.log_softmax(jnp.asarray([0.3, 0.1, -jnp.inf]))
  teacher = jax.nn.log_softmax(jnp.asarray([-jnp.inf, 0.1, -jnp.inf]))
  for form in ("reverse", "forward"):
    value, gradient = jax.value_and_grad(lambda x: losses.distill(x, teacher, form=form))(student)  # noqa: B023
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
  with pytest.raises(ValueError, match="distill expected form 'k1', 'reverse' or 'forward', got 'sideways'"):
    losses.distill(student, teacher, form="sideways")


def test_entropy_of_a_distribution():
  logits = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
  p = np.exp(np.float64(logits) / 0.7)
  p /= p.sum(-1, keepdims=True)
  np.testing.assert_allclose(losses.policy_entropy(logits, temperature=0.7), -np.sum(p * np.log(p), -1), rtol=1e-5)
  cut = jnp.asarray(logits).at[:, 3:].set(-jnp.inf)
  value, gradient = jax.value_and_grad(lambda x: jnp.sum(losses.policy_entropy(x)))(cut)
  assert value == pytest.approx(float(jnp.sum(losses.policy_entropy(logits[:, :3]))), rel=1e-5)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.55, 1.0])
def test_high_entropy_mask_is_the_quantile(fraction):
  entropy, _, _, mask = example(rows=9)
  got = losses.high_entropy_mask(entropy, mask, fraction=fraction)
  np.testing.assert_array_equal(got, mask & (entropy >= np.quantile(entropy[mask], 1 - fraction)))
  assert not losses.high_entropy_mask(entropy, np.zeros_like(mask), fraction=fraction).any()


def test_covariance_choices():
  new, old, advantages, mask = example(rows=30)
  spread = np.float64(new - new[mask].mean()) * (advantages - advantages[mask].mean())
  got = np.asarray(losses.covariance(new, advantages, mask))
  np.testing.assert_allclose(got[mask], spread[mask], rtol=1e-4, atol=1e-5)
  count = int(0.1 * mask.sum())
  highest = mask & (spread >= np.sort(spread[mask])[-count])
  np.testing.assert_array_equal(losses.kl_cov_choice(new, advantages, mask, fraction=0.1), highest)
  ratio = np.exp(new - old)
  silenced = np.clip(ratio, 0.8, 1.2) * advantages < ratio * advantages
  eligible = mask & (spread > 0.1) & (spread < 2.0) & ~silenced
  choose = lambda key, share: np.asarray(
    losses.clip_cov_choice(new, old, advantages, mask, jax.random.key(key), fraction=share, low=0.1, high=2.0)
  )
  np.testing.assert_array_equal(choose(0, 1.0), eligible)
  few = choose(0, 0.05)
  assert few.sum() == int(0.05 * mask.sum())
  assert not (few & ~eligible).any()
  assert (few != choose(1, 0.05)).any()
  assert choose(0, 1e-9).sum() == 1
  assert not losses.kl_cov_choice(new, advantages, np.zeros_like(mask)).any()


def test_proximal_policy_between_versions():
  new, old, _, _ = example(rows=1)
  versions = jnp.asarray([[-1, 5, 4, 3, 1, 6]])
  alpha = np.asarray([[0, 0, 0, 1 / 2, 3 / 4, 0]], np.float32)
  expected = old + alpha * (new - old)
  np.testing.assert_allclose(losses.prox_log_linear(new, old, versions, 5), expected, rtol=1e-6)
  assert not np.asarray(jax.grad(lambda x: losses.prox_log_linear(x, old, versions, 5).sum())(jnp.asarray(new))).any()
  with pytest.raises(ValueError, match=r"expected versions of shape \(1, 6\), got \(1, 5\)"):
    losses.prox_log_linear(new, old, versions[:, 1:], 5)


@pytest.mark.parametrize("delta", [None, 0.5])
@pytest.mark.parametrize("cap", [None, 0.2])
def test_value_loss_is_its_sentence(delta, cap):
  values, old, returns, _ = example()
  error = lambda e: e * e / 2 if delta is None or abs(e) <= delta else delta * (abs(e) - delta / 2)

  def sentence(v, v0, g):
    return error(v - g) if cap is None else max(error(v - g), error(v0 + clip(v - v0, -cap, cap) - g))

  got = losses.value_loss(values, old, returns, clip=cap, huber_delta=delta)
  np.testing.assert_allclose(got, np.vectorize(sentence)(values, old, returns), rtol=1e-4, atol=1e-5)


def sigma(x):
  return 1 / (1 + math.exp(-x))


DPO = {
  "sigmoid": lambda c, r: -0.9 * math.log(sigma(0.3 * (c - r))) - 0.1 * math.log(sigma(-0.3 * (c - r))),
  "hinge": lambda c, r: max(0, 1 - 0.3 * (c - r)),
  "ipo": lambda c, r: (c - r - 1 / 0.6) ** 2,
  "robust": lambda c, r: (-0.9 * math.log(sigma(0.3 * (c - r))) + 0.1 * math.log(sigma(-0.3 * (c - r)))) / 0.8,
  "apo_zero": lambda c, r: 1 - sigma(0.3 * c) + sigma(0.3 * r),
}
SLOPES = {
  "reverse_kl": lambda u: math.log(u),
  "forward_kl": lambda u: 1 - 1 / u,
  "js": lambda u: math.log(2 * u / (1 + u)),
  "alpha": lambda u: (1 - u**-0.5) / 0.5,
}


@pytest.mark.parametrize("form", DPO)
@pytest.mark.parametrize("divergence", SLOPES)
def test_dpo_is_its_sentence(form, divergence):
  chosen, rejected, reference, _ = example()
  got = losses.dpo(chosen, rejected, reference, old := reference + 0.5, beta=0.3, form=form, label_smoothing=0.1,
                   divergence=divergence)  # fmt: skip
  slope = lambda x: SLOPES[divergence](math.exp(x))
  expected = np.vectorize(lambda c, r, rc, rr: DPO[form](slope(c - rc), slope(r - rr)))(chosen, rejected, reference, old)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", DPO)
@pytest.mark.parametrize("divergence", SLOPES)
def test_dpo_stays_finite_and_has_a_true_gradient(form, divergence):
  settings = dict(form=form, divergence=divergence)
  far = jnp.asarray([-1e4, -50.0, 0.0, 50.0, 1e4])
  value, gradient = jax.value_and_grad(lambda x: losses.dpo(x, -x, jnp.zeros(5), jnp.zeros(5), **settings).sum())(far)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()
  with jax.enable_x64(True):
    x, zero = jnp.linspace(-2.0, 2.0, 9), jnp.zeros(9)
    loss = lambda x: losses.dpo(x, -0.5 * x, zero, zero, **settings)
    difference = (loss(x + 1e-6) - loss(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(lambda x: loss(x).sum())(x), difference, rtol=1e-6, atol=1e-8)


def test_dpo_names_its_forms():
  zero = jnp.zeros(2)
  with pytest.raises(ValueError, match=r"expected form 'sigmoid', 'hinge', .* got 'sgmoid'"):
    losses.dpo(zero, zero, zero, zero, form="sgmoid")
  with pytest.raises(ValueError, match=r"expected divergence 'reverse_kl', .* got 'kl'"):
    losses.dpo(zero, zero, zero, zero, divergence="kl")
  with pytest.raises(ValueError, match="expected arrays of one shape, got"):
    losses.dpo(zero, zero, zero, jnp.zeros(3))


def test_bradley_terry_is_its_sentence():
  chosen, rejected, _, _ = example()
  expected = np.vectorize(lambda c, r: -math.log(sigma(c - r - 0.2)))(chosen, rejected)
  np.testing.assert_allclose(losses.bradley_terry(chosen, rejected, margin=0.2), expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(losses.bradley_terry(chosen, chosen), math.log(2), rtol=1e-6)
