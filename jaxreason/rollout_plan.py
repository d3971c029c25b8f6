"""Floor 4: how a run's rollouts are laid out.

What enters: settings, the model's configuration and the mesh. What leaves: the sizes of a rollout, the kernel that reads its
cache, and its four programs, jitted.
"""

import dataclasses
import functools
import math

import jax

from jaxreason import sharding
from jaxreason.model import cache as caches
from jaxreason.model import decode_attention
from jaxreason.model.calls import AnyModel
from jaxreason.model.config import ModelConfig
from jaxreason.rollout import prepare, programs
from jaxreason.rollout.config import Shape, shape_of
from jaxreason.rollout.engine import RolloutPrograms
from jaxreason.settings import RunSettings


def rollout_shape(settings: RunSettings, mesh, *, group: int, samples: int | None) -> Shape:
  """The sizes of a rollout of groups of `group`, `samples` in all or without end (None).

  One chunk is dispatched before the last is looked at where the device works while the host looks; a CPU is both.
  """
  chosen = settings.rollout
  slots = min(chosen.slots or chosen.prompts * chosen.group, samples or math.inf)
  ahead = 0 if mesh.devices.flat[0].platform == "cpu" else 1
  return shape_of(chosen, slots=slots, group=group, samples=samples, shards=sharding.parts("slots", mesh), ahead=ahead)


def training_shape(settings: RunSettings, mesh) -> Shape:
  """Of the rollouts that are trained on."""
  chosen = settings.rollout
  endless = chosen.max_staleness or chosen.refill_zero_variance
  samples = None if endless else math.ceil(chosen.prompts * chosen.oversample) * chosen.group
  return rollout_shape(settings, mesh, group=chosen.group, samples=samples)


def decode_kernel(settings: RunSettings, config: ModelConfig, mesh) -> tuple[str, str]:
  """(kernel, why) of decoding's attention."""
  shape = training_shape(settings, mesh)
  return decode_attention.choose(
    mesh.devices.flat[0].platform, heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, rows=shape.slots,
    slots=shape.cache_bucket, prompts=shape.slots // shape.lane if shape.lane > 1 else 0, prefix_slots=shape.prompt_bucket,
    mesh=mesh,
  )  # fmt: skip


def programs_for(settings: RunSettings, config: ModelConfig, mesh) -> RolloutPrograms:
  """The programs of a run, with the kernel that fits it."""
  kernel, _ = decode_kernel(settings, config, mesh)
  config, chosen = dataclasses.replace(config, decode_kernel=kernel), settings.rollout
  return rollout_programs(config, chosen.matmul, chosen.replay_routing)


def rollout_programs(config: AnyModel, matmul: str = "compute", routed: bool = False) -> RolloutPrograms:
  """The programs of a rollout, of our decoder or an `OwnModel`; the state that one of them takes is donated to it.

  With `routed` they record the experts of every token.
  """
  experts = config.layers * config.experts_per_token if routed else 0

  def extend(params, tokens, lengths, state=None, slot=None, last=None):
    return programs.extend(params, config, tokens, lengths, state, slot, last, routed=routed)

  def decode(params, state, stop_ids, version, *, steps, truncate, least):
    return programs.decode(params, config, state, stop_ids, version, steps=steps, truncate=truncate, least=least)

  static = ("shape", "slots", "prefix_slots", "experts")
  in_place = jax.jit(programs.insert, static_argnames=static, donate_argnums=0)
  anew = jax.jit(programs.insert, static_argnames=static)

  def insert(state, *rows, slots, prefix_slots, **shape):
    """In place where no width changes: buffers of another size cannot be used again, and JAX would warn each time."""
    parts = (state.cache, state.cache.prefix) if state else ()
    fits = state and all(caches.width(part) == wide for part, wide in zip(parts, (slots, prefix_slots), strict=True) if part)
    call = in_place if fits else anew
    return call(state, *rows, slots=slots, prefix_slots=prefix_slots, experts=experts, **shape)

  exact = jax.jit(functools.partial(prepare.prepare_rollout_params, config=config))
  few_bits = jax.jit(functools.partial(prepare.prepare_rollout_params, config=config, matmul=matmul))
  return RolloutPrograms(
    prepare=exact,
    prepare_training=exact if matmul == "compute" else few_bits,
    extend=jax.jit(extend, donate_argnums=3),
    insert=insert,
    decode=jax.jit(decode, static_argnames=("steps", "truncate", "least"), donate_argnums=1),
    experts=experts,
  )
