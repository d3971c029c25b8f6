"""Laws of recipes: each is an objective that takes finite steps, and on the sampler's own answers most are one gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxreason import objective, policy, update
from jaxreason.cli import config as configs
from jaxreason.errors import UserError
from jaxreason.recipes import RECIPES, recipe
from jaxreason.settings import default_config, freeze

P, G, T = 4, 4, 5


@jax.jit
def logprobs_of(params, batch):
  given = (batch.tokens, batch.prompt_lengths, batch.lengths)
  return policy.completion_logprobs(params, tiny.CONFIG, *given, T, temperature=1.0)[0]


@pytest.fixture(scope="module")
def batch():
  """Answers of the tiny model under its own log-probs, at rewards of 0 and 1, with one sample nobody could judge."""
  made = tiny.batch(1, rows=P * G, completion=T)
  logprobs = np.where(made.mask, logprobs_of(tiny.params(), made), 0).astype(np.float32)
  return made.replace(behavior_logprobs=logprobs, reference_logprobs=logprobs)


def advantages_of(chosen, batch):
  rewards = jnp.asarray(np.random.default_rng(0).integers(0, 2, (P, G)), jnp.float32)
  judged = jnp.ones((P, G), bool).at[1, 2].set(False)
  found = objective.advantages(chosen, rewards, judged, jnp.asarray(batch.mask).reshape(P, G, T))
  assert found.shape == (P, G, T)
  assert not np.asarray(found[1, 2]).any()
  return np.asarray(found).reshape(P * G, T)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_finite_steps_that_raise_what_was_rewarded(name, batch):
  chosen = RECIPES[name]
  batch = batch.replace(advantages=advantages_of(chosen, batch))
  step = tiny.update(objective=chosen, micro_batches=2)
  state = update.initialize(jax.tree.map(jnp.asarray, tiny.params()), tiny.optimizer())
  for number in range(3):
    state, stats = step(state, batch, 1.0)
    assert all(np.isfinite(value) for value in stats.values())
    assert stats["skipped"] == 0
    assert stats["grad_norm"] > 0 or number > 0  # later steps on the same answers may lie outside the trust region
  after = logprobs_of(state.params, batch)
  assert np.sum(np.where(batch.mask, batch.advantages * (after - batch.behavior_logprobs), 0)) > 0


SAME_REDUCTION = {
  "token_mean": ("dapo", "cispo", "vespo", "dppo"),
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
  batch = jax.tree.map(jnp.asarray, batch.replace(advantages=advantages_of(RECIPES["dapo"], batch)))
  expected = jnp.where(batch.mask, -batch.advantages, 0) / batch.mask.sum()
  np.testing.assert_allclose(gradient(RECIPES[name], batch), expected, atol=1e-6)


@pytest.mark.parametrize("name", SAME_REDUCTION["sequence_mean"])
def test_on_own_samples_a_mean_over_answers_is_the_policy_gradient(name, batch):
  """Each answer's advantage is shared among its tokens; LUSPO's is not, so that it weighs answers by their length."""
  batch = jax.tree.map(jnp.asarray, batch.replace(advantages=advantages_of(RECIPES["gspo"], batch)))
  lengths = batch.mask.sum(-1, keepdims=True)
  share = 1 if name == "luspo" else lengths
  expected = jnp.where(batch.mask, -batch.advantages / share, 0) / len(batch.mask)
  np.testing.assert_allclose(gradient(RECIPES[name], batch), expected, atol=1e-6)


def test_micro_batches_change_no_recipe(batch):
  for name in ("gspo", "topr"):
    chosen = RECIPES[name]
    given = batch.replace(advantages=advantages_of(chosen, batch))
    compute = functools.partial(update.value_and_gradients, config=tiny.CONFIG, objective=chosen)
    one, two = (jax.jit(functools.partial(compute, micro_batches=m))(tiny.params(), given, 1.0)[0] for m in (1, 4))
    assert optax.tree.norm(jax.tree.map(jnp.subtract, one, two)) < 1e-5 * optax.tree.norm(one)


def test_a_recipe_is_set_by_its_name_and_single_fields_follow():
  config = configs.apply(default_config(), [("objective", "dapo"), ("objective.clip_high", "0.3")])
  chosen = freeze(config).objective
  assert (chosen.clip_high, chosen.reduction, chosen.kl_coef) == (0.3, "token_mean", 0.0)
  changed = default_config()
  changed.objective.update(recipe("gspo"))
  assert freeze(changed).objective == RECIPES["gspo"]


def test_an_unknown_recipe_is_told():
  with pytest.raises(UserError, match=r"config.objective expected one of grpo, .*, got 'gsop' \(did you mean 'gspo'\?\)"):
    configs.apply(default_config(), [("objective", "gsop")])
