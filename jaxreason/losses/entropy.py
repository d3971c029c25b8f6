"""Floor 0, losses: objectives that watch the policy's entropy.

What enters: logits or per-token entropies, log-probabilities, advantages and masks. What leaves: entropies, choices of
tokens, and per-token losses. Choosing and losing are two steps: `*_choice` and `high_entropy_mask` look at all tokens
they are given, so they take the whole minibatch, once, without gradient, before it is cut into micro-batches; the losses
then take the choice as an array. Under `shard_map` gather their inputs first. T tokens, V vocab.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import flags, floats, held, same_shape
from jaxreason.losses.ratios import bounded, token_inputs
from jaxreason.losses.surrogates import clipped_surrogate


def policy_entropy(logits: jax.Array, *, temperature: float = 1.0) -> jax.Array:
  """H = -Σᵥ p log p of p = softmax(logits / temperature), with gradient; minimise -c H for an entropy bonus.

  Args:
    logits: [..., V] float; -∞ marks tokens that cannot be drawn. (`logprobs.from_hidden` gives the same without ever
      holding the logits of all positions.)
    temperature: > 0.

  Returns:
    [...] float32, nats. Bonus coefficients: TRL 0, verl 0, AReaL 0 by default.
  """
  (logits,) = floats("policy_entropy", logits=logits)
  logprobs = jax.nn.log_softmax(logits / temperature)
  possible = logprobs > -jnp.inf
  return -jnp.sum(jnp.where(possible, jnp.exp(logprobs) * jnp.where(possible, logprobs, 0.0), 0.0), axis=-1)


def high_entropy_mask(entropy: jax.Array, mask: jax.Array, *, fraction: float = 0.2) -> jax.Array:
  """The tokens whose entropy is in the highest `fraction` of all: Hₜ >= Q(1 - fraction), Q the quantile over the mask.

  Args:
    entropy: [..., T] float, nats; the quantile is over all axes.
    mask: [..., T] bool or 0/1.
    fraction: in [0, 1] (paper: 0.2; TRL's `top_entropy_quantile`: 1.0, off).

  Returns:
    [..., T] bool, a part of the mask; multiply the loss by it. The quantile is linear between neighbours, as TRL's. TRL
    and the paper keep the denominator of the whole mask.

  Source: Wang et al. 2025, https://arxiv.org/abs/2506.01939.
  """
  (entropy,) = floats("high_entropy_mask", entropy=entropy)
  (mask,) = flags("high_entropy_mask", entropy.shape, mask=mask)
  if not entropy.size:
    return mask
  ordered = jnp.sort(jnp.where(mask, jax.lax.stop_gradient(entropy), jnp.inf), axis=None)
  place = (1 - fraction) * jnp.maximum(jnp.sum(mask) - 1, 0).astype(entropy.dtype)
  below = jnp.floor(place).astype(jnp.int32)
  low, high = ordered[below], ordered[jnp.minimum(below + 1, jnp.maximum(jnp.sum(mask) - 1, 0))]
  threshold = jnp.where(high > low, low + (high - low) * (place - below), low)
  return mask & (entropy >= threshold)


def covariance(logprobs: jax.Array, advantages: jax.Array, mask: jax.Array) -> jax.Array:
  """How much each token's update moves the entropy: (log πₜ - mean log π) (Âₜ - mean Â), means over the mask.

  Args:
    logprobs: [..., T] float, nats.
    advantages: [..., T] float.
    mask: [..., T] bool or 0/1; means are over all axes.

  Returns:
    [..., T] float32, without gradient; what the mask leaves out is -∞.

  Source: Cui et al. 2025, https://arxiv.org/abs/2505.22617.
  """
  return _covariance("covariance", logprobs, advantages, mask)


def clip_cov_choice(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  key: jax.Array,
  *,
  fraction: float = 2e-4,
  low: float = 1.0,
  high: float = 5.0,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
) -> jax.Array:
  """Clip-Cov's choice: at random among the tokens with low < cov < high that PPO's clip has not silenced already.

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [..., T] float.
    mask: [..., T] bool or 0/1.
    key: a PRNG key.
    fraction: of all tokens of the mask; at least one token is chosen where one is eligible (paper and verl: 2e-4).
    low: ω_low (paper and verl: 1).
    high: ω_high (paper and verl: 5).
    clip_low: ε_low of the clip (verl: 0.2).
    clip_high: ε_high of the clip.

  Returns:
    [..., T] bool, for `clip_cov`.

  Source: Cui et al. 2025, https://arxiv.org/abs/2505.22617; leaving clipped tokens out is verl's.
  """
  logprobs, behavior_logprobs, advantages = token_inputs("clip_cov_choice", logprobs, behavior_logprobs, advantages)
  spread = _covariance("clip_cov_choice", logprobs, advantages, mask)
  ratio = jnp.exp(bounded(jax.lax.stop_gradient(logprobs) - behavior_logprobs, 20.0))
  silenced = jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantages < ratio * advantages
  eligible = (spread > low) & (spread < high) & ~silenced
  noise = jnp.where(eligible, jax.random.uniform(key, spread.shape, spread.dtype), -jnp.inf)
  return eligible & _highest(noise, _share(mask, fraction))


def clip_cov(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  chosen: jax.Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """Clip-Cov: `clipped_surrogate`, and 0 without gradient at the chosen tokens.

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [..., T] float.
    chosen: [..., T] bool, from `clip_cov_choice`.
    clip_low: ε_low (verl: 0.2).
    clip_high: ε_high (verl: 0.2).
    log_ratio_cap: nats, or None (verl: none here).

  Returns:
    [..., T] float32, to be minimised.

  Source: Cui et al. 2025, https://arxiv.org/abs/2505.22617.
  """
  loss = clipped_surrogate(
    logprobs, behavior_logprobs, advantages, clip_low=clip_low, clip_high=clip_high, log_ratio_cap=log_ratio_cap
  )
  (chosen,) = flags("clip_cov", loss.shape, chosen=chosen)
  return jnp.where(chosen, 0.0, loss)


def kl_cov_choice(logprobs: jax.Array, advantages: jax.Array, mask: jax.Array, *, fraction: float = 2e-4) -> jax.Array:
  """KL-Cov's choice: the `fraction` of the mask's tokens with the highest `covariance`, at least one; [..., T] bool.

  `fraction`: the paper's k, 2e-4 for 32B and 2e-3 for 7B parameters; verl: 2e-4.
  """
  spread = _covariance("kl_cov_choice", logprobs, advantages, mask)
  return jnp.asarray(mask).astype(bool) & _highest(spread, _share(mask, fraction))


def kl_cov(
  logprobs: jax.Array,
  behavior_logprobs: jax.Array,
  advantages: jax.Array,
  chosen: jax.Array,
  *,
  kl_coef: float = 1.0,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """KL-Cov: the importance weighted policy gradient, unclipped, with a KL penalty at the chosen tokens.

    Lₜ = -rₜ Âₜ + [t chosen] β |log rₜ|

  Args:
    logprobs: [..., T] float, nats.
    behavior_logprobs: [..., T] float, nats.
    advantages: [..., T] float.
    chosen: [..., T] bool, from `kl_cov_choice`.
    kl_coef: β (paper: 1; verl's `ppo_kl_coef`: 0.1).
    log_ratio_cap: nats, or None (verl: none here).

  Returns:
    [..., T] float32, to be minimised.

  Source: Cui et al. 2025, https://arxiv.org/abs/2505.22617; the absolute value is verl's choice of penalty.
  """
  logprobs, behavior_logprobs, advantages = token_inputs("kl_cov", logprobs, behavior_logprobs, advantages)
  (chosen,) = flags("kl_cov", logprobs.shape, chosen=chosen)
  log_ratio = bounded(logprobs - behavior_logprobs, log_ratio_cap)
  return -jnp.exp(log_ratio) * advantages + jnp.where(chosen, kl_coef * jnp.abs(log_ratio), 0.0)


def _covariance(function, logprobs, advantages, mask):
  logprobs, advantages = jax.lax.stop_gradient(same_shape(function, logprobs=logprobs, advantages=advantages))
  (mask,) = flags(function, logprobs.shape, mask=mask)
  logprobs = held(logprobs)
  count = jnp.maximum(jnp.sum(mask), 1).astype(logprobs.dtype)
  centred = lambda x: jnp.where(mask, x - jnp.sum(jnp.where(mask, x, 0.0)) / count, 0.0)
  return jnp.where(mask, centred(logprobs) * centred(advantages), -jnp.inf)


def _share(mask, fraction):
  """How many tokens a fraction of the mask is: rounded down, at least one."""
  return jnp.maximum(jnp.floor(fraction * jnp.sum(jnp.asarray(mask).astype(bool))), 1)


def _highest(values, count):
  """Which entries are among the `count` highest of all; ties go to the first."""
  order = jnp.argsort(values, axis=None, descending=True)
  rank = jnp.zeros(values.size, jnp.int32).at[order].set(jnp.arange(values.size, dtype=jnp.int32))
  return rank.reshape(values.shape) < count
