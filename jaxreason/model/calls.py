"""Floor 2: what programs ask of a model, and where it is asked whose it is.

What enters: parameters, and as `config` whose they are: a `ModelConfig` of our decoder, or an `OwnModel`. What leaves: what
`decoder`, `weights` and `cache` answer, or `own`. Update, rollout and passes over finished samples call these; only
`rollout.prepare`, which copies weights for decoding, asks for itself.
"""

import functools

import jax
import jax.numpy as jnp

from jaxreason import logprobs, sharding
from jaxreason.model import cache as caches
from jaxreason.model import decoder, own, weights
from jaxreason.model.config import ModelConfig
from jaxreason.model.decoder import Output
from jaxreason.model.own import OwnModel

AnyModel = ModelConfig | OwnModel


def apply(params, config: AnyModel, tokens, positions, *, segments=None, cache=None, routing=None) -> Output:
  """Hidden states; see `decoder.apply`. The positions of an `OwnModel` are the columns, which is what all callers give; it has
  no experts, and no routing."""
  if isinstance(config, OwnModel):
    return Output(*own.hidden_states(params, config, tokens, segments=segments, cache=cache), aux=None)
  return decoder.apply(params, config, tokens, positions, segments=segments, cache=cache, routing=routing)


def unembed(params, config: AnyModel, hidden) -> jax.Array:
  """Logits [..., V] from hidden states [..., D]."""
  return config.unembed(params, hidden) if isinstance(config, OwnModel) else decoder.unembed(params, config, hidden)


def from_hidden(params, config: AnyModel, hidden, tokens, **options) -> tuple[jax.Array, ...]:
  """Log-probability, entropy and perhaps log mass of tokens without the logits of all of them; see `logprobs.from_hidden`."""
  if isinstance(config, OwnModel):
    return own.from_hidden(params, config, hidden, tokens, **options)
  shape = dict(precision=config.head_precision, logit_cap=config.logit_cap)
  return _on_own_rows(functools.partial(logprobs.from_hidden, **shape), hidden, decoder.head(params), tokens, **options)


def _on_own_rows(read, hidden, matrix, tokens, *, temperature, **options):
  """`read` as each device does it for its own rows, with its part of the vocabulary and that matrix whole along D.

  Left to the partitioner, the loop over chunks gathers a matrix that is cut along D once a chunk, and sums its gradient over
  devices as often: so it is once a micro-batch. A chunk's tokens are those of one device.
  """
  rows = sharding.parts("batch") * sharding.parts("length")
  if rows == 1 or hidden.shape[0] % sharding.parts("batch"):
    return read(hidden, matrix, tokens, temperature=temperature, **options)
  vocab_axis = sharding.axis_of("vocab") if sharding.parts("vocab") > 1 else None
  axes = ("batch", "length") if sharding.parts("length") > 1 else ("batch",)
  at = lambda x: (*axes, *[None] * (x.ndim - len(axes)))

  def of_device(hidden, matrix, tokens, temperature):
    return read(hidden, matrix, tokens, temperature=temperature, vocab_axis=vocab_axis, **options)

  results = 3 if any(option is not None for name, option in options.items() if name in ("top_k", "top_p", "min_p")) else 2
  temperature = jnp.asarray(temperature)
  of_all = sharding.per_device(
    of_device, (at(hidden), ("vocab", None), at(tokens), (None,) * temperature.ndim), (at(tokens),) * results
  )
  return of_all(hidden, matrix, tokens, temperature)


def empty_cache(config: AnyModel, batch: int, slots: int) -> caches.Cache:
  """A cache for `batch` sequences of up to `slots` tokens."""
  if isinstance(config, OwnModel):
    return own.empty_cache(batch, slots)
  return caches.empty(config, batch, slots, jnp.dtype(config.compute_dtype))


def computing(params, config: AnyModel):
  """The parameters as a step computes with them; see `weights.computing`. An `OwnModel`'s are its own business."""
  return params if isinstance(config, OwnModel) else weights.computing(params, config)


def constrained(tree, config: AnyModel):
  """A tree like the parameters in their shardings; see `weights.constrained`. An `OwnModel`'s are left to the partitioner."""
  return tree if isinstance(config, OwnModel) else weights.constrained(tree, config)
