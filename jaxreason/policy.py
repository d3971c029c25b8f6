"""Floor 3: the one definition of a token's log-probability.

What enters: parameters, sequences and the sampler's temperature. What leaves: log-probability and entropy of each
completion token. The update, the reference pass and evaluation call `completion_logprobs`; the sampler divides the same
`unembed` by the same temperature one position at a time. B sequences, S their columns, T completion tokens, D embed.
"""

import jax
import jax.numpy as jnp

from jaxreason import logprobs as logprob_functions
from jaxreason.model import decoder
from jaxreason.model.config import ModelConfig
from jaxreason.model.weights import Params


def completion_logprobs(
  params: Params, config: ModelConfig, tokens, prompt_lengths, lengths, width: int, *, temperature, chunk_tokens: int = 1024
) -> tuple[jax.Array, jax.Array]:
  """Log-probability and entropy of the completion tokens of right-padded sequences.

  Args:
    params: the policy's, or the reference's.
    config: static.
    tokens: [B, S] int32, prompt then completion, right-padded.
    prompt_lengths: [B] int32, at least 1.
    lengths: [B] int32, tokens of prompt and completion.
    width: static T; completion token t of a row is in column prompt_length + t.
    temperature: scalar > 0, the sampler's.
    chunk_tokens: see `logprobs.from_hidden`.

  Returns:
    (logprobs, entropy), [B, T] float32 each, nats; meaningless where a row has no token t.
  """
  B, S = tokens.shape
  columns = jnp.arange(S, dtype=jnp.int32)
  positions = jnp.broadcast_to(columns[None], (B, S))
  segments = (columns[None] < lengths[:, None]).astype(jnp.int32)
  hidden = decoder.apply(params, config, tokens, positions, segments=segments).hidden
  at = jnp.clip(prompt_lengths[:, None] + jnp.arange(width, dtype=jnp.int32)[None], 1, S - 1)
  predictors = jnp.take_along_axis(hidden, (at - 1)[:, :, None], axis=1)
  taken = jnp.take_along_axis(tokens, at, axis=1)
  return logprob_functions.from_hidden(
    predictors, decoder.head(params), taken, temperature=temperature, chunk_tokens=chunk_tokens
  )
