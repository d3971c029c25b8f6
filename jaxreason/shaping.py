"""Floor 0, shaping: what is added to, or made of, a verifier's reward before advantages are taken.

What enters: rewards and lengths in tokens. What leaves: rewards. Leading axes are free.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import counts, flags, floats, shaped, with_axes


def overlong_penalty(lengths: jax.Array, *, max_length: float, cache: float, factor: float = 1.0) -> jax.Array:
  """A penalty that grows over the last tokens before the budget, to be added to the reward.

    0 up to L_max - L_cache,   ((L_max - L_cache) - l) / L_cache up to L_max,   -1 beyond; times f

  Args:
    lengths: [...] int or float, answers' lengths in tokens.
    max_length: L_max, tokens. The paper's: 20,480, of which
    cache: L_cache, tokens, more than 0: 4,096.
    factor: f; 1 in the paper and TRL. AReaL has f too, and no floor at -f: past L_max its penalty grows on.

  Returns:
    [...] float32, in [-f, 0].

  Raises:
    ValueError: a cache that is not in (0, max_length].

  Source: DAPO, Yu et al. 2025, eq. 13, https://arxiv.org/abs/2503.14476.
  """
  if not 0 < cache <= max_length:
    raise ValueError(f"overlong_penalty expected cache in (0, max_length={max_length}], got {cache}")
  (lengths,) = counts("overlong_penalty", lengths=lengths)
  return factor * jnp.clip((max_length - cache - lengths) / cache, -1.0, 0.0)


def overlong_filter(mask: jax.Array, truncated: jax.Array) -> jax.Array:
  """The mask, emptied for answers that were cut off: they are neither right nor wrong.

  Args:
    mask: [..., T] bool or 0/1.
    truncated: [...] bool, True for an answer that ran out of its budget.

  Returns:
    [..., T] bool. The advantages of the others are as they were (TRL's `mask_truncated_completions`): a cut answer's reward
    still counts in its group, unless it is also left out of the group's validity.

  Raises:
    ValueError: shapes that do not match.

  Source: DAPO, Yu et al. 2025, section 3.4 (overlong filtering), https://arxiv.org/abs/2503.14476.
  """
  mask = jnp.asarray(mask)
  with_axes("overlong_filter", "[..., T]", mask=mask)
  (truncated,) = flags("overlong_filter", mask.shape[:-1], truncated=truncated)
  return mask.astype(bool) & ~truncated[..., None]


def length_cosine(
  correct: jax.Array,
  lengths: jax.Array,
  *,
  max_length: float,
  correct_short: float = 2.0,
  correct_long: float = 1.0,
  wrong_short: float = -10.0,
  wrong_long: float = 0.0,
  exceeded: float = -10.0,
) -> jax.Array:
  """A reward that falls with the length of a right answer and rises with that of a wrong one.

    R_L + (R_0 - R_L) (1 + cos(π l / L_max)) / 2,   and R_e at l ≥ L_max

  Args:
    correct: [...] bool, or a reward in [0, 1] that counts as right above 0.5.
    lengths: [...] int or float, tokens.
    max_length: L_max, tokens.
    correct_short: R_0 of right answers, at length 0.
    correct_long: R_L of right answers, at length L_max.
    wrong_short: R_0 of wrong answers.
    wrong_long: R_L of wrong answers.
    exceeded: R_e, for any answer that fills the budget.

  Returns:
    [...] float32. (The paper's CosFn, read by its names: the value at length 0 is R_0. The defaults are those of the
    authors' scripts; open-r1 and TRL have 1, 0.5, -1 and -0.5, TRL without an R_e.)

  Raises:
    ValueError: shapes that do not match, or a max_length that is not positive.

  Source: Yeo et al. 2025, appendix C.1, https://arxiv.org/abs/2502.03373.
  """
  if not max_length > 0:
    raise ValueError(f"length_cosine expected max_length > 0, got {max_length}")
  (lengths,) = counts("length_cosine", lengths=lengths)
  (correct,) = shaped("length_cosine", lengths.shape, correct=correct)
  right = correct if correct.dtype == bool else correct > 0.5
  fall = (1 + jnp.cos(jnp.pi * jnp.minimum(lengths, max_length) / max_length)) / 2
  start, end = jnp.where(right, correct_short, wrong_short), jnp.where(right, correct_long, wrong_long)
  return jnp.where(lengths >= max_length, exceeded, end + (start - end) * fall)


def reward_clip(
  rewards: jax.Array, *, low: float = -20.0, high: float = 20.0, bias: float = 0.0, scale: float = 1.0
) -> jax.Array:
  """(R + bias) scale, clipped.

  Args:
    rewards: [...] float.
    low: the smallest reward. -20 and 20 are AReaL's; TRL's RLOO clips only when it is told to, before the KL comes off.
    high: the largest.
    bias: added first; -0.5 in AReaL's examples.
    scale: multiplied next; 10 in AReaL's examples.

  Returns:
    [...] float32 (float64 for float64).

  Raises:
    ValueError: integer rewards, or low above high.
  """
  (rewards,) = floats("reward_clip", rewards=rewards)
  if low > high:
    raise ValueError(f"reward_clip expected low <= high, got {low} and {high}")
  return jnp.clip((rewards + bias) * scale, low, high)


def turn_discount(rewards: jax.Array, valid: jax.Array | None = None, *, discount: float = 0.9) -> jax.Array:
  """What each turn of a dialogue is worth: its own reward and, discounted, those of the turns after it.

    Gₙ = rₙ + γ Gₙ₊₁

  Args:
    rewards: [..., N] float, one for each turn.
    valid: [..., N] bool, False for turns that were not taken; they are passed over with no discount. None: all.
    discount: γ a turn, in [0, 1]; 0.9 in AReaL's multi-turn examples (1 in its configuration), where a reward on the last
      of N turns reaches the first as γᴺ⁻¹ of itself.

  Returns:
    [..., N] float32 (float64 for float64), 0 for turns not taken.

  Raises:
    ValueError: integer rewards, or shapes that do not match.

  Source: `turn_discount` of AReaL, https://github.com/inclusionAI/AReaL.
  """
  (rewards,) = floats("turn_discount", rewards=rewards)
  with_axes("turn_discount", "[..., N]", rewards=rewards)
  (valid,) = flags("turn_discount", rewards.shape, valid=jnp.ones(rewards.shape, bool) if valid is None else valid)

  def join(later, sooner):
    (later_factor, later_sum), (factor, total) = later, sooner
    return factor * later_factor, total + factor * later_sum

  factors = jnp.where(valid, discount, 1.0).astype(rewards.dtype)
  terms = factors, jnp.where(valid, rewards, 0)
  return jnp.where(valid, jax.lax.associative_scan(join, terms, axis=rewards.ndim - 1, reverse=True)[1], 0)
