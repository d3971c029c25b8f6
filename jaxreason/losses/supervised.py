"""Floor 0: losses of supervised training, one value per token."""

import jax


def sft(logprobs: jax.Array) -> jax.Array:
  """Negative log-likelihood of a demonstration's tokens: -log π, [..., T] float32, nats."""
  return -logprobs
