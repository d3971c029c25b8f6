"""The numbers of TRL, case by case: each is composed of a surrogate, a KL, weights and a reduction of ours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxreason import losses, masks

# Cases that are not computed here, and why.
DIFFERENCES = {
  **{
    f"trl.dpo.{form}": "a form that jaxreason.losses.dpo does not offer"
    for form in ("nca_pair", "bco_pair", "sppo_hard", "apo_down", "discopop", "exo_pair")
  },
  "trl.dpo.sigmoid.wpo": "WPO weighs pairs by the logits' Σp², which are not among the case's inputs",
}
FAMILIES = ("trl.grpo.", "trl.gmpo.", "trl.vespo.", "trl.dpo.", "trl.rloo.loss.")
CASES = [name for name in reference.CASES if name.startswith(FAMILIES) and name not in DIFFERENCES]
LENGTH = 24  # tokens, the completion budget of the reference's runs
uncapped = {"log_ratio_cap": None}


def close(got, expected):
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def sequence_log_ratio(logprobs, old, mask):
  """[B, T]: every token's log ratio is its row's mean one."""
  mean = jnp.log(losses.sequence_ratio(logprobs, old, mask, **uncapped))
  return jnp.broadcast_to(mean[:, None], mask.shape)


def surrogate(parameters, logprobs, old, advantages, mask, log_weights):
  """[B, T]: the loss of each token before KL, weights and reduction."""
  loss_type = parameters["loss_type"]
  if loss_type == "vespo":
    return losses.vespo(logprobs, old - log_weights, advantages, mask)
  if parameters.get("importance_sampling_level") == "sequence":
    log_ratio = sequence_log_ratio(logprobs, old, mask)
    if loss_type == "cispo":  # the weight is the row's, the gradient the token's
      logprobs, old = logprobs, jax.lax.stop_gradient(logprobs - log_ratio)
    else:
      logprobs, old = log_ratio, jnp.zeros_like(log_ratio)
  if loss_type == "cispo":
    return losses.cispo(logprobs, old, advantages, max_ratio=parameters["epsilon_high"], **uncapped)
  if loss_type == "sapo":
    return losses.sapo(logprobs, old, advantages, **uncapped)
  low = parameters.get("epsilon", 0.2)
  high = parameters.get("epsilon_high", low)
  return losses.clipped_surrogate(
    logprobs, old, advantages, clip_low=low, clip_high=high, max_ratio=parameters.get("delta"), **uncapped
  )


def kept_rows(parameters, logprobs, inputs, log_weights):
  """TRL's off-policy sequence mask, by the sampler's log-probs."""
  if "off_policy_mask_threshold" not in parameters:
    return 1.0
  distance = (inputs["logp_old"] - log_weights - logprobs) * inputs["mask"]
  distance = distance.sum(-1) / inputs["mask"].sum(-1)
  keep = (inputs["adv"] >= 0) | (distance <= parameters["off_policy_mask_threshold"])
  return jax.lax.stop_gradient(keep[:, None].astype(jnp.float32))


def grpo(parameters, inputs, weights, logprobs):
  mask = inputs["mask"]
  old = inputs.get("logp_old", jax.lax.stop_gradient(logprobs))
  advantages = inputs["adv"] if inputs["adv"].ndim == 2 else jnp.broadcast_to(inputs["adv"][:, None], mask.shape)
  log_weights = jnp.broadcast_to(jnp.log(weights), mask.shape) if parameters["is_ratio"] else jnp.zeros_like(mask)
  loss = surrogate(parameters, logprobs, old, advantages, mask, log_weights)
  loss = loss * kept_rows(parameters, logprobs, inputs, log_weights)
  if "top_entropy_quantile" in parameters:
    loss = loss * losses.high_entropy_mask(inputs["entropy"], mask, fraction=parameters["top_entropy_quantile"])
  if parameters["is_ratio"] and parameters["loss_type"] != "vespo":
    loss = loss * weights
  if parameters.get("beta"):
    unbiased = parameters.get("use_bias_correction_kl", True)
    kl = losses.kl_k3(logprobs, inputs["logp_ref"], unbiased=unbiased, behavior_logprobs=old, **uncapped)
    loss = loss + parameters["beta"] * kl
  reduction = {
    "grpo": masks.sequence_mean, "sapo": masks.sequence_mean, "luspo": masks.sequence_sum,
    "dr_grpo": functools.partial(masks.constant_norm, length=LENGTH),
  }.get(parameters["loss_type"], masks.token_mean)  # fmt: skip
  loss = masks.divide(*reduction(loss, mask))
  if "entropy_coef" in parameters:
    loss = loss - parameters["entropy_coef"] * masks.divide(*masks.token_mean(inputs["entropy"], mask))
  return loss / divisor(parameters)


def divisor(parameters):
  """A micro-batch's mean is shared among the accumulated steps; the global token count covers all of them already."""
  return 1 if parameters["loss_type"] in ("dapo", "cispo", "vespo") else parameters["gradient_accumulation_steps"]


def gmpo(parameters, inputs, weights, logprobs):
  loss = losses.geometric_mean_surrogate(logprobs, inputs["logp_old"], inputs["adv"], inputs["mask"], **uncapped)
  loss = jnp.mean(loss)
  if parameters.get("beta"):
    kl = losses.kl_k3(logprobs, inputs["logp_ref"], **uncapped)
    loss = loss + parameters["beta"] * masks.divide(*masks.sequence_mean(kl, inputs["mask"]))
  return loss


def rloo(parameters, inputs, weights, logprobs):
  total = lambda x: jnp.sum(x * inputs["mask"], axis=-1)
  loss = losses.clipped_surrogate(total(logprobs), total(inputs["logp_old"]), inputs["adv"], clip_low=0.2, clip_high=0.2)
  return jnp.mean(loss)


def dpo(parameters, inputs, weights, logprobs):
  """Rows 0-7 are the chosen answers, 8-15 the rejected ones."""
  mask, form = inputs["mask"], parameters["loss_type"]
  lengths = mask.sum(-1)
  total = lambda x: jnp.sum(x * mask, axis=-1)
  if form == "sft":
    return masks.divide(*masks.token_mean(losses.sft(logprobs[:8]), mask[:8]))
  if "ld_alpha" in parameters:  # tokens beyond the pair's shorter length weigh less
    shared = jnp.tile(jnp.minimum(lengths[:8], lengths[8:]), 2)
    within = jnp.cumsum(mask, axis=-1) <= shared[:, None]
    total = lambda x: jnp.sum(x * mask * jnp.where(within, 1.0, parameters["ld_alpha"]), axis=-1)
  if form in ("ipo", "sigmoid_norm"):
    total = lambda x: jnp.sum(x * mask, axis=-1) / lengths
  new, ref = total(logprobs), total(inputs["logp_ref"])
  chosen, rejected = new[:8] - ref[:8], new[8:] - ref[8:]
  if form == "aot":  # optimal transport: sort the differences of policy and reference, each on its own
    chosen, rejected = jnp.sort(new[:8] - new[8:]), jnp.sort(ref[:8] - ref[8:])
  if form == "aot_unpaired":
    chosen, rejected = jnp.sort(chosen), jnp.sort(rejected)
  zero = jnp.zeros_like(chosen)
  named = form if form in ("hinge", "ipo", "robust", "apo_zero") else "sigmoid"
  loss = losses.dpo(
    chosen, rejected, zero, zero, beta=parameters["beta"], form=named, divergence=DIVERGENCES[parameters["f_divergence_type"]],
    label_smoothing=parameters.get("label_smoothing", 0.0), alpha=parameters.get("f_alpha_divergence_coef", 0.5), **uncapped,
  )  # fmt: skip
  return jnp.mean(loss)


DIVERGENCES = {"reverse_kl": "reverse_kl", "forward_kl": "forward_kl", "js_divergence": "js", "alpha_divergence": "alpha"}
COMPOSED = {"grpo": grpo, "gmpo": gmpo, "rloo": rloo, "dpo": dpo}


@pytest.mark.parametrize("name", [name for name in CASES if "vespo.gamma" not in name])
def test_losses_and_gradients_are_those_of_trl(name):
  parameters, inputs, expected = reference.case(name)
  inputs = {key: jnp.asarray(value) for key, value in inputs.items()}
  weights = jnp.asarray(expected["is_ratio"]) if "is_ratio" in expected else None
  loss = functools.partial(COMPOSED[name.split(".")[1]], parameters, inputs, weights)
  value, gradient = jax.value_and_grad(loss)(inputs["logp_new"])
  close(value, expected["loss"])
  close(gradient, expected["grad"])


@pytest.mark.parametrize(("name", "old"), [("trl.vespo.gamma.None", "logp_old"), ("trl.vespo.gamma.token", "logp_rollout")])
def test_weight_of_vespo_is_that_of_trl(name, old):
  """With a sampler correction from old to rollout, the weight is that of new over rollout."""
  parameters, inputs, expected = reference.case(name)
  arrays = {key: jnp.asarray(reference.array(key)) for key in ("logp_new", old, "mask")}
  weight = losses.vespo_weight(
    arrays["logp_new"], arrays[old], jnp.asarray(inputs["adv"]), arrays["mask"],
    k_positive=parameters["k_pos"], lambda_positive=parameters["lambda_pos"],
    k_negative=parameters["k_neg"], lambda_negative=parameters["lambda_neg"],
  )  # fmt: skip
  close(weight, expected["phi"][:, 0])


def test_every_case_is_covered_or_a_stated_difference():
  """A case that no test asks for would be silent: each family's ids are run, and each difference is an id."""
  assert DIFFERENCES.keys() <= reference.CASES.keys()
  for family in FAMILIES:
    assert any(name.startswith(family) for name in CASES)
  assert all(name.split(".")[1] in COMPOSED or name.startswith("trl.vespo.gamma.") for name in CASES)
  others = {name for name in reference.CASES if name.startswith(("trl.grpo", "trl.gmpo", "trl.vespo", "trl.dpo"))}
  assert others == {name for name in CASES if not name.startswith("trl.rloo")} | DIFFERENCES.keys()
