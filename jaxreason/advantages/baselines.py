"""Floor 0: advantages whose baseline is not the plain mean of the group: a greedy answer, a mean weighed by length, and
GPG's mean with a factor for the groups that teach nothing.

What enters: rewards [P, G] and what the baseline needs. What leaves: advantages [P, G]. P prompts, G samples.
"""

import jax
import jax.numpy as jnp

from jaxreason.advantages.statistics import centre, count, group_inputs, quotient
from jaxreason.inputs import counts, flags, floats, one_of, shaped


def remax(
  rewards: jax.Array, greedy_rewards: jax.Array, valid: jax.Array | None = None, greedy_valid: jax.Array | None = None
) -> jax.Array:
  """A sample's reward less that of the prompt's greedy answer.

    Âᵢ = Rᵢ - R(greedy)

  Args:
    rewards: [..., P, G] float; G = 1 is the paper's.
    greedy_rewards: [..., P] float, of one greedily decoded answer a prompt.
    valid: [..., P, G] bool, False for a sample without a verdict. None: all.
    greedy_valid: [..., P] bool, False where the greedy answer has no verdict: its prompt's samples get 0. None: all.

  Returns:
    [..., P, G] float32 (float64 for float64). verl takes the baseline off the rewards from each token on, which is the
    same where the reward falls on the last token.

  Raises:
    ValueError: integer rewards, an empty group, or shapes that do not match.

  Source: Li et al. 2023, https://arxiv.org/abs/2310.10505.
  """
  rewards, valid = group_inputs("remax", rewards, valid)
  (greedy,) = floats("remax", greedy_rewards=greedy_rewards)
  (greedy,) = shaped("remax", rewards.shape[:-1], greedy_rewards=greedy)
  if greedy_valid is not None:
    (judged,) = flags("remax", greedy.shape, greedy_valid=greedy_valid)
    greedy, valid = jnp.where(judged, greedy, 0), valid & judged[..., None]
  return jnp.where(valid, rewards - greedy[..., None], 0)


def opo(rewards: jax.Array, lengths: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """A sample's reward less its group's mean weighed by length, the baseline of least variance under on-policy sampling.

    Âᵢ = Rᵢ - Σⱼ lⱼ Rⱼ / Σⱼ lⱼ

  Args:
    rewards: [..., P, G] float.
    lengths: [..., P, G] int or float, the answers' lengths in tokens; they stand for the squared norm of the score.
    valid: [..., P, G] bool, False for a sample without a verdict. None: all.

  Returns:
    [..., P, G] float32 (float64 for float64); 0 in groups with fewer than two valid samples (verl gives a lone sample its
    reward) or with equal rewards.

  Raises:
    ValueError: integer rewards, an empty group, or shapes that do not match.

  Source: Hao et al. 2025, https://arxiv.org/abs/2505.23585.
  """
  rewards, valid = group_inputs("opo", rewards, valid)
  (lengths,) = shaped("opo", rewards.shape, lengths=counts("opo", lengths=lengths)[0])
  lengths = jnp.where(valid, lengths, 0).astype(rewards.dtype)
  # Of centred rewards, so that equal ones give exactly 0.
  centred = centre(rewards, valid)
  baseline = quotient(jnp.sum(lengths * centred, -1, keepdims=True), jnp.sum(lengths, -1, keepdims=True))
  return jnp.where(valid, centred - baseline, 0)


def gpg(rewards: jax.Array, valid: jax.Array | None = None, *, alpha: str | None = "groups", f_norm: float = 1.0) -> jax.Array:
  """The group's mean taken off, and the batch scaled up for the samples whose gradient is zero.

    Âᵢ = α (Rᵢ - mean(R)) / F_norm,   α = B / (B - M)

  Args:
    rewards: [..., P, G] float.
    valid: [..., P, G] bool, False for a sample without a verdict. None: all; B counts the valid ones.
    alpha: what M counts. "groups": the samples of groups whose rewards are all equal, the paper's; "zero_rewards": the
      samples whose reward is 0, verl's; None: α = 1.
    f_norm: F_norm; 1 in verl, the group's deviation would be GRPO.

  Returns:
    [..., P, G] float32 (float64 for float64); 0 where nothing in the batch teaches.

  Raises:
    ValueError: an unknown alpha, integer rewards, an empty group, or shapes that do not match.

  Source: Chu et al. 2025, https://arxiv.org/abs/2504.02546.
  """
  one_of("gpg", ("groups", "zero_rewards", None), alpha=alpha)
  rewards, valid = group_inputs("gpg", rewards, valid)
  centred = centre(rewards, valid)
  if alpha is None:
    return centred / f_norm
  telling = jnp.any(centred != 0, axis=-1, keepdims=True) if alpha == "groups" else rewards != 0
  batch = count(valid, (-2, -1), rewards.dtype)
  return centred * batch / jnp.maximum(count(valid & telling, (-2, -1), rewards.dtype), 1) / f_norm
