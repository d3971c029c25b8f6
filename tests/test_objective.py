"""Laws of the objective: a choice of functions, no more; its terms add up, and a wrong choice is told in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import advantages, losses, masks, objective
from jaxreason.errors import UserError
from jaxreason.objective import Objective
from jaxreason.records import Batch


def example(seed=0, rows=4, tokens=5):
  generator = np.random.default_rng(seed)
  draw = lambda: generator.normal(size=(rows, tokens)).astype(np.float32)
  batch = Batch(
    tokens=np.zeros((rows, 2 * tokens), np.int32),
    prompt_lengths=np.full(rows, tokens, np.int32),
    lengths=np.full(rows, 2 * tokens, np.int32),
    mask=generator.random((rows, tokens)) < 0.7,
    behavior_logprobs=draw() - 2,
    advantages=draw(),
    reference_logprobs=draw() - 2,
  )
  return jax.tree.map(jnp.asarray, batch), jnp.asarray(draw() - 2), jnp.abs(jnp.asarray(draw()))


def test_a_loss_is_the_sum_of_its_terms():
  batch, logprobs, entropy = example()
  chosen = Objective(clip_low=0.1, clip_high=0.3, kl_coef=0.05, entropy_coef=0.01)
  surrogate = losses.clipped_surrogate(logprobs, batch.behavior_logprobs, batch.advantages, clip_low=0.1, clip_high=0.3)
  expected = surrogate + 0.05 * losses.kl_k3(logprobs, batch.reference_logprobs) - 0.01 * entropy
  np.testing.assert_allclose(objective.token_losses(chosen, logprobs, entropy, batch), expected, rtol=1e-6)
  np.testing.assert_array_equal(objective.token_losses(objective.SFT, logprobs, entropy, batch), -logprobs)


def test_an_entropy_bonus_raises_entropy():
  """Descending the loss with a bonus alone moves towards the uniform distribution."""
  batch, _, _ = example()
  batch = batch.replace(advantages=jnp.zeros_like(batch.advantages))
  entropy_of = lambda logits: -jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits))
  fill = lambda value: jnp.full(batch.mask.shape, value)
  loss = lambda logits: objective.token_losses(Objective(entropy_coef=0.1), fill(0.0), fill(entropy_of(logits)), batch).mean()
  logits = jnp.asarray([2.0, 0.0, -1.0])
  assert entropy_of(logits - 0.5 * jax.grad(loss)(logits)) > entropy_of(logits)


@pytest.mark.parametrize(
  ("name", "function"),
  [
    ("token_mean", masks.token_mean),
    ("sequence_mean", masks.sequence_mean),
    ("constant_norm", lambda values, mask: masks.constant_norm(values, mask, length=9)),
  ],
)
def test_reduction_by_name(name, function):
  batch, logprobs, _ = example()
  assert objective.reduce(Objective(reduction=name, norm_length=9), logprobs, batch) == function(logprobs, batch.mask)


def test_the_constant_norm_of_a_budget_does_not_see_the_width_of_the_batch():
  batch, logprobs, _ = example()
  wide = lambda x: jnp.pad(x, ((0, 0), (0, 4)))
  chosen = Objective(reduction="constant_norm", norm_length=9)
  padded = batch.replace(mask=wide(batch.mask))
  assert objective.reduce(chosen, wide(logprobs), padded) == objective.reduce(chosen, logprobs, batch)


@pytest.mark.parametrize(("name", "std"), [("group", "group"), ("batch", "batch"), ("none", None)])
def test_advantage_by_name(name, std):
  rewards = jnp.asarray(np.random.default_rng(0).random((3, 4)), jnp.float32)
  judged = jnp.ones((3, 4), bool).at[1, 2].set(False)
  got = objective.advantages(Objective(advantage_std=name), rewards, judged, jnp.ones((3, 4, 5), bool))
  expected = advantages.group_relative(rewards, judged, std=std)
  np.testing.assert_array_equal(got, np.broadcast_to(np.asarray(expected)[..., None], (3, 4, 5)))


def test_diagnostics_are_scalars_under_known_names():
  batch, logprobs, entropy = example()
  plain = objective.diagnostics(Objective(), logprobs, entropy, batch)
  assert {"entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "rollout_corr/k3_kl"} <= set(plain)
  assert set(objective.diagnostics(Objective(kl_coef=0.1), logprobs, entropy, batch)) - set(plain) == {"kl"}
  assert set(objective.diagnostics(objective.SFT, logprobs, entropy, batch)) == {"entropy", "nll"}
  assert all(value.shape == () and np.isfinite(value) for value in plain.values())


@pytest.mark.parametrize("surrogate", ["clipped", "gspo", "cispo"])
def test_on_the_sampled_policy_nothing_is_clipped_and_nothing_differs(surrogate):
  batch, _, entropy = example()
  numbers = objective.diagnostics(Objective(surrogate=surrogate, max_ratio=5.0), batch.behavior_logprobs, entropy, batch)
  zeros = {name for name in numbers if "clip" in name or "difference" in name or "kl" in name or "chi2" in name}
  assert len(zeros) >= 6 and all(float(numbers[name]) == pytest.approx(0, abs=1e-6) for name in zeros)
  assert numbers["sampling/importance_sampling_ratio/mean"] == pytest.approx(1)


def test_clip_fractions_are_shares_of_the_tokens_that_the_clip_silences():
  batch, _, entropy = example()
  batch = batch.replace(advantages=jnp.ones_like(batch.advantages))
  logprobs = batch.behavior_logprobs + jnp.where(jnp.arange(5) < 2, 0.5, 0.0)[None]
  numbers = objective.diagnostics(Objective(), logprobs, entropy, batch)
  share = np.asarray(batch.mask)[:, :2].sum() / np.asarray(batch.mask).sum()
  assert numbers["clip_ratio/high_mean"] == numbers["clip_ratio/region_mean"] == pytest.approx(share)
  assert numbers["clip_ratio/low_mean"] == 0


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (dict(surrogate="cliped"), "objective.surrogate expected one of .*, got 'cliped' .did you mean 'clipped'"),
    (dict(reduction="tokenmean"), "objective.reduction expected one of .*did you mean 'token_mean'"),
    (dict(advantage_std="grup"), "objective.advantage_std expected one of .*did you mean 'group'"),
    (dict(clip_low=1.0), r"objective.clip_low expected in \[0, 1\)"),
    (dict(clip_high=-0.1), "clip_high >= 0"),
    (dict(kl_coef=-1.0), "objective.kl_coef expected >= 0, got -1.0"),
    (dict(high_entropy_fraction=1.5), r"objective.high_entropy_fraction expected in \[0, 1\], got 1.5"),
    (dict(correction="truncated"), "weighs by π/μ, which surrogate clipped does already; set objective.proximal=policy"),
    (dict(surrogate="none"), "objective.distill_coef expected above 0 with surrogate none"),
  ],
)
def test_a_wrong_choice_is_told_in_one_line(changes, told):
  with pytest.raises(UserError, match=told) as error:
    Objective(**changes)
  assert "\n" not in str(error.value)


def test_an_objective_is_a_static_argument():
  assert hash(Objective()) == hash(Objective())
  assert Objective() == Objective()
  assert Objective(clip_high=0.3) != Objective()


def test_what_falls_out_of_a_trust_region_is_told():
  """GMPO's bounds are nats; of DPPO, tokens whose probability moved by more than δ the way their advantage points."""
  batch, _, entropy = example()
  batch = batch.replace(mask=jnp.ones_like(batch.mask), advantages=jnp.ones_like(batch.advantages))
  batch = batch.replace(behavior_logprobs=jnp.full(batch.mask.shape, jnp.log(0.5)))
  logprobs = jnp.log(jnp.where(jnp.arange(5) < 2, 0.8, 0.55))[None] * jnp.ones((4, 1))
  for chosen in (Objective(surrogate="gmpo", clip_high=0.4), Objective(surrogate="dppo_tv", clip_high=0.15, max_ratio=20.0)):
    numbers = objective.diagnostics(chosen, logprobs, entropy, batch)
    assert numbers["clip_ratio/region_mean"] == pytest.approx(0.4)
