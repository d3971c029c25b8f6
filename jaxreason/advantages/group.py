"""Floor 0: advantages from the other samples of the same prompt.

What enters: rewards [P, G], a static group axis, and which of them were judged. What leaves: advantages [P, G].
P prompts, G samples.
"""

import chex
import jax
import jax.numpy as jnp


def group_relative(
  rewards: jax.Array,
  valid: jax.Array | None = None,
  *,
  std: str | None = "group",
  ddof: int = 1,
  eps: float = 1e-4,
) -> jax.Array:
  """How much better a sample is than its group.

    Âᵢ = (Rᵢ - mean(R)) / (std(R) + ε)

  Args:
    rewards: [..., P, G] float32.
    valid: [..., P, G] bool, False for a sample without a verdict: it gets 0 and enters nobody's statistics. None: all.
    std: "group" divides by the group's standard deviation, "batch" by that of all valid rewards about their common mean
      (Lite PPO, Liu et al. 2025, https://arxiv.org/abs/2508.08221, and TRL; AReaL takes each about its group's mean, which
      is smaller), None by nothing (Dr. GRPO).
    ddof: what is taken off the count in the variance; 1 as in TRL and verl, 0 in open-instruct. The paper does not say.
    eps: added to the standard deviation; 1e-4 in TRL, 1e-6 in verl.

  Returns:
    [..., P, G] float32; 0 in groups with fewer than two valid samples, and wherever all rewards of a group are equal.

  Raises:
    ValueError: an unknown std.

  Source: GRPO, Shao et al. 2024, section 4.1.2, https://arxiv.org/abs/2402.03300.
  """
  if std not in ("group", "batch", None):
    raise ValueError(f"group_relative expected std 'group', 'batch' or None, got {std!r}")
  rewards = rewards.astype(jnp.float32)
  valid = jnp.ones(rewards.shape, bool) if valid is None else valid.astype(bool)
  chex.assert_equal_shape([rewards, valid])
  count = jnp.sum(valid, axis=-1, keepdims=True).astype(jnp.float32)
  kept = valid & (count >= 2)
  mean = jnp.sum(jnp.where(valid, rewards, 0.0), axis=-1, keepdims=True) / jnp.maximum(count, 1.0)
  centred = jnp.where(kept, rewards - mean, 0.0)
  # A mean of equal numbers may differ from them by a rounding, which a small std would blow up.
  centred = jnp.where(jnp.abs(centred) > 1e-6 * jnp.maximum(jnp.abs(mean), 1.0), centred, 0.0)
  if std is None:
    return centred
  if std == "group":
    deviation = jnp.sqrt(jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / jnp.maximum(count - ddof, 1.0))
  else:
    batch = dict(axis=(-2, -1), keepdims=True)
    total = jnp.sum(valid, **batch).astype(jnp.float32)
    common = jnp.sum(jnp.where(valid, rewards, 0.0), **batch) / jnp.maximum(total, 1.0)
    squares = jnp.where(valid, jnp.square(rewards - common), 0.0)
    deviation = jnp.sqrt(jnp.sum(squares, **batch) / jnp.maximum(total - ddof, 1.0))
  return centred / (deviation + eps)
