"""Laws of the optimizer: the schedule's values, the clip, and which weights decay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxreason.errors import UserError
from jaxreason.model import weights
from jaxreason.optimizer import OptimizerConfig, schedule, transformation


def rates(config, steps, until):
  return np.array([float(schedule(config, steps)(step)) for step in range(until)])


def test_a_warm_up_rises_in_equal_steps_and_starts_above_zero():
  got = rates(OptimizerConfig(peak_lr=1.0, warmup_steps=4), 10, 7)
  np.testing.assert_allclose(got, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0], rtol=1e-6)


def test_a_cosine_falls_to_its_end_at_the_last_step():
  got = rates(OptimizerConfig(peak_lr=1.0, schedule="cosine", end_lr=0.1), 8, 12)
  expected = 0.1 + 0.9 * (1 + np.cos(np.pi * np.minimum(np.arange(12), 8) / 8)) / 2
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_cosine_begins_where_the_warm_up_ends():
  got = rates(OptimizerConfig(peak_lr=1.0, schedule="cosine", warmup_steps=2, end_lr=0.2), 10, 12)
  after = 0.2 + 0.8 * (1 + np.cos(np.pi * np.minimum(np.arange(10), 8) / 8)) / 2
  np.testing.assert_allclose(got, [0.5, 1.0, *after], rtol=1e-5)


def test_one_step_of_warm_up_and_none_are_the_same():
  one, none = (rates(OptimizerConfig(peak_lr=0.3, warmup_steps=steps), 5, 4) for steps in (1, 0))
  np.testing.assert_allclose(one, none, rtol=1e-6)


def test_without_a_gradient_matrices_decay_and_norms_and_biases_stay():
  params = tiny.params()
  chosen = OptimizerConfig(peak_lr=0.1, weight_decay=0.5)
  made = transformation(chosen, 10, weights.decays(tiny.CONFIG))

  @jax.jit
  def step(params):
    updates, _ = made.update(jax.tree.map(jnp.zeros_like, params), made.init(params), params)
    return updates

  for decays, leaf, update in zip(*map(jax.tree.leaves, (weights.decays(tiny.CONFIG), params, step(params))), strict=True):
    np.testing.assert_allclose(update, -0.05 * leaf if decays else np.zeros_like(leaf), rtol=1e-5)


def first_update(gradient, **changes):
  made = transformation(OptimizerConfig(peak_lr=1.0, eps=1.0, **changes), 10, {"w": False})
  params = {"w": jnp.zeros(2)}
  return np.asarray(made.update({"w": jnp.asarray(gradient)}, made.init(params), params)[0]["w"])


def test_gradients_are_scaled_down_to_the_clip_norm_and_never_up():
  """Adam's first step is g / (|g| + eps), which shows the size of the gradient that reached it."""
  expected = lambda g: -np.asarray(g) / (np.abs(g) + 1.0)
  np.testing.assert_allclose(first_update([30.0, 40.0], clip_norm=1.0), expected([0.6, 0.8]), rtol=1e-5)
  np.testing.assert_allclose(first_update([0.3, 0.4], clip_norm=1.0), expected([0.3, 0.4]), rtol=1e-5)
  np.testing.assert_allclose(first_update([30.0, 40.0], clip_norm=0.0), expected([30.0, 40.0]), rtol=1e-5)


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (dict(schedule="cosin"), "optimizer.schedule expected one of constant, cosine, got 'cosin' .did you mean 'cosine'"),
    (dict(peak_lr=-1.0), "optimizer expected peak_lr and warmup_steps >= 0, got -1.0 and 0"),
    (dict(warmup_steps=-1), "optimizer expected peak_lr and warmup_steps >= 0"),
    (dict(peak_lr=float("nan")), "optimizer expected peak_lr and warmup_steps >= 0, got nan"),
    (dict(clip_norm=-1.0), "optimizer expected end_lr, weight_decay and clip_norm >= 0, got 0.0, 0.0 and -1.0"),
    (dict(weight_decay=-0.1), "weight_decay and clip_norm >= 0, got 0.0, -0.1 and 1.0"),
    (dict(end_lr=-0.1), "expected end_lr"),
    (dict(b1=1.0), r"optimizer expected b1 and b2 in \[0, 1\) and eps > 0, got 1.0, 0.999 and 1e-08"),
    (dict(b2=-0.1), "expected b1 and b2"),
    (dict(eps=0.0), "eps > 0, got 0.9, 0.999 and 0.0"),
  ],
)
def test_a_wrong_setting_is_told_in_one_line(changes, told):
  with pytest.raises(UserError, match=told) as error:
    OptimizerConfig(**changes)
  assert "\n" not in str(error.value)
