"""Laws that every loss obeys: shapes, precision, padding, permutation, finiteness, gradients, sharding, and plain errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxreason import losses, masks


def chosen_clip_cov(new, old, advantages, mask, **cap):
  return losses.clip_cov(new, old, advantages, jnp.asarray(advantages) > 1, **cap)


def chosen_kl_cov(new, old, advantages, mask, **cap):
  return losses.kl_cov(new, old, advantages, jnp.asarray(advantages) > 1, **cap)


def tokenwise(loss, **settings):
  return lambda new, old, advantages, mask, **cap: loss(new, old, advantages, **settings, **cap)


def estimator(kl, unbiased):
  def loss(new, old, advantages, mask, **cap):
    return kl(new, advantages, unbiased=unbiased, behavior_logprobs=old, **cap)

  return loss


def decoupled(new, old, advantages, mask, **cap):
  return losses.decoupled_surrogate(new, old + 0.1, old, advantages, **cap)


def distilled(new, old, advantages, mask, **cap):
  return losses.distill(new, advantages, behavior_logprobs=old, **cap)


# Every loss as a function of (logprobs, behavior_logprobs, advantages, mask). KL takes the advantages for a reference.
TOKEN = {
  "clipped": tokenwise(losses.clipped_surrogate),
  "dual_clip": tokenwise(losses.clipped_surrogate, dual_clip=1.3),
  "max_ratio": tokenwise(losses.clipped_surrogate, max_ratio=1.4),
  "cispo": tokenwise(losses.cispo, max_ratio=1.2),
  "sapo": tokenwise(losses.sapo),
  "dppo_tv": tokenwise(losses.dppo_tv),
  "dppo_kl": tokenwise(losses.dppo_kl),
  "dro": tokenwise(losses.dro),
  "kimi_quadratic": tokenwise(losses.kimi_quadratic),
  "reinforce": lambda new, old, advantages, mask, **cap: losses.reinforce(new, advantages),
  "topr": losses.topr,
  "topr_token": functools.partial(losses.topr, level="token"),
  "gspo_token": losses.gspo_token,
  "vespo": losses.vespo,
  "clip_cov": chosen_clip_cov,
  "kl_cov": chosen_kl_cov,
  "decoupled": decoupled,
  "distill": distilled,
  **{f"{kl.__name__}_{unbiased}": estimator(kl, unbiased) for kl in (losses.kl_k1, losses.kl_k2, losses.kl_k3, losses.kl_abs)
     for unbiased in (False, True)},
}  # fmt: skip
SEQUENCE = {
  "sequence_ratio": lambda new, old, advantages, mask, **cap: losses.sequence_ratio(new, old, mask, **cap),
  "sequence_surrogate": losses.sequence_surrogate,
  "luspo": losses.luspo,
  "geometric_mean": losses.geometric_mean_surrogate,
}
ALL = TOKEN | SEQUENCE
every = pytest.mark.parametrize("name", ALL)


def example(seed=0, rows=6, tokens=7, dtype=np.float32):
  """Log-probs 0.3 nats apart, one advantage a token, and a mask with holes, an empty row and a row of one token."""
  generator = np.random.default_rng(seed)
  old = -generator.exponential(size=(rows, tokens))
  new = old + generator.normal(size=old.shape) * 0.3
  mask = generator.random(old.shape) < 0.7
  mask[1], mask[2] = False, np.arange(tokens) == 3
  return *(x.astype(dtype) for x in (new, old, generator.normal(size=old.shape))), mask


def reduced(name, new, old, advantages, mask, **cap):
  """One number: the mean over tokens, or over the answers that have one."""
  loss = ALL[name](new, old, advantages, mask, **cap)
  return masks.divide(*masks.masked_mean(loss, mask if name in TOKEN else jnp.any(mask, axis=-1)))


@functools.cache
def compiled(name):
  return jax.jit(jax.value_and_grad(functools.partial(reduced, name)))


@every
def test_shapes_and_precision(name):
  new, old, advantages, mask = example()
  abstract = lambda dtype: jax.eval_shape(ALL[name], *(jnp.asarray(x, dtype) for x in (new, old, advantages)), mask)
  expected = mask.shape if name in TOKEN else mask.shape[:1]
  for dtype in (jnp.float32, jnp.bfloat16):
    assert abstract(dtype) == jax.ShapeDtypeStruct(expected, jnp.float32)
  with jax.enable_x64(True):
    assert abstract(jnp.float64) == jax.ShapeDtypeStruct(expected, jnp.float64)


@every
def test_padding_and_order_change_nothing(name):
  new, old, advantages, mask = example()
  value, gradient = compiled(name)(new, old, advantages, mask)
  garbage = lambda x, fill: np.where(mask, x, np.float32(fill))
  value2, gradient2 = compiled(name)(garbage(new, -900.0), garbage(old, -3.0), garbage(advantages, 50.0), mask)
  np.testing.assert_allclose(value2, value, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(gradient2, gradient, rtol=1e-5, atol=1e-7)
  assert not np.asarray(gradient)[~mask].any()
  order = np.random.default_rng(1).permutation(len(mask))
  value3, gradient3 = compiled(name)(*(x[order] for x in (new, old, advantages, mask)))
  np.testing.assert_allclose(value3, value, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(gradient3, gradient[order], rtol=1e-5, atol=1e-7)


@every
@pytest.mark.parametrize("distance", [-np.inf, -1e4, -100.0, 100.0, 1e4, np.inf])
def test_extreme_ratios_stay_finite(name, distance):
  new, old, advantages, mask = example()
  far = np.where(np.isfinite(distance) | (advantages > 0), old - np.float32(distance), old)
  value, gradient = compiled(name)(new, far, advantages, mask)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


@every
def test_empty_masks_and_single_tokens(name):
  new, old, advantages, mask = example()
  value, gradient = compiled(name)(new, old, advantages, np.zeros_like(mask))
  assert value == 0
  assert not np.asarray(gradient).any()
  one = [x[:, :1] for x in (new, old, advantages)]
  value, gradient = jax.value_and_grad(functools.partial(reduced, name))(*map(jnp.asarray, one), np.ones((6, 1), bool))
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


@every
def test_gradients_flow_to_the_policy_alone(name):
  new, old, advantages, mask = example()
  gradients = jax.grad(functools.partial(reduced, name), argnums=(0, 1, 2))(*map(jnp.asarray, (new, old, advantages)), mask)
  assert np.asarray(gradients[0]).any()
  assert not np.asarray(gradients[1]).any()
  assert not np.asarray(gradients[2]).any()


# Losses with a weight that is held fixed: their value is not what their gradient is the gradient of.
WEIGHTED = {"cispo", "topr", "topr_token", "vespo", "dppo_tv", "dppo_kl", "reinforce"}


@pytest.mark.parametrize("name", sorted(ALL.keys() - WEIGHTED - {"gspo_token", "distill"}))
def test_gradients_are_those_of_finite_differences(name):
  new, old, advantages, mask = example(3, rows=4, tokens=4, dtype=np.float64)
  with jax.enable_x64(True):
    gradient = compiled(name)(new, old, advantages, mask)[1]
    step = 1e-6 * np.eye(new.size).reshape(-1, *new.shape)
    values = jax.jit(jax.vmap(functools.partial(reduced, name), (0, None, None, None)))
    difference = (values(new + step, old, advantages, mask) - values(new - step, old, advantages, mask)) / 2e-6
  np.testing.assert_allclose(gradient, np.asarray(difference).reshape(new.shape), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", sorted(WEIGHTED))
def test_weighted_losses_are_weight_times_log_probability(name):
  """L = c log π with a constant c, so that the gradient is L / log π."""
  new, old, advantages, mask = example()
  loss = lambda new: TOKEN[name](new, old, advantages, mask)
  gradient = jax.grad(lambda new: jnp.sum(loss(new)))(jnp.asarray(new))
  np.testing.assert_allclose(gradient * new, loss(jnp.asarray(new)), rtol=1e-5, atol=1e-7)


POLICY_GRADIENT = sorted(TOKEN.keys() - {"clip_cov", "kl_cov", "decoupled", "distill"})


@pytest.mark.parametrize("name", [name for name in POLICY_GRADIENT if not name.startswith("kl_")])
def test_at_ratio_one_the_gradient_is_the_policy_gradient(name):
  new, _, advantages, _ = example()
  gradient = jax.grad(lambda x: jnp.sum(TOKEN[name](x, new, advantages, np.ones(new.shape, bool))))(jnp.asarray(new))
  np.testing.assert_allclose(gradient, -advantages, rtol=1e-5)


@pytest.mark.parametrize("name", ["sequence_surrogate", "geometric_mean", "luspo"])
def test_at_ratio_one_an_answers_gradient_is_the_policy_gradient_of_its_mean(name):
  new, _, advantages, mask = example()
  gradient = jax.grad(lambda x: jnp.sum(SEQUENCE[name](x, new, advantages[:, 0], mask)))(jnp.asarray(new))
  share = mask if name == "luspo" else mask / np.maximum(mask.sum(-1, keepdims=True), 1)
  np.testing.assert_allclose(gradient, -advantages[:, :1] * share, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
  "name", sorted(n for n in ALL if not n.startswith(("kl_", "distill", "dro", "kimi", "sequence_ratio")))
)
def test_losses_scale_with_the_advantages(name):
  new, old, advantages, mask = example()
  if name == "kl_cov":
    advantages = -np.abs(advantages)  # nothing is chosen, so that no penalty is added
  elif name == "clip_cov":
    advantages = np.minimum(advantages, 0.3)
  twice, once = ALL[name](new, old, 2 * advantages, mask), ALL[name](new, old, advantages, mask)
  np.testing.assert_allclose(twice, 2 * once, rtol=1e-5, atol=1e-7)


def test_every_loss_works_under_shard_map():
  """All losses in one program over eight devices: sums and denominators are added, and divided once."""
  arrays = example(rows=16)
  mesh = Mesh(np.asarray(jax.devices()), ("batch",))
  rows = PartitionSpec("batch")

  def part(*arrays):
    mask = arrays[3]
    sums = {n: masks.masked_mean(f(*arrays), mask if n in TOKEN else jnp.any(mask, -1)) for n, f in ALL.items()}
    return jax.lax.psum(sums, "batch")

  total = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=rows, out_specs=PartitionSpec()))(*arrays)
  for name, (value, denominator) in total.items():
    np.testing.assert_allclose(masks.divide(value, denominator), reduced(name, *arrays), rtol=1e-4, atol=1e-6)


@every
def test_bad_input_is_named(name):
  new, old, advantages, mask = example()
  with pytest.raises(ValueError, match=r"expected .* shape .*\(6, 7\).*got|expected arrays of one shape, got"):
    ALL[name](new[:, 1:], old, advantages, mask)
  with pytest.raises(ValueError, match="expected logprobs of a float dtype, got int32"):
    ALL[name](new.astype(np.int32), old, advantages, mask)
  if name != "sequence_ratio":
    with pytest.raises(ValueError, match=r"advantages|reference_logprobs|teacher_logprobs"):
      ALL[name](new, old, advantages.astype(np.int32), mask)
