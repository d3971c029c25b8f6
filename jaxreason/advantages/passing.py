"""Floor 0: advantages for passing at all, rather than for the mean reward: maximum likelihood and pass@k.

What enters: rewards [P, G] and which of them were judged. What leaves: advantages [P, G]. P prompts, G samples.
"""

import jax
import jax.numpy as jnp

from jaxreason.advantages.group import leave_one_out
from jaxreason.advantages.statistics import centre, count, deviation, group_inputs, quotient, root
from jaxreason.inputs import one_of


def max_rl(rewards: jax.Array, valid: jax.Array | None = None, *, eps: float = 0.0) -> jax.Array:
  """Maximum likelihood of a right answer: a prompt weighs the inverse of its pass rate.

    Âᵢ = (Rᵢ - mean(R)) / (mean(R) + ε)

  Args:
    rewards: [..., P, G] float, not negative; 0 and 1 in the paper.
    valid: [..., P, G] bool, False for a sample without a verdict. None: all.
    eps: ε; 0 in prime-rl.

  Returns:
    [..., P, G] float32 (float64 for float64); 0 where a group's mean is not positive, has fewer than two valid samples or
    equal rewards.

  Raises:
    ValueError: integer rewards, an empty group, or shapes that do not match.

  Source: Tajwar et al. 2026, https://arxiv.org/abs/2602.02710; the mean is taken off to lower the variance.
  """
  rewards, valid = group_inputs("max_rl", rewards, valid)
  mean = quotient(jnp.sum(rewards, -1, keepdims=True), count(valid, -1, rewards.dtype))
  return jnp.where(mean > 0, quotient(centre(rewards, valid), mean + eps), 0)


def pass_at_k(
  rewards: jax.Array,
  valid: jax.Array | None = None,
  *,
  k: int | None = None,
  baseline: str = "leave_one_out",
  std: str | None = None,
  ddof: int = 1,
  eps: float = 1e-6,
) -> jax.Array:
  """What a sample adds to the best of k, in the mean over all ways to draw k of the group.

    "leave_one_out":  Âᵢ = E_S[max(R_S, Rᵢ) - max(R_S)],   S any k - 1 other samples
    "mean":           Âᵢ = E_S[max(R_S) | i ∈ S] - E_S[max(R_S)],   S any k samples

  Args:
    rewards: [..., P, G] float; right or wrong for pass@k, any number for max@k.
    valid: [..., P, G] bool, False for a sample without a verdict. None: all.
    k: from 1 to G. None: all n valid samples of the group, so that only the best one gets something: its reward less that
      of the second best (verl's `grpo_passk`, which also divides by the group's deviation).
    baseline: "leave_one_out" is unbiased: the mean of Âᵢ ∇log π over the group is the gradient of max@k, over k.
    std: None divides by nothing; "group" by the deviation of the rewards + ε (verl: ddof 1, ε 1e-6); "subsets" by that of
      max(R_S) (Chen et al.).
    ddof: of "group".
    eps: ε of "group".

  Returns:
    [..., P, G] float32 (float64 for float64); 0 in groups with fewer than k or two valid samples, or with equal rewards.
    k = 1 is `leave_one_out`, and with the baseline "mean" `centered`.

  Raises:
    ValueError: k outside of 1 to G, an unknown baseline or std, integer rewards, or shapes that do not match.

  Source: Walder and Karkhanis 2025, https://arxiv.org/abs/2505.15201 (leave-one-out minus one); Tang et al. 2025,
  https://arxiv.org/abs/2503.19595 (k = n); Chen et al. 2025, https://arxiv.org/abs/2508.10751 (mean, subsets).
  """
  one_of("pass_at_k", ("leave_one_out", "mean"), baseline=baseline)
  one_of("pass_at_k", ("group", "subsets", None), std=std)
  rewards, valid = group_inputs("pass_at_k", rewards, valid)
  if k is not None and not 1 <= k <= rewards.shape[-1]:
    raise ValueError(f"pass_at_k expected k from 1 to the group's size of {rewards.shape[-1]}, got {k}")
  centred = centre(rewards, valid)
  size = count(valid, -1, rewards.dtype)
  draws = jnp.where(valid.any(-1, keepdims=True), size if k is None else k, 1)
  maxima, deviations = _best_of(centred, valid, size, draws)
  if baseline == "mean":
    advantages = _best_with(centred, valid, size, draws) - maxima
  else:
    advantages = leave_one_out(rewards, valid) if k == 1 else _added(centred, valid, size, draws)
  if std is not None:
    advantages = quotient(advantages, deviation(centred, valid, ddof=ddof) + eps if std == "group" else deviations)
  telling = jnp.any(centred != 0, axis=-1, keepdims=True)
  return jnp.where(valid & telling & (size >= draws) & (size >= 2), advantages, 0)


def _below(rewards, valid):
  """[..., P, G]: how many valid samples rank below each, ties in the order of the array; and [..., P, G, G]: j below i."""
  size = rewards.shape[-1]
  mine, other = rewards[..., :, None], rewards[..., None, :]
  earlier = jnp.tril(jnp.ones((size, size), bool), -1).reshape((1,) * (rewards.ndim - 1) + (size, size))
  below = ((other < mine) | ((other == mine) & earlier)) & valid[..., None, :] & valid[..., :, None]
  return jnp.sum(below, axis=-1).astype(rewards.dtype), below


def _ways(above, of, draws, size):
  """C(above, draws) / C(of, draws) as a product of ratios, for draws up to the static `size`; 0 where above < draws."""
  step = jnp.arange(size, dtype=above.dtype).reshape((1,) * above.ndim + (size,))
  ratios = jnp.maximum(above[..., None] - step, 0) / jnp.maximum(of[..., None] - step, 1)
  return jnp.prod(jnp.where(step < draws[..., None], ratios, 1), axis=-1)


def _best_of(rewards, valid, size, draws):
  """Mean and deviation, [..., P, 1], of the best of `draws` of the group's samples."""
  rank, _ = _below(rewards, valid)
  share = jnp.where(valid, _ways(rank, size - 1, draws - 1, rewards.shape[-1]) * draws / jnp.maximum(size, 1), 0)
  mean = jnp.sum(share * rewards, axis=-1, keepdims=True)
  return mean, root(jnp.sum(share * jnp.square(rewards - mean), axis=-1, keepdims=True))


def _best_with(rewards, valid, size, draws):
  """[..., P, G]: the mean best of `draws` samples that hold this one."""
  rank, below = _below(rewards, valid)
  slots = rewards.shape[-1]
  mine = rewards * _ways(rank, size - 1, draws - 1, slots)
  # Another sample is the best where it ranks above this one, and the draws - 2 left over rank below it.
  share = _ways(rank - 1, size - 2, draws - 2, slots) * jnp.maximum(draws - 1, 0) / jnp.maximum(size - 1, 1)
  above = jnp.swapaxes(below, -1, -2)
  return mine + jnp.sum(jnp.where(above, (rewards * share)[..., None, :], 0), axis=-1)


def _added(rewards, valid, size, draws):
  """[..., P, G]: how much the best of draws - 1 others rises, in the mean, when this sample joins them."""
  rank, below = _below(rewards, valid)
  # The best of the others is j with this probability; only those below the sample matter, and it is not among theirs.
  share = _ways(rank, size - 2, draws - 2, rewards.shape[-1]) * jnp.maximum(draws - 1, 0) / jnp.maximum(size - 1, 1)
  gain = rewards[..., :, None] - rewards[..., None, :]
  return jnp.sum(jnp.where(below, gain * share[..., None, :], 0), axis=-1)
