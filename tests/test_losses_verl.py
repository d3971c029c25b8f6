"""The numbers of verl and AReaL, case by case: each is composed of a surrogate, weights and a reduction of ours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxreason import losses, masks

WIDTH = 24  # tokens, the batch's
uncapped = {"log_ratio_cap": None}


def cases(*families):
  return [name for name in reference.CASES if name.startswith(families)]


def close(got, expected):
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def arrays(name):
  parameters, inputs, expected = reference.case(name)
  inputs = {key: jnp.asarray(value) for key, value in inputs.items()}
  inputs.setdefault("mask", jnp.asarray(reference.array("mask")))
  return parameters, inputs, expected


def reduce(mode, loss, mask, batch=None):
  """verl's aggregation modes; `batch` holds what it was told of the global batch."""
  batch = batch or {}
  if mode == "token-sum":
    return masks.token_mean(loss, mask)[0]
  reduction = {
    "token-mean": masks.token_mean, "seq-mean-token-sum": masks.sequence_sum, "seq-mean-token-mean": masks.sequence_mean,
    "seq-mean-token-sum-norm": functools.partial(masks.constant_norm, length=batch.get("loss_scale_factor", WIDTH)),
  }[mode]  # fmt: skip
  total, denominator = reduction(loss, mask)
  if mode == "token-mean":
    denominator = batch.get("batch_num_tokens", denominator)
  elif "global_batch_size" in batch:
    denominator = batch["global_batch_size"]
  return masks.divide(total * batch.get("dp_size", 1), jnp.asarray(denominator))


def clip_bounds(parameters):
  base = parameters.get("clip_ratio", 0.2)
  low, high = parameters.get("clip_ratio_low", base), parameters.get("clip_ratio_high", base)
  return dict(clip_low=low, clip_high=high)


def clip_cov(parameters, new, old, advantages, mask):
  share = dict(fraction=parameters["clip_cov_ratio"], low=parameters["clip_cov_lb"], high=parameters["clip_cov_ub"])
  chosen = losses.clip_cov_choice(new, old, advantages, mask, jax.random.key(0), **share)
  return losses.clip_cov(new, old, advantages, chosen, **uncapped)


def kl_cov(parameters, new, old, advantages, mask):
  chosen = losses.kl_cov_choice(new, advantages, mask, fraction=parameters["kl_cov_ratio"])
  return losses.kl_cov(new, old, advantages, chosen, kl_coef=0.1, **uncapped)


def dppo(loss, parameters, new, old, advantages, mask):
  low, high = parameters["clip_ratio_low"], parameters["clip_ratio_high"]
  return loss(new, old, advantages, threshold_low=low, threshold_high=high, max_ratio=parameters["clip_ratio_c"])


def cispo(parameters, new, old, advantages, mask):
  bounds = clip_bounds(parameters)
  low, high = 1 - bounds["clip_low"], 1 + bounds["clip_high"]
  return losses.cispo(new, old, advantages, min_ratio=low, max_ratio=high)


SURROGATES = {
  "vanilla": lambda parameters, new, old, advantages, mask: losses.clipped_surrogate(
    new, old, advantages, dual_clip=parameters.get("clip_ratio_c", 3.0), **clip_bounds(parameters)
  ),
  "gspo": lambda parameters, new, old, advantages, mask: losses.gspo_token(
    new, old, advantages, mask, log_ratio_cap=10.0, **clip_bounds(parameters)
  ),
  "sapo": lambda parameters, new, old, advantages, mask: losses.sapo(new, old, advantages),
  "gpg": lambda parameters, new, old, advantages, mask: losses.gpg(new, advantages),
  "dro": lambda parameters, new, old, advantages, mask: losses.dro(new, old, advantages, beta=parameters["dro_beta"]),
  "cispo": cispo,
  "clip_cov": clip_cov,
  "kl_cov": kl_cov,
  "dppo_tv": functools.partial(dppo, losses.dppo_tv),
  "dppo_kl": functools.partial(dppo, losses.dppo_kl),
}


def policy_loss(kind, parameters, inputs, new):
  mask, weights = inputs["mask"], inputs.get("is_weights", 1.0)
  loss = SURROGATES[kind](parameters, new, inputs["logp_old"], inputs["adv"], mask) * weights
  mode = "seq-mean-token-mean" if kind in ("gspo", "sapo") else parameters["loss_agg_mode"]
  return reduce(mode, loss, mask, parameters.get("global_batch_info"))


def geometric_mean_loss(parameters, inputs, new):
  loss = losses.geometric_mean_surrogate(
    new, inputs["logp_old"], inputs["adv"], inputs["mask"], clip_low=0.2, clip_high=0.2, **uncapped
  )
  if "is_weights" in inputs:  # the geometric mean of an answer's weights
    logs = jnp.log(inputs["is_weights"])
    loss = loss * losses.sequence_ratio(logs, jnp.zeros_like(logs), inputs["mask"])
  return jnp.mean(loss)


def bypass_loss(parameters, inputs, new):
  """The sampler's log-probs are the old ones; weights and rejections are taken from the current policy."""
  mask = inputs["mask"]
  log_ratio = jax.lax.stop_gradient(new - inputs["logp_old"])
  if "rollout_rs" in parameters:  # the row's mean ratio within bounds
    low, high = map(float, parameters["rollout_rs_threshold"].split("_"))
    ratio = losses.sequence_ratio(jax.lax.stop_gradient(new), inputs["logp_old"], mask)
    mask = mask * ((ratio >= low) & (ratio <= high))[:, None]
  if parameters["loss_type"] == "ppo_clip":
    loss = losses.clipped_surrogate(new, inputs["logp_old"], inputs["adv"], dual_clip=3.0)
    return masks.divide(*masks.token_mean(loss, mask))
  threshold = str(parameters.get("rollout_is_threshold"))
  if parameters["rollout_is"] == "sequence":
    log_ratio = jnp.broadcast_to(jnp.sum(log_ratio * inputs["mask"], axis=-1, keepdims=True), mask.shape)
  weight = jnp.exp(log_ratio)
  if "_" in threshold:
    low, high = map(float, threshold.split("_"))
    weight = jnp.where((weight >= low) & (weight <= high), weight, 0.0)
  else:
    weight = jnp.minimum(weight, float(threshold))
  return masks.divide(*masks.token_mean(losses.reinforce(new, inputs["adv"] * weight), mask))


@pytest.mark.parametrize("name", cases("verl.loss."))
def test_losses_and_gradients_are_those_of_verl(name):
  parameters, inputs, expected = arrays(name)
  kind = name.split(".")[2]
  compose = {"geo_mean": geometric_mean_loss, "bypass": bypass_loss}.get(kind, functools.partial(policy_loss, kind))
  value, gradient = jax.value_and_grad(functools.partial(compose, parameters, inputs))(inputs["logp_new"])
  close(value, expected["loss"])
  close(gradient, expected["grad"])


def estimate(kind, new, ref):
  """verl's names: a "+" keeps the value and takes the gradient of k2."""
  if kind.endswith("+"):
    k2 = losses.kl_k2(new, ref, **uncapped)
    return jax.lax.stop_gradient(estimate(kind[:-1], new, ref) - k2) + k2
  if kind in ("k3", "low_var_kl"):
    return losses.kl_k3(new, ref, max_value=10.0)
  return {"k1": losses.kl_k1, "k2": losses.kl_k2, "abs": losses.kl_abs}[kind](new, ref, **uncapped)


@pytest.mark.parametrize("name", cases("verl.kl."))
def test_kl_is_that_of_verl(name):
  parameters, inputs, expected = arrays(name)
  loss = lambda new: masks.divide(*masks.token_mean(estimate(parameters["kl_penalty"], new, inputs["ref"]), inputs["mask"]))
  close(estimate(parameters["kl_penalty"], inputs["logp"], inputs["ref"]), expected["kl"])
  value, gradient = jax.value_and_grad(loss)(inputs["logp"])
  close(value, expected["loss"])
  close(gradient, expected["grad"])


@pytest.mark.parametrize("name", cases("verl.agg."))
def test_reduction_is_that_of_verl(name):
  parameters, inputs, expected = arrays(name)
  close(reduce(parameters["loss_agg_mode"], inputs["loss_mat"], inputs["mask"]), expected["loss"])


@pytest.mark.parametrize("name", cases("verl.value_loss."))
def test_value_loss_is_that_of_verl(name):
  parameters, inputs, expected = arrays(name)

  def loss(values):
    each = losses.value_loss(values, inputs["values"], inputs["returns"], clip=parameters["cliprange_value"])
    return reduce(name.split(".")[-1], each, inputs["mask"])

  value, gradient = jax.value_and_grad(loss)(inputs["vpreds"])
  close(value, expected["loss"])
  close(gradient, expected["grad"])


def areal_weights(rule, inputs):
  """AReaL's rejection: (weights, mask) from π_prox over μ."""
  mask = inputs["mask"] > 0
  log_ratio = inputs["proximal"] - inputs["behav"]
  ratio = jnp.exp(log_ratio)
  measure = ratio
  if rule["level"] == "sequence":
    each = log_ratio if rule["metric"] == "ratio" else losses.kl_k3(inputs["proximal"], inputs["behav"])
    mean = jnp.broadcast_to(jnp.mean(each, axis=-1, where=mask, keepdims=True), mask.shape)
    measure = jnp.exp(mean) if rule["metric"] == "ratio" else mean
    ratio = measure if rule["metric"] == "ratio" else ratio
  low, high = rule.get("lower", 0.0), rule["upper"]
  if rule["action"] == "clamp":
    return jnp.clip(ratio, low, high), mask
  return ratio, mask & (measure >= low) & (measure <= high)


def areal_loss(parameters, inputs, new):
  """Token mean over the count before rejection."""
  mask, proximal = inputs["mask"], inputs["proximal"]
  if parameters.get("importance_sampling_level") == "sequence":
    each = losses.sequence_surrogate(new, proximal, inputs["adv"], mask, clip_low=0.2, clip_high=0.2, **uncapped)
    return masks.divide(*masks.token_mean(jnp.broadcast_to(each[:, None], mask.shape), mask))
  weights, inside = jnp.ones_like(mask), mask
  if parameters["rs"]:
    weights, inside = areal_weights(parameters["rs"], inputs)
  loss = losses.decoupled_surrogate(
    new, proximal, inputs["behav"], inputs["adv"], weights=weights, dual_clip=parameters.get("c_clip"), **uncapped
  )
  return masks.divide(masks.token_mean(loss, inside)[0], jnp.sum(mask))


def areal_sapo(parameters, inputs, new):
  old, advantages = jnp.asarray(reference.array("logp_old")), jnp.asarray(reference.array("adv_tok"))
  return masks.divide(*masks.token_mean(losses.sapo(new, old, advantages, **uncapped), inputs["mask"]))


@pytest.mark.parametrize("name", cases("areal.loss."))
def test_losses_and_gradients_are_those_of_areal(name):
  parameters, inputs, expected = arrays(name)
  compose = areal_sapo if "sapo" in name else areal_loss
  new = jnp.asarray(reference.array("logp_new"))
  value, gradient = jax.value_and_grad(functools.partial(compose, parameters, inputs))(new)
  close(value, expected["loss"])
  close(gradient, expected["grad"])
