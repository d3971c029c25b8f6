"""The numbers of TRL and verl for advantages, corrections and shaping, each with that system's own constants.

Numbers under a mask of 0 are nobody's and are not compared.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxreason import advantages, corrections, losses, shaping

P, G, T = 4, 4, 24
FAMILIES = (
  "trl.adv", "trl.is", "trl.opsm", "trl.rloo", "trl.reward", "trl.mask_truncated",
  "verl.adv", "verl.is", "verl.rs", "verl.offpolicy_metrics", "verl.kl_controller",
)  # fmt: skip

# Cases that jaxreason does not reproduce, with the reason.
DIFFERENCES = {}
# Cases of methods that jaxreason does not have.
OUT_OF_SCOPE = {
  "verl.kl_controller": "a controller of the KL coefficient over steps is a schedule, and no function of a batch",
}


def array(name):
  return jnp.asarray(reference._FILE[f"in/main/{name}"])


MASK = reference._FILE["in/main/mask"].astype(bool)
REWARDS, REWARDS_MULTI, REWARDS_NAN = array("rewards"), array("rewards_multi"), array("rewards_multi_nan")
WEIGHTS = np.asarray([1.0, 0.5, 0.2], np.float32)
TOKEN_REWARDS = array("token_rewards")


def grouped(x):
  return jnp.asarray(x).reshape(P, G, *jnp.shape(x)[1:])


def close(got, expected, mask=None):
  got, expected = np.asarray(got, np.float64).reshape(np.shape(expected)), np.asarray(expected, np.float64)
  got, expected = (got, expected) if mask is None else (got[mask], expected[mask])
  np.testing.assert_array_less(np.abs(got - expected), 1e-5 + 1e-4 * np.abs(expected) + 1e-30)


def per_token(sample_advantages):
  return np.asarray(sample_advantages).reshape(P * G, 1) * MASK


def combined(name):
  """[P, G] rewards and validity from TRL's weighed sum of several, where a missing one adds nothing."""
  if not name.endswith((".multi", ".nan")):
    return grouped(REWARDS), None
  several = np.asarray(REWARDS_NAN if name.endswith(".nan") else REWARDS_MULTI)
  total = np.where(np.isnan(several).all(1), np.nan, np.nansum(several * WEIGHTS, axis=1))
  return grouped(total), grouped(~np.isnan(total))


TRL_ADVANTAGES = {
  f"trl.adv.grpo.{std}{kind}": lambda rewards, valid, std=std: advantages.group_relative(
    rewards, valid, std=None if std == "none" else std, eps=1e-4
  )
  for std in ("group", "batch", "none")
  for kind in ("", ".multi", ".nan")
} | {"trl.mask_truncated": advantages.group_relative}


@pytest.mark.parametrize("name", TRL_ADVANTAGES)
def test_advantages_of_trl(name):
  _, _, expected = reference.case(name)
  rewards, valid = combined(name)
  close(TRL_ADVANTAGES[name](rewards, valid), expected["adv"])
  if name == "trl.mask_truncated":
    cut_off = np.arange(P * G) % 5 == 1
    close(shaping.overlong_filter(MASK, cut_off), expected["completion_mask"])


@pytest.mark.parametrize("name", ["trl.adv.gdpo.multi", "trl.adv.gdpo.nan"])
def test_gdpo_of_trl(name):
  rewards = grouped(REWARDS_NAN if name.endswith("nan") else REWARDS_MULTI)
  got = advantages.gdpo(rewards, ~jnp.isnan(rewards), weights=WEIGHTS, eps=1e-4)
  close(got, reference.case(name)[2]["adv"])


RLOO = ["trl.adv.rloo.default", "trl.adv.rloo.kl", "trl.adv.rloo.norm", "trl.adv.rloo.clip"]


@pytest.mark.parametrize("name", RLOO)
def test_rloo_of_trl(name):
  params, _, expected = reference.case(name)
  low, high = params.get("reward_clip_range", (-np.inf, np.inf))
  rewards = shaping.reward_clip(REWARDS, low=low, high=high)
  rewards -= params["beta"] * jnp.sum((array("logp_old") - array("logp_ref")) * MASK, axis=1)
  got = advantages.leave_one_out(grouped(rewards))
  if params.get("normalize_advantages"):
    got = advantages.whiten(got, jnp.ones((P, G), bool), eps=1e-4, variance_eps=0.0)
  close(got, expected["adv"])


def test_rloo_loss_of_trl():
  """RLOO's surrogate is the clipped one with a sequence as its only action."""
  _, _, expected = reference.case("trl.rloo.loss.main")
  old = jnp.sum(array("logp_old") * MASK, axis=1)

  def loss(logprobs):
    ratio_of = jnp.sum(logprobs * MASK, axis=1)
    return jnp.mean(losses.clipped_surrogate(ratio_of, old, array("adv"), log_ratio_cap=None))

  value, gradient = jax.value_and_grad(loss)(array("logp_new"))
  close(value, expected["loss"])
  close(gradient, expected["grad"])


def sample_rewards():
  return grouped(TOKEN_REWARDS.sum(1))


def otb(align="position", importance_weights=None, **options):
  arrays = (TOKEN_REWARDS, array("logp_old"), array("sum_pi_sq"), MASK)
  weights = None if importance_weights is None else grouped(importance_weights)
  got = advantages.optimal_token_baseline(
    *(grouped(x) for x in arrays), importance_weights=weights, align=align, eps=1e-8, **options
  )
  return np.asarray(got).reshape(P * G, T)


def verl_gdpo():
  total = advantages.gdpo(grouped(REWARDS_MULTI), weights=WEIGHTS, batch_normalize=False, eps=1e-6)
  return advantages.whiten(jnp.asarray(per_token(total)), MASK)


def verl_gae(**options):
  got, returns = advantages.gae(array("token_rewards_dense"), array("values"), MASK, **options)
  return advantages.whiten(got, MASK), returns


VERL = {
  "verl.adv.gae.g1.0l1.0.main": lambda: verl_gae(gamma=1.0, lam=1.0),
  "verl.adv.gae.g0.99l0.95.main": lambda: verl_gae(gamma=0.99, lam=0.95),
  "verl.adv.grpo.main": lambda: per_token(advantages.group_relative(sample_rewards(), eps=1e-6)),
  "verl.adv.grpo_nostd.main": lambda: per_token(advantages.centered(sample_rewards())),
  "verl.adv.grpo_vectorized.main": lambda: per_token(advantages.group_relative(sample_rewards(), eps=1e-6)),
  "verl.adv.grpo_passk.main": lambda: per_token(advantages.pass_at_k(sample_rewards(), std="group")),
  "verl.adv.grpo_passk_nostd.main": lambda: per_token(advantages.pass_at_k(sample_rewards())),
  "verl.adv.rf++baseline.main": lambda: advantages.reinforce_plus_plus_baseline(sample_rewards(), grouped(MASK)),
  "verl.adv.rloo.main": lambda: per_token(advantages.leave_one_out(sample_rewards())),
  "verl.adv.rloo_vectorized.main": lambda: per_token(advantages.leave_one_out(sample_rewards())),
  "verl.adv.opo.main": lambda: per_token(advantages.opo(sample_rewards(), grouped(MASK.sum(1)))),
  "verl.adv.gpg.main": lambda: per_token(advantages.gpg(sample_rewards(), alpha="zero_rewards")),
  "verl.adv.rf++.g1.0.main": lambda: advantages.reinforce_plus_plus(TOKEN_REWARDS, MASK, gamma=1.0),
  "verl.adv.rf++.g0.98.main": lambda: advantages.reinforce_plus_plus(TOKEN_REWARDS, MASK, gamma=0.98),
  "verl.adv.remax.main": lambda: per_token(advantages.remax(TOKEN_REWARDS.sum(1)[:, None], array("reward_baselines"))),
  "verl.adv.otb.zt0.main": lambda: otb(zero_tail=False),
  "verl.adv.tir_otb.zt0.main": lambda: otb("count", zero_tail=False),
  "verl.adv.otb.zt1.main": lambda: otb(zero_tail=True),
  "verl.adv.tir_otb.zt1.main": lambda: otb("count", zero_tail=True),
  "verl.adv.otb.is.main": lambda: otb(importance_weights=array("is_weights")),
  "verl.adv.gdpo.main": verl_gdpo,
}


@pytest.mark.parametrize("name", VERL)
def test_advantages_of_verl(name):
  expected = reference.case(name)[2]
  got = VERL[name]()
  if isinstance(got, tuple):
    got, returns = got
    close(returns, expected["returns"], MASK)
  close(got, expected["adv"], MASK)


TRL_LEVELS = {"token": "token", "sequence": "sequence"}
TRL_IS = [
  f"trl.is.{level}_{kind}.{bounds}" for level in TRL_LEVELS for kind in ("truncate", "mask") for bounds in ("main", "min")
]
FUNCTIONS = {"truncate": corrections.truncated_importance_weights, "mask": corrections.masked_importance_weights}


@pytest.mark.parametrize("name", TRL_IS)
def test_importance_weights_of_trl(name):
  params, _, expected = reference.case(name)
  level, kind = params["is_mode"].split("_")
  upper, lower = params["vllm_importance_sampling_clip_max"], params.get("vllm_importance_sampling_clip_min")
  got = FUNCTIONS[kind](
    array("logp_old"), array("logp_rollout"), MASK, level=TRL_LEVELS[level], upper=upper, lower=lower, log_ratio_cap=None
  )
  close(got, np.broadcast_to(expected["is_ratio"], MASK.shape), MASK)
  close(advantages.group_relative(grouped(REWARDS)), expected["adv"])


@pytest.mark.parametrize("name", ["trl.opsm.0.0", "trl.opsm.0.02", "trl.opsm.0.5"])
def test_opsm_of_trl(name):
  params, _, expected = reference.case(name)
  got = corrections.opsm(array("logp_new"), array("logp_rollout"), array("adv"), MASK, threshold=params["delta"])
  np.testing.assert_array_equal(got, MASK & expected["mask"].astype(bool))


def test_overlong_penalty_of_trl():
  got = shaping.overlong_penalty(jnp.arange(25), max_length=20, cache=6)
  close(got, reference.case("trl.reward.soft_overlong")[2]["reward"])


VERL_IS = [
  f"verl.is.{level}.{bounds}.bn{norm}.main" for level in TRL_LEVELS for bounds in ("2.0", "0.5_5.0") for norm in (0, 1)
]


@pytest.mark.parametrize("name", VERL_IS)
def test_importance_weights_of_verl(name):
  params, _, expected = reference.case(name)
  lower, _, upper = str(params["rollout_is_threshold"]).rpartition("_")
  options = dict(level=params["rollout_is"], upper=float(upper), batch_normalize=params["rollout_is_batch_normalize"])
  if lower:
    got = corrections.masked_importance_weights(array("logp_old"), array("logp_rollout"), MASK, lower=float(lower), **options)
  else:
    got = corrections.truncated_importance_weights(array("logp_old"), array("logp_rollout"), MASK, **options)
  close(got, expected["weights"], MASK)
  if name == "verl.is.token.0.5_5.0.bn0.main":
    close(corrections.icepop(array("logp_old"), array("logp_rollout"), MASK), expected["weights"], MASK)


VERL_RS = [f"verl.rs.token_k{k}.main" for k in (1, 2, 3)] + [
  f"verl.rs.seq_{by}_k{k}.main" for by in ("sum", "mean", "max") for k in (1, 2, 3) if (by, k) != ("max", 1)
]


@pytest.mark.parametrize("name", VERL_RS)
def test_rejection_of_verl(name):
  params, _, expected = reference.case(name)
  *level, estimator = params["rollout_rs"].split("_")
  lower, _, upper = params["rollout_rs_threshold"].rpartition("_")
  bounds = dict(upper=np.log(float(upper)), lower=np.log(float(lower))) if estimator == "k1" else dict(upper=float(upper))
  got = corrections.rejection_mask(
    array("logp_old"),
    array("logp_rollout"),
    MASK,
    estimator=estimator,
    level="token" if level == ["token"] else "sequence",
    aggregate="mean" if level == ["token"] else level[1],
    **bounds,
  )
  np.testing.assert_array_equal(got, expected["mask"].astype(bool))


VERL_METRICS = {
  "kl": "kl_k1",
  "k3_kl": "kl_k3",
  "chi2_token": "chi2_token",
  "chi2_seq": "chi2_sequence",
  "training_ppl": "trainer_perplexity",
  "training_log_ppl": "trainer_nll",
  "rollout_ppl": "sampler_perplexity",
  "rollout_log_ppl": "sampler_nll",
  "ppl_ratio": "perplexity_ratio",
  "log_ppl_diff": "nll_difference_mean",
  "log_ppl_abs_diff": "nll_difference_abs",
  "log_ppl_diff_max": "nll_difference_max",
  "log_ppl_diff_min": "nll_difference_min",
}


def test_diagnostics_of_verl():
  expected = reference.case("verl.offpolicy_metrics.main")[2]
  got = corrections.diagnostics(array("logp_old"), array("logp_rollout"), MASK)
  assert VERL_METRICS.keys() == expected.keys()
  for theirs, ours in VERL_METRICS.items():
    close(got[ours], expected[theirs])


def test_every_case_of_these_families_is_held_to_account():
  covered = [*TRL_ADVANTAGES, "trl.adv.gdpo.multi", "trl.adv.gdpo.nan", *RLOO, "trl.rloo.loss.main", *VERL, *TRL_IS]
  covered += ["trl.opsm.0.0", "trl.opsm.0.02", "trl.opsm.0.5", "trl.reward.soft_overlong", *VERL_IS, *VERL_RS]
  covered += ["verl.offpolicy_metrics.main", *DIFFERENCES, *OUT_OF_SCOPE]
  cases = {name for name in reference.CASES if name.startswith(FAMILIES)}
  assert len(covered) == len(set(covered))
  assert set(covered) == cases
