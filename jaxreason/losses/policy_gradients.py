"""Floor 0, losses: policy gradients without a clip: plain, weighted, tapered, and with a squared log ratio.

What enters: log-probabilities of what was taken, and advantages. What leaves: a loss of the same shape, to be minimised.
Each entry may be a token, [..., T], or a whole answer, [...] with its tokens' log-probabilities summed; `topr` says which
by its `level`. Gradients flow to `logprobs` only.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import held, one_of, same_shape
from jaxreason.losses.ratios import answer_inputs, bounded, token_inputs, tokenwise


def reinforce(logprobs: jax.Array, advantages: jax.Array) -> jax.Array:
  """The policy gradient: Lₜ = -Âₜ log π(aₜ|sₜ).

  Args:
    logprobs: [..., T] float, nats.
    advantages: [..., T] float. Importance weights multiply them (`corrections`), as verl's `reinforce` does.

  Returns:
    [..., T] float32.

  Source: Williams 1992, https://doi.org/10.1007/BF00992696.
  """
  logprobs, advantages = same_shape("reinforce", logprobs=logprobs, advantages=advantages)
  return -jax.lax.stop_gradient(advantages) * held(logprobs)


def gpg(logprobs: jax.Array, advantages: jax.Array) -> jax.Array:
  """GPG: Lₜ = -Âₜ log π(aₜ|sₜ), with neither ratio, clip nor reference; what is its own is the advantage (`advantages.gpg`).

  Args:
    logprobs: [..., T] float, nats.
    advantages: [..., T] float.

  Returns:
    [..., T] float32.

  Source: Chu et al. 2025, https://arxiv.org/abs/2504.02546.
  """
  return reinforce(logprobs, advantages)


def topr(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  level: str = "sequence",
  min_ratio: float = 0.0,
  max_ratio: float = 1.0,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """TOPR: good answers are imitated in full, bad ones only as far as the policy would still give them.

    Lₜ = -Âₜ log π(aₜ|sₜ) where Âₜ > 0,   -sg(clip(ρ, a, b)) Âₜ log π(aₜ|sₜ) elsewhere
    ρ = exp(Σₜ mₜ log rₜ) at level "sequence",   rₜ at level "token"

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [...] or [..., T] float; the paper splits by the reward's sign, the advantage's where the baseline is 0.
    mask: [..., T] bool or 0/1, the answer's tokens.
    level: "sequence" (the paper) or "token" (ROLL).
    min_ratio: a, 0 in the paper and in ROLL.
    max_ratio: b, 1 in the paper and in ROLL.
    log_ratio_cap: nats, of log ρ; or None.

  Returns:
    [..., T] float32, 0 where masked.

  Source: Le Roux et al. 2025, https://arxiv.org/abs/2503.14286.
  """
  one_of("topr", ("sequence", "token"), level=level)
  logprobs, behavior_logprobs, mask = answer_inputs("topr", logprobs, behavior_logprobs, mask)
  advantages = tokenwise("topr", advantages, mask)
  log_ratio = logprobs - behavior_logprobs
  if level == "sequence":
    log_ratio = jnp.broadcast_to(jnp.sum(log_ratio, axis=-1, keepdims=True), mask.shape)
  weight = jnp.clip(jnp.exp(bounded(log_ratio, log_ratio_cap)), min_ratio, max_ratio)
  return -jax.lax.stop_gradient(jnp.where(advantages > 0, 1.0, weight)) * advantages * logprobs


def dro(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  beta: float = 1.0,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """Direct reward optimisation, the policy's part: L = -Â log π + (β/2) (log π - log μ)².

  Args:
    logprobs: [...] float, nats: of whole answers in the paper, of tokens in verl.
    behavior_logprobs: [...] float, nats: of what the policy should stay near to (the paper: the reference).
    advantages: [...] float: reward minus a learned value in the paper.
    beta: strength of the square (the paper's τ: 1.0; verl's `dro_beta` has no default).
    log_ratio_cap: nats; None for whole answers, whose log ratio may well be larger.

  Returns:
    [...] float32.

  Source: Richemond et al. 2024, https://arxiv.org/abs/2405.19107.
  """
  logprobs, behavior_logprobs, advantages = token_inputs("dro", logprobs, behavior_logprobs, advantages)
  return -advantages * logprobs + beta / 2 * jnp.square(bounded(logprobs - behavior_logprobs, log_ratio_cap))


def kimi_quadratic(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  tau: float = 0.1,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """Kimi k1.5's policy mirror descent: L = -(R - R̄) log π + (τ/2) (log π - log μ)².

  Args:
    logprobs: [...] float, nats: of whole answers in the paper, of tokens in ROLL.
    behavior_logprobs: [...] float, nats: of the policy at the start of the iteration.
    advantages: [...] float: reward minus the group's mean reward.
    tau: strength of the square (ROLL: 0.1; the paper prints none).
    log_ratio_cap: nats; None for whole answers, whose log ratio may well be larger.

  Returns:
    [...] float32. The same equation as `dro`, with a baseline that is not learned.

  Source: Kimi k1.5, 2025, eq. 3, https://arxiv.org/abs/2501.12599.
  """
  return dro(logprobs, behavior_logprobs, advantages, beta=tau, log_ratio_cap=log_ratio_cap)
