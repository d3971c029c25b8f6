"""Floor 4: what a plan says of each program: memory against the chip's, work against its speed.

What enters: programs that were compiled (see `programs`), a chip, settings. What leaves: a report as plain numbers, whether all
fits, and what to change where it does not. Floating-point operations are counted from the model's sizes, 2 a weight and token
forward and twice that backward, for a compiler counts the body of a loop once; bytes are those that are read and written at
least.
"""

import math

from jaxreason.model import weights
from jaxreason.model.config import ModelConfig
from jaxreason.plan import compiled
from jaxreason.plan.chips import GIB, Chip
from jaxreason.plan.programs import Made, Resident
from jaxreason.settings import RunSettings

MARGIN = 0.02  # of a chip's memory that a run leaves free: fragments, the runtime's own buffers


def of_program(made: Made, settings: RunSettings, config: ModelConfig, chip: Chip, chips: int, slice_of: list[int]) -> dict:
  """One program: bytes per device, work, what bounds it, collectives."""
  report = {"name": made.name, "compile_seconds": round(made.seconds, 1)}
  if made.program is None:
    return report | {"fits": False, "problem": " ".join(made.problem.split())[:300]}
  need = compiled.needs(made.program)
  total, allowed = need.total + made.resident, int(chip.memory * (1 - MARGIN))
  found = compiled.collectives(made.program.as_text(), slice_of)
  inside, between = (sum(one[place] for one in found.values()) for place in ("inside", "between"))
  runs = {"decode": settings.rollout.chunk, "update": settings.train.micro_batches}.get(made.name, 1)
  flops = _flops(made.name, settings, config) / chips
  touched = (need.arguments + need.outputs) * runs
  seconds = {
    "compute": flops / chip.flops, "memory": touched / chip.bandwidth, "interconnect": inside / (2 * chip.link),
    "network": between / chip.network,
  }  # fmt: skip
  return report | {
    "arguments": need.arguments, "temporary": need.temporary + need.outputs + need.code, "host": need.host,
    "resident": made.resident, "total": total, "allowed": allowed, "fits": total <= allowed,
    "flops": flops, "bytes": touched, "collectives": found, "seconds_at_least": max(seconds.values()),
    "bound_by": max(seconds, key=seconds.get),
  }  # fmt: skip


def room(programs: list[dict], held: Resident, settings: RunSettings, shards: int) -> dict:
  """What would still fit: rollout slots, and sequences of a micro-batch; None where the program itself did not compile."""
  by_name = {one["name"]: one for one in programs if "total" in one}
  slots = micro = None
  if (decode := by_name.get("decode")) and held.cache:
    each = (held.cache + decode["temporary"]) * shards / held.slots  # of a device
    free = decode["allowed"] - decode["total"]
    slots = max(0, held.slots + math.floor(free / each) * shards)
  if update := by_name.get("update"):
    shape, chosen = settings.rollout, settings.train
    now = shape.prompts * shape.group // (chosen.minibatches * chosen.micro_batches)
    free = update["allowed"] - update["total"]
    micro = max(0, math.floor(now * (1 + free / max(1, update["temporary"]))) // shards * shards)
  return {"slots": slots, "micro_batch_sequences": micro}


def advice(program: dict, settings: RunSettings) -> str:
  """Which line of the config to change for a program that does not fit."""
  name, shape, chosen = program["name"], settings.rollout, settings.train
  fixed = program.get("arguments", 0) + program.get("resident", 0)
  if name in ("update", "reference"):
    if program.get("temporary", 1) * 2 < fixed:
      return f"raise config.mesh.fsdp (now {settings.mesh.fsdp}) or take more chips: the state alone is {fixed / GIB:.1f} GiB"
    remat = "" if settings.model.remat == "block" else f', or set config.model.remat to "block" (now {settings.model.remat!r})'
    return f"raise config.train.micro_batches (now {chosen.micro_batches}){remat}"
  slots = shape.slots or shape.prompts * shape.group
  return f"lower config.rollout.slots (now {slots}) or raise config.mesh.tensor (now {settings.mesh.tensor})"


def _flops(name: str, settings: RunSettings, config: ModelConfig) -> float:
  """Of all devices together."""
  shape = settings.rollout
  samples, whole = shape.prompts * shape.group, shape.max_prompt_tokens + shape.max_new_tokens
  if name == "decode":
    slots = shape.slots or samples
    return shape.chunk * slots * (2 * _active(config) + _scores(config, whole // 2))
  if name == "prefill":
    return shape.prompts * shape.max_prompt_tokens * (2 * _active(config) + _scores(config, shape.max_prompt_tokens // 2))
  if name in ("update", "reference"):
    forward = samples / settings.train.minibatches * whole * (2 * _active(config) + _scores(config, whole // 2))
    again = config.remat in ("block", "attention", "offload")
    return forward * ((4 if again else 3) if name == "update" else 1)
  return 0.0


def _active(config: ModelConfig) -> float:
  """Weights that one token is multiplied with: of experts its own k, of the embedding the output matrix alone."""
  total = weights.count(config)
  if not config.tie_embeddings:
    total -= config.vocab_size * config.embed
  idle = config.layers * 3 * config.embed * config.expert_mlp * (config.experts - config.experts_per_token)
  return total - idle


def _scores(config: ModelConfig, context: int) -> float:
  """Scores of a token's queries with `context` keys, and sums of as many values."""
  return 4.0 * config.layers * config.heads * config.head_dim * context
