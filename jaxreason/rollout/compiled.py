"""Floor 3: the programs of a rollout, jitted.

What enters: a model configuration. What leaves: `RolloutPrograms`; nothing is compiled before it is first called.
"""

import functools

import jax

from jaxreason.model.config import ModelConfig
from jaxreason.rollout import prepare, programs
from jaxreason.rollout.engine import RolloutPrograms


def rollout_programs(config: ModelConfig) -> RolloutPrograms:
  """The four programs of a rollout; the state that one of them takes is donated to it."""

  def extend(params, tokens, lengths, state=None, slot=None, last=None):
    return programs.extend(params, config, tokens, lengths, state, slot, last)

  def decode(params, state, stop_ids, version, *, steps, truncate, least):
    return programs.decode(params, config, state, stop_ids, version, steps=steps, truncate=truncate, least=least)

  static = ("shape", "slots", "prefix_slots")
  in_place = jax.jit(programs.insert, static_argnames=static, donate_argnums=0)
  anew = jax.jit(programs.insert, static_argnames=static)

  def insert(state, *rows, slots, prefix_slots, **shape):
    """In place where no width changes: buffers of another size cannot be used again, and JAX would warn each time."""
    parts = (state.cache, state.cache.prefix) if state else ()
    fits = state and all(part.keys[0].shape[2] == wide for part, wide in zip(parts, (slots, prefix_slots), strict=True) if part)
    call = in_place if fits else anew
    return call(state, *rows, slots=slots, prefix_slots=prefix_slots, **shape)

  return RolloutPrograms(
    prepare=jax.jit(functools.partial(prepare.prepare_rollout_params, config=config)),
    extend=jax.jit(extend, donate_argnums=3),
    insert=insert,
    decode=jax.jit(decode, static_argnames=("steps", "truncate", "least"), donate_argnums=1),
  )
