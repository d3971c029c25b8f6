"""Laws of recipes: each is an objective that takes finite steps, and on the sampler's own answers most are one gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
import tiny

from jaxreason import advantages, objective, passes, policy, update
from jaxreason.cli import config as configs
from jaxreason.cli.training import described
from jaxreason.errors import UserError
from jaxreason.objective import Objective
from jaxreason.recipes import RECIPES, recipe
from jaxreason.settings import default_config, freeze

P, G, T = 4, 4, 5


@jax.jit
def logprobs_of(params, batch):
  given = (batch.tokens, batch.prompt_lengths, batch.lengths)
  return policy.completion_logprobs(params, tiny.CONFIG, *given, T, temperature=1.0)[0]


@pytest.fixture(scope="module")
def batch():
  """Answers of the tiny model under its own log-probs, and under those of a teacher that is another model."""
  made = tiny.batch(1, rows=P * G, completion=T)
  logprobs, theirs = (np.where(made.mask, logprobs_of(tiny.params(seed=seed), made), 0).astype(np.float32) for seed in (0, 1))
  return made.replace(behavior_logprobs=logprobs, reference_logprobs=logprobs, teacher_logprobs=theirs)


def judged(chosen, batch):
  """(the batch as `assemble` leaves it, rewards [P, G]), at rewards of 0 and 1, with one sample nobody could judge."""
  rewards = jnp.asarray(np.random.default_rng(0).integers(0, 2, (P, G)), jnp.float32)
  known = jnp.ones((P, G), bool).at[1, 2].set(False)
  written = jnp.asarray(batch.mask).reshape(P, G, T)
  found = objective.advantages(chosen, rewards, known, written)
  assert found.shape == (P, G, T)
  assert not np.asarray(found[1, 2]).any()
  mask, counted = written & known[..., None], objective.counted(chosen, rewards, known)
  prompt_tokens = np.repeat(np.asarray((mask & counted[..., None]).sum((1, 2))), G).astype(np.float32)
  flat = lambda array: np.asarray(array).reshape(P * G, T)
  made = batch.replace(advantages=flat(found), mask=flat(mask), prompt_tokens=prompt_tokens)
  return made.replace(counted=np.asarray(counted).reshape(P * G) if chosen.zero_variance == "drop" else None), rewards


def started(chosen):
  params = jax.tree.map(jnp.asarray, tiny.params())
  return update.initialize(params, tiny.optimizer(), tiny.critic_optimizer() if chosen.needs_critic else None)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_finite_steps_that_raise_what_was_rewarded(name, batch):
  chosen = RECIPES[name]
  batch, rewards = judged(chosen, batch)
  step, state = tiny.update(objective=chosen, micro_batches=2), started(chosen)
  if chosen.needs_critic:
    valued = jax.jit(functools.partial(passes.with_values, config=tiny.CONFIG, objective=chosen, micro_batches=2))
    batch = valued(state.critic.params, batch, rewards)
  for number in range(3):
    state, stats = step(state, batch, 1.0)
    assert all(np.isfinite(value) for value in stats.values())
    assert stats["skipped"] == 0
    assert stats["grad_norm"] > 0 or number > 0  # later steps on the same answers may lie outside the trust region
  rise = logprobs_of(state.params, batch) - batch.behavior_logprobs
  wanted = batch.teacher_logprobs - batch.behavior_logprobs if chosen.needs_teacher else batch.advantages
  assert np.sum(np.where(batch.mask, wanted * rise, 0)) > 0


SAME_REDUCTION = {
  "token_mean": ("dapo", "cispo", "vespo", "decoupled_ppo", "m2po"),
  "sequence_mean": ("gspo", "gmpo", "luspo"),
}


def gradient(chosen, batch):
  def loss(logprobs):
    losses = objective.token_losses(chosen, logprobs, jnp.zeros_like(logprobs), batch)
    total, denominator = objective.reduce(chosen, losses, batch)
    return total / denominator

  return jax.grad(loss)(jnp.asarray(batch.behavior_logprobs))


@pytest.mark.parametrize("name", SAME_REDUCTION["token_mean"])
def test_on_own_samples_a_token_mean_is_the_policy_gradient(name, batch):
  """At ratio 1 no trust region speaks: the gradient is minus the advantage, over the number of tokens."""
  batch = jax.tree.map(jnp.asarray, judged(RECIPES["dapo"], batch)[0])
  expected = jnp.where(batch.mask, -batch.advantages, 0) / batch.mask.sum()
  np.testing.assert_allclose(gradient(RECIPES[name], batch), expected, atol=1e-6)


@pytest.mark.parametrize("name", SAME_REDUCTION["sequence_mean"])
def test_on_own_samples_a_mean_over_answers_is_the_policy_gradient(name, batch):
  """Each answer's advantage is shared among its tokens; LUSPO's is not, so that it weighs answers by their length."""
  batch = jax.tree.map(jnp.asarray, judged(RECIPES["gspo"], batch)[0])
  lengths = batch.mask.sum(-1, keepdims=True)
  share = 1 if name == "luspo" else jnp.maximum(lengths, 1)
  expected = jnp.where(batch.mask, -batch.advantages / share, 0) / (lengths > 0).sum()
  np.testing.assert_allclose(gradient(RECIPES[name], batch), expected, atol=1e-6)


def stale(batch):
  """The batch as if another policy had sampled it: log ratios of about a nat."""
  noise = np.random.default_rng(5).normal(size=batch.mask.shape)
  return batch.replace(behavior_logprobs=(batch.behavior_logprobs + noise * batch.mask).astype(np.float32))


ACROSS = {
  "gspo": RECIPES["gspo"],
  "scalerl": RECIPES["scalerl"],
  "decoupled_ppo": RECIPES["decoupled_ppo"],
  "m2po": RECIPES["m2po"],
  "clip_cov": Objective(surrogate="clip_cov", cov_fraction=0.2, clip_low=0.9, clip_high=9.0),
  "kl_cov": Objective(surrogate="kl_cov", cov_fraction=0.2, high_entropy_fraction=0.5),
  "rejection": Objective(rejection="k3", rejection_threshold=0.4, reduction="prompt_mean"),
}


@pytest.mark.parametrize("name", ACROSS)
def test_micro_batches_change_no_stale_step(name, batch):
  """Choices are made over the whole minibatch, and denominators belong to it: parts of groups add up to the same step."""
  chosen = ACROSS[name]
  given = stale(judged(chosen, batch)[0])
  compute = functools.partial(update.value_and_gradients, config=tiny.CONFIG, objective=chosen)
  (one, told), (eight, again) = (
    jax.jit(functools.partial(compute, micro_batches=parts))(tiny.params(), given, 1.0) for parts in (1, 8)
  )
  assert optax.tree.norm(jax.tree.map(jnp.subtract, one, eight)) < 1e-5 * optax.tree.norm(one)
  for number in told:
    assert told[number] == pytest.approx(float(again[number]), rel=1e-4, abs=1e-6)
  if "rollout_corr/masked_fraction" in told:
    assert 0 < told["rollout_corr/masked_fraction"] < 1  # what is tested is there


def test_the_pass_over_the_minibatch_is_for_those_that_look_across_it(batch, monkeypatch):
  """And no old-policy pass is made for the others, decoupled PPO among them."""
  calls = []
  monkeypatch.setattr(passes, "completions", lambda *given, **shape: calls.append(1) or (given[1].behavior_logprobs,) * 2)
  for chosen in (*RECIPES.values(), *ACROSS.values(), Objective(high_entropy_fraction=0.5)):
    calls.clear()
    given = jax.tree.map(jnp.asarray, judged(chosen, batch)[0])
    jax.eval_shape(lambda params, chosen=chosen, given=given: update.value_and_gradients(
      params, given, 1.0, config=tiny.CONFIG, objective=chosen), tiny.params())  # fmt: skip
    assert len(calls) == chosen.looks_across


def test_decoupled_ppo_weighs_stale_tokens_back_to_the_sampler(batch):
  """Its gradient is that of the policy, times π_prox/μ where that is at most 5."""
  chosen = RECIPES["decoupled_ppo"]
  fresh, _ = judged(chosen, batch)
  old = jax.tree.map(jnp.asarray, stale(fresh))
  logprobs = jnp.asarray(fresh.behavior_logprobs)

  def loss(logprobs):
    total, denominator = objective.reduce(chosen, objective.token_losses(chosen, logprobs, logprobs, old), old)
    return total / denominator

  ratio = jnp.exp(logprobs - old.behavior_logprobs)
  expected = jnp.where(old.mask & (ratio <= 5), -ratio * old.advantages, 0) / old.mask.sum()
  assert (ratio > 5).any()
  np.testing.assert_allclose(jax.grad(loss)(logprobs), expected, atol=1e-6)


def drifted(batch):
  """The batch with a reference that another model gives."""
  return jax.tree.map(jnp.asarray, batch.replace(reference_logprobs=batch.teacher_logprobs))


@pytest.mark.parametrize("name", ["rloo", "reinforce_pp"])
def test_a_divergence_in_the_reward_lowers_it(name, batch):
  """RLOO's answers lose β Σ k1, REINFORCE++'s tokens β k1 each, before any baseline; the loss has no term of its own."""
  chosen = dataclasses.replace(RECIPES[name], kl_coef=0.3)
  given, rewards = judged(chosen, batch)
  given, known = drifted(given), jnp.ones((P, G), bool).at[1, 2].set(False)
  found = objective.penalized(chosen, rewards, known, given).advantages
  k1 = jnp.where(given.mask, 0.3 * (given.behavior_logprobs - given.reference_logprobs), 0.0)
  if name == "rloo":
    lowered = rewards - k1.sum(-1).reshape(P, G)
    expected = jnp.broadcast_to(advantages.leave_one_out(lowered, known).reshape(-1, 1), found.shape)
  else:
    last = jnp.cumsum(given.mask, -1) == given.mask.sum(-1, keepdims=True)
    tokens = jnp.where(last & given.mask, rewards.reshape(-1, 1), 0.0) - k1
    expected = advantages.reinforce_plus_plus(tokens, given.mask)
  np.testing.assert_allclose(jnp.where(given.mask, found, 0), jnp.where(given.mask, expected, 0), atol=1e-5)
  plain = dataclasses.replace(chosen, kl_coef=0.0)
  losses = [objective.token_losses(each, given.behavior_logprobs, given.behavior_logprobs, given) for each in (chosen, plain)]
  np.testing.assert_array_equal(*losses)


def test_a_critic_learns_returns_with_the_divergence_in_them(batch):
  chosen = dataclasses.replace(RECIPES["ppo"], kl_coef=0.3, kl="k1", kl_in="reward", lam=1.0)
  given, rewards = judged(chosen, batch)
  given = drifted(given)
  _, returns = objective.critic_advantages(chosen, rewards.reshape(-1), jnp.zeros((P * G, T)), given)
  k1 = jnp.where(given.mask, 0.3 * (given.behavior_logprobs - given.reference_logprobs), 0.0)
  whole = jnp.where(given.mask.any(-1), rewards.reshape(-1) - k1.sum(-1), 0.0)
  np.testing.assert_allclose(returns[:, 0], whole, atol=1e-5)  # of the first token: all that follows


def test_a_recipe_of_prompts_leaves_those_of_one_reward_out():
  chosen = RECIPES["scalerl"]
  rewards, known = jnp.asarray([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]), jnp.ones((3, 3), bool).at[2, 1].set(False)
  kept = objective.counted(chosen, rewards, known)
  np.testing.assert_array_equal(kept, [[False] * 3, [True] * 3, [False] * 3])
  found = objective.advantages(chosen, rewards, known, jnp.ones((3, 3, 2), bool))[..., 0]
  centred = np.array([0, 0, 0, -2 / 3, 1 / 3, 1 / 3, 0, 0])
  expected = centred / np.std(centred, ddof=1)
  np.testing.assert_allclose(np.asarray(found)[np.asarray(known)], expected, rtol=1e-4)


def test_m2po_leaves_out_only_what_leads_further_from_the_sampler():
  chosen = RECIPES["m2po"]
  made = tiny.batch(0, rows=2, completion=3)
  ratio = np.array([[1.0, -1.0, 0.1], [1.0, -1.0, 0.1]], np.float32)
  given = made.replace(
    mask=np.ones((2, 3), bool), advantages=np.array([[1.0] * 3, [-1.0] * 3], np.float32), behavior_logprobs=-ratio
  )
  found = objective.choose(chosen, jnp.zeros((2, 3)), jnp.zeros((2, 3)), given, jax.random.key(0))
  np.testing.assert_array_equal(found.kept, [[False, True, True], [True, False, True]])
  np.testing.assert_array_equal(found.mask, given.mask)


def test_a_recipe_is_set_by_its_name_and_single_fields_follow():
  config = configs.apply(default_config(), [("objective.clip_high", "0.3"), ("objective", "dapo")])  # in whatever order
  chosen = freeze(config).objective
  assert (chosen.clip_high, chosen.reduction, chosen.kl_coef) == (0.3, "token_mean", 0.0)


@pytest.mark.parametrize(
  "put",
  [
    lambda config: setattr(config, "objective", "gspo"),
    lambda config: config.update(objective="gspo"),
    lambda config: config.objective.update(recipe("gspo")),
  ],
)
def test_a_config_file_takes_a_recipe_by_its_name(put):
  config = default_config()
  put(config)
  config.objective.clip_low = 1e-4
  assert freeze(config).objective == dataclasses.replace(RECIPES["gspo"], clip_low=1e-4)


def test_a_config_from_scratch_takes_a_recipe_too():
  assert freeze(ml_collections.ConfigDict({"objective": "cispo"})).objective == RECIPES["cispo"]


def test_an_unknown_recipe_is_told():
  with pytest.raises(UserError, match=r"config.objective expected one of grpo, .*, got 'gsop' \(did you mean 'gspo'\?\)"):
    configs.apply(default_config(), [("objective", "gsop")])
  with pytest.raises(UserError, match="did you mean 'gspo'"):
    default_config().objective = "gsop"
  with pytest.raises(UserError, match=r"config.objective expected the name of a recipe, or a section, got 3"):
    default_config().objective = 3


def test_a_run_says_which_recipe_it_is_and_which_models_it_needs():
  assert described(RECIPES["grpo"]) == "grpo (clipped, group_relative, sequence_mean), with a reference"
  changed = dataclasses.replace(RECIPES["ppo"], kl_coef=0.1)
  assert described(changed) == "clipped, gae, token_mean, with a reference and a critic"
