"""Floor 0: a baseline of its own for every token, from the group's returns at that token.

What enters: rewards per token, log-probs and Σπ² of the policy that sampled, and the mask of its tokens. What leaves:
advantages [P, G, T]. P prompts, G samples, T tokens.
"""

import jax
import jax.numpy as jnp

from jaxreason.advantages.statistics import quotient, returns_to_go, token_inputs
from jaxreason.inputs import one_of


def optimal_token_baseline(
  token_rewards: jax.Array,
  logprobs: jax.Array,
  sum_pi_squared: jax.Array,
  mask: jax.Array,
  valid: jax.Array | None = None,
  importance_weights: jax.Array | None = None,
  *,
  align: str = "position",
  zero_tail: bool = True,
  eps: float = 0.0,
) -> jax.Array:
  """The return from a token on, less the baseline of least variance at that token.

    Âᵢₜ = Gᵢₜ - Σⱼ Wⱼₜ Gⱼₜ / (Σⱼ Wⱼₜ + ε),   Wᵢₜ = Σ_{s ≤ t} ρᵢₛ² (1 - 2πᵢₛ + Σᵥ πᵢₛ(v)²)

  W stands for the squared norm of the score up to t, which a softmax gives from its own probabilities.

  Args:
    token_rewards: [..., P, G, T] float.
    logprobs: [..., P, G, T] float, log π of the taken tokens, nats.
    sum_pi_squared: [..., P, G, T] float in (0, 1], Σᵥ π(v)² over the vocabulary.
    mask: [..., P, G, T] bool or 0/1, the policy's own tokens.
    valid: [..., P, G] bool, False for a sample without a verdict: it gets 0 and enters nobody's baseline. None: all.
    importance_weights: [..., P, G, T] float, ρ of the correction for a sampler that is not π. None: 1.
    align: which tokens of a group share a baseline: "position" those at the same place of the array, "count" the n-th
      token of each sample's own (verl's form for several turns; the same where masks have no holes).
    zero_tail: no baseline where at most one sample of the group still goes on, so Â = G there, as in verl since August
      2026; False: the sample is its own baseline and gets 0 there (verl before).
    eps: ε; 1e-8 in verl.

  Returns:
    [..., P, G, T] float32 (float64 for float64), 0 where masked and in groups with fewer than two valid samples (verl
    gives a lone one its return).

  Raises:
    ValueError: an unknown `align`, integer values, or shapes that do not match.

  Source: Li et al. 2026, https://arxiv.org/abs/2602.07078.
  """
  one_of("optimal_token_baseline", ("position", "count"), align=align)
  values = dict(token_rewards=token_rewards, logprobs=logprobs, sum_pi_squared=sum_pi_squared)
  if importance_weights is not None:
    values["importance_weights"] = importance_weights
  if jnp.ndim(mask) < 3:
    raise ValueError(f"optimal_token_baseline expected a mask [..., P, G, T], got shape {jnp.shape(mask)}")
  mask, rewards, logprobs, squares, *weights = token_inputs("optimal_token_baseline", mask, valid, **values)
  energy = jnp.where(mask, 1 - 2 * jnp.exp(jnp.minimum(logprobs, 0)) + squares, 0) * (jnp.square(weights[0]) if weights else 1)
  order = jnp.argsort(~mask, axis=-1, stable=True) if align == "count" else None
  arrays = returns_to_go(rewards, mask), jnp.cumsum(energy, axis=-1), mask
  if order is not None:
    arrays = tuple(jnp.take_along_axis(array, order, axis=-1) for array in arrays)
  advantages = _less_baseline(*arrays, zero_tail=zero_tail, eps=eps)
  return advantages if order is None else jnp.take_along_axis(advantages, jnp.argsort(order, axis=-1), axis=-1)


def _less_baseline(returns, weights, mask, *, zero_tail, eps):
  """Returns less their group's weighed mean at each token. Distances from the smallest are averaged, so that equal returns
  give exactly 0: G - ΣWG/(ΣW + ε) = d - ΣWd/(ΣW + ε) + low ε/(ΣW + ε) with d = G - low."""
  low = jnp.min(jnp.where(mask, returns, jnp.inf), axis=-2, keepdims=True, initial=jnp.inf)
  low = jax.lax.stop_gradient(jnp.where(jnp.any(mask, axis=-2, keepdims=True), low, 0))
  distances, weights = jnp.where(mask, returns - low, 0), jnp.where(mask, weights, 0)
  total = jnp.sum(weights, axis=-2, keepdims=True) + eps
  advantages = distances - quotient(jnp.sum(weights * distances, axis=-2, keepdims=True), total) + quotient(low * eps, total)
  present = jnp.any(mask, axis=-1, keepdims=True)
  if zero_tail:
    goes_on = jnp.flip(jax.lax.cummax(jnp.flip(mask.astype(jnp.int32), -1), axis=mask.ndim - 1), -1)
    advantages = jnp.where(jnp.sum(goes_on, axis=-2, keepdims=True) >= 2, advantages, returns)
  return jnp.where(mask & (jnp.sum(present, axis=-2, keepdims=True) >= 2), advantages, 0)
