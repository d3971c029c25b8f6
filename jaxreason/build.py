"""Floor 4: from frozen settings to the parts of a run, everything jitted once.

What enters: `RunSettings`. What leaves: a `Run`: rows, tokenizer, model configuration, mesh and compiled programs with
their shardings and donations bound. `build` first checks all that can be checked without a device, then makes the mesh.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreason import assemble as assembly
from jaxreason import optimizer, policy, sharding, tasks
from jaxreason import update as updates
from jaxreason.data import tokenizer as tokenizers
from jaxreason.data.characters import characters
from jaxreason.data.tokenizer import Tokenizer
from jaxreason.errors import UserError
from jaxreason.model import weights
from jaxreason.model.config import ModelConfig
from jaxreason.objective import SFT
from jaxreason.records import TrainState
from jaxreason.rollout import prepare
from jaxreason.rollout import programs as rollout_programs
from jaxreason.rollout.engine import RolloutPrograms
from jaxreason.settings import RunSettings
from jaxreason.tasks import Rows


class Programs(NamedTuple):
  """The compiled parts of a step."""

  rollout: RolloutPrograms
  assemble: Callable  # (rollouts, width=) -> Batch
  reference: Callable  # (params, batch, temperature) -> batch with reference_logprobs
  supervise: Callable  # (state, batch, temperature) -> (state, stats), donated
  update: Callable  # (state, batch, temperature) -> (state, stats), donated
  start_sft: Callable  # (params) -> TrainState
  start_rl: Callable  # (params) -> TrainState


class Run(NamedTuple):
  """All that a run is made of, before its first step."""

  settings: RunSettings
  rows: Rows
  tokenizer: Tokenizer
  config: ModelConfig
  mesh: jax.sharding.Mesh
  programs: Programs
  initial_params: Callable  # () -> params on the mesh


def build(settings: RunSettings, *, devices=None) -> Run:
  """Makes a `Run`.

  Args:
    settings: of `settings.freeze`.
    devices: default all.

  Raises:
    UserError: one line for what does not fit together.
  """
  rows = tasks.load(settings.data, problems=settings.evaluation.problems, seed=settings.seed)
  tokenizer = load_tokenizer(settings)
  mesh = sharding.make_mesh(settings.mesh, devices)
  sharding.check_divides(mesh, batch=settings.rollout.prompts * settings.rollout.group // settings.train.micro_batches)
  initial_params, config = load_model(settings, tokenizer, mesh)
  sharding.check_divides(
    mesh, heads=config.heads, kv_heads=config.kv_heads, mlp=config.mlp, vocab=config.vocab_size, embed=config.embed
  )
  return Run(settings, rows, tokenizer, config, mesh, compile_programs(settings, config, mesh), initial_params)


def load_tokenizer(settings: RunSettings) -> Tokenizer:
  """The model's tokenizer, or the task's characters for a model from scratch."""
  source = settings.model.source
  if source:
    return tokenizers.from_transformers(_room(source).tokenizer(source))
  alphabet = tasks.alphabet(settings.data)
  if alphabet is None:
    raise UserError(
      f"config.model.source expected a checkpoint for task {settings.data.task!r}, got none; give a path or a hub id"
    )
  return characters(alphabet)


def load_model(settings: RunSettings, tokenizer: Tokenizer, mesh) -> tuple[Callable, ModelConfig]:
  """(a function that gives float32 parameters on the mesh, the model's configuration)."""
  chosen = settings.model
  dtype = chosen.compute_dtype
  if dtype == "auto":
    dtype = "float32" if mesh.devices.flat[0].platform == "cpu" else "bfloat16"
  switches = {"compute_dtype": dtype, "remat": chosen.remat}
  if not chosen.source:
    config = ModelConfig(
      vocab_size=tokenizer.vocab_size, embed=chosen.embed, layers=chosen.layers, heads=chosen.heads, kv_heads=chosen.kv_heads,
      head_dim=chosen.head_dim, mlp=chosen.mlp, rope_theta=chosen.rope_theta, **switches,
    )  # fmt: skip
    draw = jax.jit(functools.partial(weights.initialize, config), out_shardings=weights.shardings(config, mesh))
    return (lambda: draw(jax.random.fold_in(jax.random.key(settings.seed), 1))), config
  return _load_source(chosen.source, switches, mesh)


def _load_source(source: str, switches: dict, mesh) -> tuple[Callable, ModelConfig]:
  room = _room(source)
  config = dataclasses.replace(room.read_config(source), **switches)
  shardings = weights.shardings(config, mesh)
  return (lambda: room.load(source, dtype=jnp.float32, shardings=shardings)[0]), config


def _room(source: str):
  """The module that reads this kind of checkpoint; imported late, because it brings in transformers."""
  if not source.endswith(".gguf"):
    from jaxreason.model import hf

    return hf
  from jaxreason.model import gguf

  if not Path(source).is_file():
    raise UserError(f"config.model.source expected a file, got {source} which does not exist; `make smollm2` fetches SmolLM2's")
  return gguf


def transformation(settings: RunSettings, config: ModelConfig, phase: str) -> optax.GradientTransformation:
  """The optimizer of phase "sft" or "train"."""
  chosen, steps = {
    "sft": (settings.sft.optimizer, settings.sft.steps),
    "train": (settings.optimizer, settings.train.steps),
  }[phase]
  return optimizer.transformation(chosen, steps, weights.decays(config))


def abstract_state(settings: RunSettings, config: ModelConfig, mesh, phase: str) -> TrainState:
  """Shapes, dtypes and shardings of the state in a phase: moments are sharded like the parameters they belong to."""
  start = functools.partial(updates.initialize, transformation=transformation(settings, config, phase))
  shapes = jax.eval_shape(start, weights.abstract(config))
  is_params = lambda leaf: isinstance(leaf, weights.Params)
  placed = weights.shardings(config, mesh)
  shardings = jax.tree.map(lambda leaf: placed if is_params(leaf) else sharding.replicated(mesh), shapes, is_leaf=is_params)
  return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, shardings)


def compile_programs(settings: RunSettings, config: ModelConfig, mesh) -> Programs:
  """Every jitted function of a run. Nothing is compiled before it is first called."""
  jit = jax.jit
  chunk_tokens = settings.train.chunk_tokens
  chosen = settings.objective
  objective = dataclasses.replace(chosen, norm_length=chosen.norm_length or settings.rollout.max_new_tokens)

  def shardings(phase):
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_state(settings, config, mesh, phase))

  def step(phase, objective, micro_batches):
    run = functools.partial(
      updates.update, config=config, objective=objective, transformation=transformation(settings, config, phase),
      micro_batches=micro_batches, chunk_tokens=chunk_tokens,
    )  # fmt: skip
    return jit(run, donate_argnums=0, out_shardings=(shardings(phase), None))

  def start(phase):
    begin = functools.partial(updates.initialize, transformation=transformation(settings, config, phase))
    return jit(begin, out_shardings=shardings(phase))

  def reference(params, batch, temperature):
    logprobs, _ = policy.completion_logprobs(
      params, config, batch.tokens, batch.prompt_lengths, batch.lengths, batch.mask.shape[1],
      temperature=temperature, chunk_tokens=chunk_tokens,
    )  # fmt: skip
    return batch.replace(reference_logprobs=logprobs)

  return Programs(
    rollout=_rollout_programs(config),
    assemble=jit(functools.partial(assembly.assemble, objective=settings.objective), static_argnames="width"),
    reference=jit(reference),
    supervise=step("sft", SFT, settings.sft.micro_batches),
    update=step("train", objective, settings.train.micro_batches),
    start_sft=start("sft"),
    start_rl=start("train"),
  )


def _rollout_programs(config: ModelConfig) -> RolloutPrograms:
  def decode(params, state, *, steps, truncate):
    return rollout_programs.decode(params, config, state, steps=steps, truncate=truncate)

  return RolloutPrograms(
    prepare=jax.jit(functools.partial(prepare.prepare_rollout_params, config=config)),
    prefill=jax.jit(lambda params, prompts, lengths: rollout_programs.prefill(params, config, prompts, lengths)),
    begin=jax.jit(rollout_programs.begin, static_argnames=("group", "budget", "slots")),
    grow=jax.jit(rollout_programs.grow, static_argnames="slots"),
    decode=jax.jit(decode, static_argnames=("steps", "truncate"), donate_argnums=1),
  )
