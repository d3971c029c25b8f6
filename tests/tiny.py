"""A model small enough to compile in a second, and batches and rollouts of it, for the tests of the core.

B sequences = P prompts x G samples, T completion tokens.
"""

import contextlib
import dataclasses
import functools

import jax
import numpy as np

from jaxreason import critic, rollout_plan
from jaxreason import objective as objectives
from jaxreason import update as updates
from jaxreason.model import weights
from jaxreason.model.config import ModelConfig
from jaxreason.optimizer import OptimizerConfig, transformation
from jaxreason.records import Batch
from jaxreason.rollout.engine import RolloutPrograms
from jaxreason.rollout.slots import Slots, Written
from jaxreason.settings import RunSettings

CONFIG = ModelConfig(vocab_size=24, embed=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=48)
STOP = 2


@functools.cache
def params(config: ModelConfig = CONFIG, seed: int = 0) -> weights.Params:
  """Random parameters, numpy arrays. Biases and norms are not the zeros and ones that a real model starts with."""
  generator = np.random.default_rng(seed)
  table = weights.weights(config)

  def draw(weight):
    noise = generator.normal(size=weight.shape)
    value = 1 + 0.1 * noise if weight.init is None else (weight.init or 0.1) * noise
    return value.astype(np.float32)

  return jax.tree.map(draw, table, is_leaf=lambda leaf: isinstance(leaf, weights.Weight))


def tokens(seed: int, *shape: int) -> np.ndarray:
  """Random tokens that are neither padding, begin nor stop."""
  return np.random.default_rng(seed).integers(3, CONFIG.vocab_size, shape).astype(np.int32)


def batch(seed: int = 0, rows: int = 8, prompt: int = 6, completion: int = 5, reference: bool = False) -> Batch:
  """B samples with ragged prompts and completions, numpy arrays."""
  generator = np.random.default_rng(seed)
  prompts, written = generator.integers(1, prompt + 1, rows), generator.integers(1, completion + 1, rows)
  lengths = (prompts + written).astype(np.int32)
  columns = np.arange(prompt + completion)[None]
  draw = lambda: generator.normal(size=(rows, completion)).astype(np.float32)
  return Batch(
    tokens=np.where(columns < lengths[:, None], tokens(seed, rows, prompt + completion), 0).astype(np.int32),
    prompt_lengths=prompts.astype(np.int32),
    lengths=lengths,
    mask=np.arange(completion)[None] < written[:, None],
    behavior_logprobs=draw() * 0.3 - 3,
    advantages=np.broadcast_to(draw()[:, :1], (rows, completion)).copy(),
    reference_logprobs=draw() * 0.3 - 3 if reference else None,
  )


@functools.cache
def optimizer(settings: OptimizerConfig = OptimizerConfig(peak_lr=1e-3), steps: int = 10, config: ModelConfig = CONFIG):
  """The transformation of a tiny model."""
  return transformation(settings, steps, weights.roles(config))


@functools.cache
def critic_optimizer(settings: OptimizerConfig = OptimizerConfig(peak_lr=1e-2), steps: int = 10):
  """The transformation of a tiny critic."""
  return transformation(settings, steps, critic.like(weights.roles(CONFIG), weights.Role("value_head", decays=True)))


@functools.cache
def update(
  objective=objectives.Objective(),
  micro_batches: int = 1,
  chunk_tokens: int = 1024,
  settings: OptimizerConfig = OptimizerConfig(peak_lr=1e-3),
):
  """The jitted update of a tiny model, its state donated."""
  step = functools.partial(
    updates.update, config=CONFIG, objective=objective, transformation=optimizer(settings),
    critic_transformation=critic_optimizer() if objective.needs_critic else None,
    micro_batches=micro_batches, chunk_tokens=chunk_tokens,
  )  # fmt: skip
  return jax.jit(step, donate_argnums=0)


def settings(**changes) -> RunSettings:
  """Settings of a run whose model is tiny; `build.compile_programs` takes the model's own configuration beside them."""
  return dataclasses.replace(RunSettings(optimizer=OptimizerConfig(peak_lr=1e-3)), **changes)


def gradients(state):
  """The gradients of a state's first update, before which the moments were zero: Adam's first moment over 1 - b1."""
  moments = [leaf for leaf in jax.tree.leaves(state.opt_state, is_leaf=is_params) if is_params(leaf)]
  return jax.tree.map(lambda moment: moment / 0.1, moments[0])


def is_params(leaf) -> bool:
  """Whether a node of a state is a tree of parameters, or of moments in its structure."""
  return isinstance(leaf, weights.Params)


_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
  lambda event, seconds, **about: _compiled.append(about["fun_name"]) if event.endswith("backend_compile_duration") else None
)


@contextlib.contextmanager
def compilations():
  """A list that is filled with the names of the programs compiled inside, such as `jit(decode)`."""
  found, before = [], len(_compiled)
  yield found
  found += _compiled[before:]


@functools.cache
def rollout_programs(config: ModelConfig = CONFIG) -> RolloutPrograms:
  """The jitted rollout of a tiny model."""
  return rollout_plan.rollout_programs(config)


def finish(slots: Slots, params, version: int) -> list[list[Written]]:
  """Decodes until nobody is left; what each chunk said had ended, where one had."""
  told = []
  while slots.running or slots.waiting:
    ended = slots.chunk(params, version)
    for written in ended:
      slots.release(written.name)
    told += [ended] if ended else []
  return told
