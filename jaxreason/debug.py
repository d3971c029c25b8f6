"""Floor 4: where numbers stopped being finite.

What enters: the parameters and the batch of a bad step. What leaves: a file that holds them (`dump`, read back by `load`), and
the first thing that is not finite, by program, layer and place (`explain`): a parameter, an input of the batch, a layer's
attention or MLP, a log-probability, a loss, a gradient. `watching` looks at every step of a debug run, which costs a wait for
the device each time. Layers and positions count from 0.
"""

import bisect
import dataclasses
import json
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxreason import build, critic, objective, passes, phases, policy, sharding, typed
from jaxreason import settings as settings_room
from jaxreason import update as updates
from jaxreason.critic import Critic
from jaxreason.errors import UserError
from jaxreason.model import decoder, weights
from jaxreason.model.config import ModelConfig
from jaxreason.model.weights import Params
from jaxreason.objective import Objective
from jaxreason.records import Batch, Layout, TrainState
from jaxreason.settings import RunSettings
from jaxreason.truncation import Cut

_FORMAT = 1
_HEAD = "head"
PROGRAMS = {"sft": "supervise", "preference": "update", "train": "update"}
# Which program wrote a field of the batch.
_WRITTEN_BY = {
  "behavior_logprobs": "rollout", "values": "values", "advantages": "assemble", "reference_logprobs": "reference",
  "teacher_logprobs": "teacher",
}  # fmt: skip


class Dump(NamedTuple):
  """One step, as it can be run again."""

  params: Params | Critic  # before the step; of a reward model the latter
  batch: Batch
  settings: RunSettings
  config: ModelConfig
  phase: str  # "sft", "preference" or "train"
  step: int  # counted over both phases


class Finding(NamedTuple):
  """The first thing that is not finite."""

  program: str
  place: str
  value: str

  def __str__(self) -> str:
    return f"{self.program}: {self.place} {self.value}"


class BadStep(ArithmeticError):
  """A debug run met a step that is not finite; the message says where, and which file holds it."""


def watching(settings: RunSettings, config: ModelConfig, workdir: str | os.PathLike) -> Callable:
  """A `train.Watch` that stops at the first step whose numbers or parameters are not finite, and dumps it.

  Raises (when called):
    BadStep: program, layer and file in one line.
  """

  def watch(step: int, phase: str, state: TrainState, batch: Batch, stats: dict) -> None:
    numbers = {name: float(value) for name, value in jax.device_get(stats).items()}
    skipped = numbers["skipped"] > 0
    taken = Dump(state.policy, batch, settings, config, phase, step)
    broken = _parameters(taken)
    if not skipped and broken is None and all(map(math.isfinite, numbers.values())):
      return
    path = dump(Path(workdir) / f"bad_step_{step}.npz", taken)
    program = PROGRAMS[phase]
    told = ", ".join(f"{name} is {value}" for name, value in numbers.items() if not math.isfinite(value)) or "it was skipped"
    if skipped:
      found = str(explain(taken) or f"{program}: {told}, and all is finite when run again")
    elif broken is not None:  # they were finite before: the update itself wrote this
      found = f"{program}: wrote {broken.place}, which {broken.value}"
    else:
      found = f"{program}: {told}, and the parameters it left are finite"
    raise BadStep(f"step {step} ({phase}): {found}; look again with `jaxreason train --replay={path}`")

  return watch


def dump(path: str | os.PathLike, taken: Dump) -> Path:
  """Writes a step as an .npz of plain arrays and one JSON text (no pickle), whole or not at all."""
  arrays = {f"params/{name}": leaf for name, leaf in _named(taken.params).items()}
  arrays |= {f"batch/{name}": leaf for name, leaf in _named(taken.batch).items()}
  arrays = {name: np.asarray(leaf) for name, leaf in jax.device_get(arrays).items()}
  head = {
    "format": _FORMAT,
    "settings": settings_room.thaw(taken.settings),
    "config": dataclasses.asdict(taken.config),
    "phase": taken.phase,
    "step": taken.step,
    "dtypes": {name: array.dtype.name for name, array in arrays.items()},  # npz keeps bfloat16 as bare bytes
  }
  path = Path(path)
  part = path.with_suffix(".part")
  with open(part, "wb") as file:
    np.savez(file, **arrays, **{_HEAD: np.array(json.dumps(head))})
  os.replace(part, path)
  return path


def load(path: str | os.PathLike) -> Dump:
  """What `dump` wrote.

  Raises:
    UserError: no such file, or it is not a dump.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      head = json.loads(str(file[_HEAD]))
      arrays = {name: file[name].view(jnp.dtype(dtype)) for name, dtype in head["dtypes"].items()}
      if head["format"] == _FORMAT:
        return _dump_of(head, arrays)
  except OSError as error:
    raise UserError(f"--replay expected a dumped step, got {path} ({error.strerror or error}); check the path") from error
  except (ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
    raise UserError(f"--replay expected a step dumped by `train --debug`, got another file: {path}") from error
  raise UserError(f"--replay expected format {_FORMAT}, got {head['format']} in {path}; use the version that dumped it")


def _dump_of(head: dict, arrays: dict) -> Dump:
  config, settings = typed.made(ModelConfig, head["config"]), settings_room.freeze(ml_collections.ConfigDict(head["settings"]))
  like = weights.abstract(config)
  if head["phase"] == "preference" and settings.preference.kind == "reward_model":
    like = critic.like(like, jax.ShapeDtypeStruct((config.embed,), like.embedding.dtype))
  params = jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(arrays[f"params/{name}"]) for name in _named(like)])
  fields = [field.name for field in dataclasses.fields(Batch)]
  batch = Batch(**{name: jnp.asarray(arrays[f"batch/{name}"]) for name in fields if f"batch/{name}" in arrays})
  if "batch/layout/rows" in arrays:
    held = {name: arrays.get(f"batch/layout/{name}") for name in Layout._fields}
    batch = batch.replace(layout=Layout(**{name: jnp.asarray(array) for name, array in held.items() if array is not None}))
  # Attention is that of the device which replays; it may be another one than the run's.
  (device,) = jax.tree.leaves(params)[0].devices()
  mesh = sharding.make_mesh(devices=[device])
  config = dataclasses.replace(config, attention=build.training_kernel(settings, config, mesh)[0])
  return Dump(params, batch, settings, config, head["phase"], head["step"])


def replay(taken: Dump) -> dict[str, float]:
  """The numbers of the step run again, up to its gradient (the optimizer's moments are not in a dump): loss, grad_norm,
  skipped and the rest. Under `jax.disable_jit` it runs one operation at a time.
  """
  gradients, stats = _value_and_gradients(taken)
  numbers = {name: float(value) for name, value in stats.items()} | {"grad_norm": float(optax.tree.norm(gradients))}
  return numbers | {"skipped": float(not (math.isfinite(numbers["loss"]) and math.isfinite(numbers["grad_norm"])))}


def explain(taken: Dump) -> Finding | None:
  """The first thing that is not finite, in the order in which a step computes; None when everything is finite."""
  looks = (_parameters, _batch, _activations, _logprobs_and_loss, _gradients)
  return next((found for look in looks if (found := look(taken)) is not None), None)


def _objective(taken: Dump) -> Objective:
  return phases.objective_of(taken.settings, taken.phase)


def _truncation(taken: Dump) -> Cut | None:
  return phases.replayed_truncation(taken.settings, taken.phase)


def _temperature(taken: Dump) -> float:
  return taken.settings.rollout.temperature if taken.phase == "train" else 1.0


def _updates_before(taken: Dump) -> int:
  """How many updates of its phase the parameters have seen."""
  return taken.step - (0 if taken.phase == "sft" else taken.settings.sft.steps)


def _micro_batches(taken: Dump) -> int:
  chosen = taken.settings
  return {"sft": chosen.sft, "preference": chosen.preference, "train": chosen.train}[taken.phase].micro_batches


def _parameters(taken: Dump) -> Finding | None:
  for name, leaf in _named(taken.params).items():
    if (at := _first(leaf)) is not None:
      layer = f" of layer {at[0]}" if "blocks/" in name else ""
      return Finding("parameters", f"parameter {name}{layer}", _value(leaf, at))
  return None


def _batch(taken: Dump) -> Finding | None:
  tokens = np.asarray(taken.batch.tokens)
  outside = np.argwhere((tokens < 0) | (tokens >= taken.config.vocab_size))
  if outside.size:
    row, column = outside[0].tolist()
    value = f"is {tokens[row, column]}, expected in [0, {taken.config.vocab_size})"
    return Finding("batch", f"token in column {column} of {_sequence(taken, row)}", value)
  for name, program in _WRITTEN_BY.items():
    values = getattr(taken.batch, name)
    if values is not None and (at := _first(values)) is not None:
      masked = "" if np.asarray(taken.batch.mask)[at] else ", which the mask leaves out,"
      return Finding(program, f"{name} of {_sequence(taken, at[0])}, completion token {at[1]}{masked}", _value(values, at))
  return None


def _activations(taken: Dump) -> Finding | None:
  """Stage 0 is the embedding, then each layer's attention and MLP; what is not finite once stays so, hence the bisection."""
  params = taken.params.trunk if isinstance(taken.params, Critic) else taken.params
  tokens = jnp.asarray(taken.batch.tokens)
  columns = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  positions = jnp.broadcast_to(columns[None], tokens.shape)
  segments = (columns[None] < jnp.asarray(taken.batch.lengths)[:, None]).astype(jnp.int32)

  def hidden(stage: int) -> jax.Array:
    blocks = [decoder.layer(params.blocks, index) for index in range((stage + 1) // 2)]
    if stage % 2:  # the last block's attention alone: an MLP of zeros adds nothing
      blocks[-1] = blocks[-1].replace(**jax.tree.map(jnp.zeros_like, dict(gate=blocks[-1].gate, up=blocks[-1].up)))
    return decoder.apply(params.replace(blocks=tuple(blocks)), taken.config, tokens, positions, segments=segments).hidden

  stages = range(2 * taken.config.layers + 1)
  stage = bisect.bisect_left(stages, True, key=lambda stage: _first(hidden(stage)) is not None)
  if stage == len(stages):
    return None
  values = hidden(stage)
  at = _first(values)
  where = f"{'attention' if stage % 2 else 'MLP'} of layer {(stage - 1) // 2}" if stage else "embedding"
  place = f"output of the {where}, {_sequence(taken, at[0])}, column {at[1]},"
  return Finding(PROGRAMS[taken.phase], place, _value(values, at))


def _logprobs_and_loss(taken: Dump) -> Finding | None:
  if taken.phase == "preference":
    return _pair_losses(taken)
  batch = passes.chosen_across(
    taken.params, jax.tree.map(jnp.asarray, taken.batch), _temperature(taken), _updates_before(taken),
    objective=_objective(taken), config=taken.config, micro_batches=_micro_batches(taken),
    chunk_tokens=taken.settings.train.chunk_tokens, truncation=_truncation(taken),
  )  # fmt: skip
  logprobs, entropy = policy.completion_logprobs(
    taken.params, taken.config, batch.tokens, batch.prompt_lengths, batch.lengths, batch.mask.shape[1],
    temperature=_temperature(taken), chunk_tokens=taken.settings.train.chunk_tokens, truncation=_truncation(taken),
    experts=batch.experts,
  )  # fmt: skip
  logprobs, entropy = jnp.where(batch.mask, logprobs, 0.0), jnp.where(batch.mask, entropy, 0.0)
  losses = jnp.where(batch.mask, objective.token_losses(_objective(taken), logprobs, entropy, batch), 0.0)
  for name, values in (("log-probability", logprobs), ("entropy", entropy), ("loss", losses)):
    if (at := _first(values)) is not None:
      ratio = float(logprobs[at] - batch.behavior_logprobs[at])
      against = f" (log-ratio to the sampler {ratio:.4g} nats)" if name == "loss" and taken.phase == "train" else ""
      place = f"{name} of {_sequence(taken, at[0])}, completion token {at[1]},"
      return Finding(PROGRAMS[taken.phase], place, _value(values, at) + against)
  return None


def _pair_losses(taken: Dump) -> Finding | None:
  found = passes.measured_pairs(
    taken.params, jax.tree.map(jnp.asarray, taken.batch), config=taken.config, objective=_objective(taken),
    micro_batches=_micro_batches(taken), chunk_tokens=taken.settings.train.chunk_tokens,
  )  # fmt: skip
  losses, chosen, rejected = found
  for name, values in (("reward of the preferred answer", chosen), ("reward of the other answer", rejected), ("loss", losses)):
    if (at := _first(values)) is not None:
      return Finding(PROGRAMS[taken.phase], f"{name} of pair {at[0]}", _value(values, at))
  return None


def _gradients(taken: Dump) -> Finding | None:
  gradients, stats = _value_and_gradients(taken)
  program = PROGRAMS[taken.phase]
  found = [(name, leaf, at) for name, leaf in _named(gradients).items() if (at := _first(leaf, -1)) is not None]
  if found:
    name, leaf, at = max(found, key=lambda one: _lateness(one[0], one[2]))
    layer = f" of layer {at[0]}" if "blocks/" in name else ""
    return Finding(program, f"gradient of {name}{layer}", _value(leaf, at))
  for name, value in (("loss", stats["loss"]), ("global norm of the gradient", optax.tree.norm(gradients))):
    if not np.isfinite(value):
      return Finding(program, name, f"is {float(value)} although each of its parts is finite")
  return None


_STATIC = ("config", "objective", "micro_batches", "chunk_tokens", "truncation")
_jitted = jax.jit(updates.value_and_gradients, static_argnames=_STATIC)


def _value_and_gradients(taken: Dump) -> tuple[Params, dict]:
  params, base = updates.parts(taken.params, taken.config)
  return _jitted(
    params, jax.tree.map(jnp.asarray, taken.batch), _temperature(taken), _updates_before(taken), base=base, config=taken.config,
    objective=_objective(taken), micro_batches=_micro_batches(taken), chunk_tokens=taken.settings.train.chunk_tokens,
    truncation=_truncation(taken),
  )  # fmt: skip


def _named(tree) -> dict:
  """Leaves by path, `blocks/query`."""
  return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _first(values, which: int = 0) -> tuple[int, ...] | None:
  """Index of the first (-1: the last) value that is not finite."""
  bad = ~np.isfinite(np.asarray(values).astype(np.float32))
  return tuple(np.argwhere(bad)[which].tolist()) if bad.any() else None


def _lateness(name: str, at: tuple[int, ...]) -> float:
  """How late in the forward pass, and so how early in the backward pass, a parameter is used."""
  return at[0] if "blocks/" in name else -1 if name.endswith("embedding") else math.inf


def _value(values, at: tuple[int, ...]) -> str:
  values = np.asarray(values).astype(np.float32)
  return f"is {values[at]} at {list(at)}, one of {int((~np.isfinite(values)).sum())} in {values.size} values"


def _sequence(taken: Dump, row: int) -> str:
  group = taken.settings.rollout.group
  if taken.phase == "preference":
    return f"sequence {row} (pair {row // 2}, the {'other' if row % 2 else 'preferred'} answer)"
  return f"sequence {row}" + (f" (prompt {row // group}, sample {row % group})" if taken.phase == "train" else "")
