"""Floor 0, log-probs: from logits or hidden states to log-probabilities of taken tokens.

What enters: logits, or hidden states and the output matrix. What leaves: log-probability and entropy per token, float32,
in nats. `from_hidden` works in chunks of positions under rematerialisation, so that neither pass ever holds [B, T, V].
B sequences, T tokens, D embed, V vocab.
"""

import functools

import jax
import jax.numpy as jnp


def token_logprobs(logits: jax.Array, tokens: jax.Array, temperature=1.0) -> jax.Array:
  """log softmax(logits / temperature) at the taken tokens.

  Args:
    logits: [..., V] float.
    tokens: [...] int, in [0, V).
    temperature: scalar > 0, the sampler's: the policy is the tempered distribution.

  Returns:
    [...] float32, nats.
  """
  shifted, normaliser = _shifted(logits.astype(jnp.float32), temperature)
  return jnp.take_along_axis(shifted, tokens[..., None], axis=-1)[..., 0] - normaliser


def entropy(logits: jax.Array, temperature=1.0) -> jax.Array:
  """H = -Σ p log p of softmax(logits / temperature): [..., V] -> [...] float32, nats."""
  return _entropy(*_shifted(logits.astype(jnp.float32), temperature))


def from_hidden(
  hidden: jax.Array, unembed: jax.Array, tokens: jax.Array, *, temperature=1.0, chunk_tokens: int = 1024
) -> tuple[jax.Array, jax.Array]:
  """Log-probability and entropy of each position without the logits of all of them.

  Positions are cut along T, never along B, so that a batch sharded over devices stays where it is. Each chunk's logits
  are recomputed in the backward pass (2 D V more flops a token).

  Args:
    hidden: [B, T, D] hidden states, float.
    unembed: [V, D] output matrix; its dtype is converted to hidden's, and the product accumulates in float32.
    tokens: [B, T] int, the taken tokens.
    temperature: scalar > 0.
    chunk_tokens: about how many positions have their logits in memory at once, over the whole batch.

  Returns:
    (logprobs, entropy), [B, T] float32 each, nats; gradients flow through both.
  """
  B, T, _ = hidden.shape
  width = max(1, min(T, chunk_tokens // B))
  matrix = unembed.astype(hidden.dtype)

  def chunk(hidden_BcD, tokens_Bc):
    logits = jnp.einsum("btd,vd->btv", hidden_BcD, matrix, preferred_element_type=jnp.float32)
    shifted, normaliser = _shifted(logits, temperature)
    taken = jnp.take_along_axis(shifted, tokens_Bc[..., None], axis=-1)[..., 0]
    return taken - normaliser, _entropy(shifted, normaliser)

  if width == T:
    return jax.checkpoint(chunk)(hidden, tokens)
  pieces = -(-T // width)
  padded = functools.partial(_in_pieces, pieces=pieces, width=width)
  _, (logprobs, spread) = jax.lax.scan(
    lambda _, part: (None, jax.checkpoint(chunk)(*part)), None, (padded(hidden), padded(tokens))
  )
  join = lambda parts: jnp.swapaxes(parts, 0, 1).reshape(B, pieces * width)[:, :T]
  return join(logprobs), join(spread)


def _shifted(logits, temperature):
  """((logits - max) / temperature, log Σ exp of that): unshifted, a log-probability is only as fine as the logits' rounding."""
  shifted = (logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))) / temperature
  return shifted, jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))


def _entropy(shifted, normaliser):
  """-Σ p log p as it stands: the difference of the normaliser and Σ p · logit would lose a small entropy to rounding."""
  logprobs = shifted - normaliser[..., None]
  return -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)


def _in_pieces(x, *, pieces: int, width: int):
  """[B, T, ...] -> [pieces, B, width, ...], padded with zeros at the end of T."""
  B, T = x.shape[:2]
  x = jnp.pad(x, ((0, 0), (0, pieces * width - T)) + ((0, 0),) * (x.ndim - 2))
  return jnp.swapaxes(x.reshape(B, pieces, width, *x.shape[2:]), 0, 1)
