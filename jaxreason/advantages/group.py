"""Floor 0: advantages from the other samples of the same prompt.

What enters: rewards [P, G], a static group axis, and which of them were judged. What leaves: advantages [P, G].
P prompts, G samples.
"""

import jax
import jax.numpy as jnp

from jaxreason.advantages.statistics import centre, count, deviation, group_inputs, quotient
from jaxreason.inputs import one_of


def group_relative(
  rewards: jax.Array,
  valid: jax.Array | None = None,
  *,
  std: str | None = "group",
  ddof: int = 1,
  eps: float = 1e-4,
  leave_one_out: bool = False,
) -> jax.Array:
  """How much better a sample is than its group.

    Âᵢ = (Rᵢ - mean(R)) / (std(R) + ε)

  Args:
    rewards: [..., P, G] float.
    valid: [..., P, G] bool, False for a sample without a verdict: it gets 0 and enters nobody's statistics. None: all.
    std: "group" divides by the group's standard deviation, "batch" by that of all valid rewards about their common mean
      (Lite PPO, Liu et al. 2025, https://arxiv.org/abs/2508.08221, and TRL; AReaL takes each about its group's mean, which
      is smaller), None by nothing (Dr. GRPO).
    ddof: what is taken off the count in the variance; 1 as in TRL, verl, SkyRL and ROLL, 0 in open-instruct. The paper
      does not say.
    eps: added to the standard deviation; 1e-4 in TRL, 1e-6 in verl, SkyRL and ROLL, 1e-5 in AReaL, 1e-8 in open-instruct.
    leave_one_out: mean and group deviation are those of the group's other samples, as in NeMo RL; where these are all
      equal the difference is left undivided, so that the one right answer of a group is not blown up by 1/ε. (AReaL's
      leave-one-out has the other samples' mean, but a deviation of all samples, each about its own such mean.)

  Returns:
    [..., P, G] float32 (float64 for float64); 0 in groups with fewer than two valid samples, and wherever all rewards of
    a group are equal.

  Raises:
    ValueError: an unknown std, integer rewards, an empty group, or shapes that do not match.

  Source: GRPO, Shao et al. 2024, section 4.1.2, https://arxiv.org/abs/2402.03300.
  """
  one_of("group_relative", ("group", "batch", None), std=std)
  rewards, valid = group_inputs("group_relative", rewards, valid)
  centred = centre(rewards, valid)
  # Rᵢ - mean of the others = n / (n - 1) (Rᵢ - mean of all).
  judged = count(valid, -1, rewards.dtype)
  difference = centred * judged / jnp.maximum(judged - 1, 1) if leave_one_out else centred
  if std is None:
    return difference
  if std == "group" and leave_one_out:
    others = _deviation_of_others(rewards, valid, ddof)
    return jnp.where(others > 0, difference / (others + eps), difference)
  if std == "group":
    return quotient(difference, deviation(centred, valid, ddof=ddof) + eps)
  common = centre(rewards, valid, axis=(-2, -1))
  return quotient(difference, deviation(common, valid, axis=(-2, -1), ddof=ddof) + eps)


def centered(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """A sample's reward less its group's mean, undivided: a hard and an easy prompt weigh what their rewards say.

    Âᵢ = Rᵢ - mean(R)

  Args:
    rewards: [..., P, G] float.
    valid: [..., P, G] bool, False for a sample without a verdict. None: all.

  Returns:
    [..., P, G] float32 (float64 for float64).

  Raises:
    ValueError: integer rewards, an empty group, or shapes that do not match.

  Source: Dr. GRPO, Liu et al. 2025, section 3.2, https://arxiv.org/abs/2503.20783. AReaL's example of that name divides
  by the batch's deviation afterwards, which the paper does not.
  """
  return group_relative(rewards, valid, std=None)


def leave_one_out(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """RLOO: a sample's reward less the mean of the group's others, an unbiased baseline.

    Âᵢ = Rᵢ - 1/(n - 1) Σ_{j ≠ i} Rⱼ = n/(n - 1) (Rᵢ - mean(R))

  Args:
    rewards: [..., P, G] float. TRL takes β Σₜ (log π - log π_ref) off them first (β 0.05), the paper too; verl does not.
    valid: [..., P, G] bool, False for a sample without a verdict. None: all; n counts the valid ones.

  Returns:
    [..., P, G] float32 (float64 for float64); 0 for the only valid sample of a group (verl would keep its reward; its
    vectorised form and TRL give 0). TRL's `normalize_advantages` is `whiten(..., eps=1e-4, variance_eps=0)` of it.

  Raises:
    ValueError: integer rewards, an empty group, or shapes that do not match.

  Source: Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740; Kool et al. 2019.
  """
  return group_relative(rewards, valid, std=None, leave_one_out=True)


def lite_ppo(rewards: jax.Array, valid: jax.Array | None = None, *, ddof: int = 1, eps: float = 1e-4) -> jax.Array:
  """The group's mean taken off, the batch's deviation divided by: an easy prompt's small spread is not blown up.

    Âᵢ = (Rᵢ - mean_group(R)) / (std_batch(R) + ε)

  Args:
    rewards: [..., P, G] float; P x G is the batch.
    valid: [..., P, G] bool, False for a sample without a verdict. None: all.
    ddof: what is taken off the count in the variance.
    eps: ε; 1e-4 in TRL (`scale_rewards="batch"`), 1e-5 in AReaL. The paper does not say.

  Returns:
    [..., P, G] float32 (float64 for float64).

  Raises:
    ValueError: integer rewards, an empty group, or shapes that do not match.

  Source: Liu et al. 2025, https://arxiv.org/abs/2508.08221. AReaL takes the deviation about each group's
  mean, which is smaller.
  """
  return group_relative(rewards, valid, std="batch", ddof=ddof, eps=eps)


def _deviation_of_others(rewards, valid, ddof):
  """For each sample, the standard deviation of the group's other valid ones: [..., P, G], by pairs, exact at 0."""
  size = rewards.shape[-1]
  others = valid[..., None, :] & ~jnp.eye(size, dtype=bool).reshape((1,) * (rewards.ndim - 1) + (size, size))
  values = jnp.broadcast_to(rewards[..., None, :], others.shape)
  return deviation(centre(values, others), others, ddof=ddof)[..., 0]
