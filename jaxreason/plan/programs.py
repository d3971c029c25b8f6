"""Floor 4: the programs of a run, lowered from shapes alone.

What enters: settings, the model's sizes and a mesh of chips that need not be here. What leaves: each program of `build` and
`rollout_plan`, with the largest shapes that the settings allow, compiled. Nothing here is a copy: what is planned is what a run
calls. B samples, Tp prompt columns, T completion columns.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxreason import build, checks, phases, rollout_plan, sharding
from jaxreason.model.config import ModelConfig
from jaxreason.records import Batch, Layout, Rollouts
from jaxreason.rollout import programs as rollouts
from jaxreason.rollout.config import bucketed
from jaxreason.rollout.state import Rows
from jaxreason.sampling import Sampling
from jaxreason.settings import RunSettings


class Made(NamedTuple):
  """A program and what it took to compile it."""

  name: str
  program: jax.stages.Compiled | None  # None where the chip's memory does not hold it
  problem: str  # what the compiler said then
  seconds: float
  resident: int  # bytes a device holds while it runs, besides its arguments


class Resident(NamedTuple):
  """Bytes that a device holds, of arrays that live across programs; and what they are for."""

  weights: int
  optimizer: int
  reference: int
  copy: int  # of the weights, for rollouts
  cache: int
  slots: int  # that the cache is for, on all devices

  @property
  def state(self) -> int:
    return self.weights + self.optimizer


def settled(settings: RunSettings, config: ModelConfig, mesh) -> ModelConfig:
  """The configuration as a run on the mesh has it. Raises UserError for sizes that do not divide."""
  checks.check_batches(settings, mesh)
  switches = dict(head_dtype=settings.model.head_dtype, remat=settings.model.remat)
  config = build.settled(dataclasses.replace(config, **switches), settings, mesh)
  sharding.check_divides(
    mesh, heads=config.heads, kv_heads=config.kv_heads, mlp=config.expert_mlp or config.mlp, vocab=config.vocab_size,
    embed=config.embed,
  )  # fmt: skip
  if config.experts:
    sharding.check_divides(mesh, expert=config.experts)
  return config


def made(settings: RunSettings, config: ModelConfig, mesh, only: Collection[str] = ()) -> Iterator[Made | Resident]:
  """What devices hold across programs, then the programs of a step in the order in which they run; the mesh is in use.

  Args:
    settings: of a run without adapters.
    config: of `settled`.
    mesh: in use.
    only: names of programs; all where empty.
  """
  of_run = build.compile_programs(settings, config, mesh)
  rollout, shape = of_run.rollout, rollout_plan.training_shape(settings, mesh)
  state = phases.abstract_state(settings, config, mesh, "train")
  reference = phases.abstract_reference(settings, config, mesh)
  prepare = _compiled("prepare", lambda: rollout.prepare_training.lower(state.policy), 0)
  if prepare.program is None:
    yield prepare
    return
  like = jax.eval_shape(rollout.prepare_training, state.policy)
  at = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
  copy = jax.tree.map(at, like, prepare.program.output_shardings)

  Tp = bucketed(settings.rollout.max_prompt_tokens, shape.prompt_bucket, steps=4)
  R = shape.prefill[-1]
  tokens, lengths = jax.ShapeDtypeStruct((R, Tp), jnp.int32), jax.ShapeDtypeStruct((R,), jnp.int32)
  prefix = _spread(mesh, jax.eval_shape(rollout.extend, copy, tokens, lengths)[0])
  lanes = shape.slots // shape.lane if shape.lane > 1 else 0
  slots = bucketed(shape.budget + (0 if lanes else Tp), shape.cache_bucket)
  insert = functools.partial(
    rollouts.insert, shape=(shape.slots, lanes, shape.budget), slots=slots, prefix_slots=Tp, experts=rollout.experts
  )
  rows, key = _rows(shape.insert[-1]), jax.eval_shape(lambda: jax.random.key(0))
  decoding = _spread(mesh, jax.eval_shape(functools.partial(insert, None), prefix, rows, key))
  stops, version = jax.ShapeDtypeStruct((2,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
  static = dict(steps=shape.chunk, truncate=settings.rollout.truncates, least=settings.rollout.min_new_tokens > 0)
  batch, judged = _batch(settings, config, mesh, of_run, Tp)
  held = Resident(
    per_device((state.params, state.base)), per_device((state.opt_state, state.average)), per_device(reference),
    per_device(copy), per_device(decoding.cache), shape.slots,
  )  # fmt: skip
  yield held
  kept, carried = held.state + held.reference, per_device(decoding) if settings.rollout.max_staleness else 0
  temperature = settings.rollout.temperature
  wanted = {
    "prepare": (None, held.optimizer + held.reference + carried),
    "prefill": (lambda: rollout.extend.lower(copy, tokens, lengths), kept + per_device(decoding)),
    "insert": (lambda: jax.jit(insert, donate_argnums=0).lower(decoding, prefix, rows, key), kept + held.copy),
    "decode": (lambda: rollout.decode.lower(copy, decoding, stops, version, **static), kept),
  }
  if reference is not None:
    passed = functools.partial(of_run.reference.lower, reference, batch, temperature, *judged)
    wanted["reference"] = (passed, held.state + carried)
    batch = batch.replace(reference_logprobs=batch.behavior_logprobs)
  wanted["update"] = (lambda: of_run.update.lower(state, batch, temperature), held.reference + carried)
  for name, (lower, resident) in wanted.items():
    if name in only or not only:
      yield prepare._replace(resident=resident) if lower is None else _compiled(name, lower, resident)


def _compiled(name: str, lower: Callable, resident: int) -> Made:
  start = time.perf_counter()
  try:
    program, problem = lower().compile(), ""
  except RuntimeError as error:  # JAX's own kinds are subclasses
    problem, program = str(error), None
    if "RESOURCE_EXHAUSTED" not in problem and "memory" not in problem:
      raise
  return Made(name, program, problem, time.perf_counter() - start, resident)


def per_device(tree) -> int:
  """Bytes of abstract arrays on one device; those in the host's memory are not counted."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    placed = leaf.sharding
    if placed is not None and placed.memory_kind == sharding.HOST:
      continue
    shape = placed.shard_shape(leaf.shape) if placed is not None else leaf.shape
    size = 1
    for side in shape:
      size *= side
    total += size * (8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize)
  return total


def _batch(settings: RunSettings, config: ModelConfig, mesh, of_run, Tp: int) -> tuple[Batch, tuple]:
  """The batch of an update, and rewards and verdicts, of samples that are all as long as they may be."""
  shape, chosen = settings.rollout, settings.train
  P, G, T = shape.prompts // chosen.minibatches, shape.group, shape.max_new_tokens
  ints, floats, flags = (functools.partial(jax.ShapeDtypeStruct, dtype=kind) for kind in (jnp.int32, jnp.float32, jnp.bool_))
  drawn = Rollouts(
    prompts=ints((P, Tp)), prompt_lengths=ints((P,)), visit_ids=ints((P,)), tokens=ints((P, G, T)), lengths=ints((P, G)),
    logprobs=floats((P, G, T)), log_mass=floats((P, G, T)), versions=ints((P, G, T)), own=flags((P, G, T)), stop=ints((P, G)),
    rewards=floats((P, G)), judged=flags((P, G)),
    step_values=floats((P, G, T)) if settings.objective.step_coef else None,
  )  # fmt: skip
  batch = jax.eval_shape(functools.partial(of_run.assemble, width=T), drawn)
  of_samples = sharding.sharding(mesh, ("batch",))
  at = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=of_samples)
  batch = jax.tree.map(at, batch)
  if chosen.row_tokens:
    B, parts = P * G, chosen.micro_batches * sharding.parts("batch", mesh)
    rows = -(-(B // parts) // max(1, chosen.row_tokens // (Tp + T))) * parts
    batch = batch.replace(layout=Layout(ints((rows, chosen.row_tokens)), ints((B,))))
  return batch, (drawn.rewards, drawn.judged)


def _rows(R: int) -> Rows:
  i, f = jax.ShapeDtypeStruct((R,), jnp.int32), jax.ShapeDtypeStruct((R,), jnp.float32)
  return Rows(i, i, i, i, i, Sampling(f, f, i, f), i, i)


def _spread(mesh, tree):
  """State of slots as `rollout.programs` places it."""
  at = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.sharding(mesh, rollouts.AXES[x.ndim]))
  return jax.tree.map(at, tree)
