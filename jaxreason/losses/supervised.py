"""Floor 0, losses: supervised training, one value per token."""

import jax

from jaxreason.inputs import log_probabilities


def sft(logprobs: jax.Array) -> jax.Array:
  """Negative log-likelihood of a demonstration's tokens: Lₜ = -log π(aₜ|sₜ).

  Args:
    logprobs: [..., T] float, nats.

  Returns:
    [..., T] float32, nats. Its token mean is the usual cross entropy (AReaL adds 1e-5 to the token count).
  """
  (logprobs,) = log_probabilities("sft", logprobs=logprobs)
  return -logprobs
