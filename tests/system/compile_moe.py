"""Compiles a mixture of experts for a chip that is not here and prints what came of it, one JSON object a line.

`python compile_moe.py tpu|gpu`, in the environment of test_chips.py. Two layers of Qwen3-30B-A3B's shape with a small
vocabulary: the gradients of an update whose experts are spread over four chips, and a decode program of one chip.
"""

import dataclasses
import functools
import json
import re
import sys
import time

import jax
from compile_decode import devices_of
from compile_rollout import programs_of
from compile_training import batch_of

from jaxreason import sharding
from jaxreason import update as updates
from jaxreason.model import training_attention, weights
from jaxreason.model.config import ModelConfig
from jaxreason.objective import Objective
from jaxreason.sharding import MeshSizes

QWEN_MOE = ModelConfig(
  vocab_size=8192, embed=2048, layers=2, heads=32, kv_heads=4, head_dim=128, mlp=768, qk_norm=True, experts=128,
  experts_per_token=8, expert_mlp=768, normalize_routing=True, balance_coef=0.001, compute_dtype="bfloat16", remat="block",
)  # fmt: skip
ROWS, COLUMNS, DEVICES = 8, 2048, 4


def of_update(platform):
  mesh = sharding.make_mesh(MeshSizes(expert=DEVICES), devices_of(platform)[:DEVICES])
  sizes = dict(heads=QWEN_MOE.heads, kv_heads=QWEN_MOE.kv_heads, head_dim=QWEN_MOE.head_dim, mesh=mesh)
  config = dataclasses.replace(QWEN_MOE, attention=training_attention.choose(platform, **sizes)[0])
  step = functools.partial(updates.value_and_gradients, config=config, objective=Objective(), chunk_tokens=1024)
  start = time.perf_counter()
  with jax.set_mesh(mesh):
    batch = batch_of(mesh, packed=False, rows=ROWS, columns=COLUMNS, prompt=COLUMNS // 4)
    program = jax.jit(step).lower(weights.abstract(config, mesh=mesh), batch, 1.0).compile()
  # Of one layer: what each device gathers and sorts, every token's choices, in two bytes a number.
  rows_bytes = 2 * ROWS * COLUMNS * config.experts_per_token * config.embed
  whole = sum(x.size * 4 for x in jax.tree.leaves(weights.abstract(config)))
  return {
    "what": "update",
    "seconds": round(time.perf_counter() - start, 1),
    "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    "rows_bytes": rows_bytes,
    "experts_here": config.experts // DEVICES,
    "parameter_bytes": whole // DEVICES,
    "kernel_calls": len(re.findall(r"custom-call\(.*tpu_custom_call", program.as_text())),
  }


def of_decode(platform):
  config = dataclasses.replace(QWEN_MOE, decode_kernel=f"pallas_{platform}")
  mesh = sharding.make_mesh(MeshSizes(), devices_of(platform)[:1])
  start = time.perf_counter()
  _, decoded, _ = programs_of(mesh, config, B=64, g=8, prompt=256, slots=512, budget=256)
  return {
    "what": "decode",
    "seconds": round(time.perf_counter() - start, 1),
    "temporary_bytes": decoded.memory_analysis().temp_size_in_bytes,
    "expert_bytes": 2 * config.experts * config.expert_mlp * config.embed,  # of one of a layer's three matrices
  }


if __name__ == "__main__":
  for report in (of_update, of_decode):
    print(json.dumps(report(sys.argv[1])), flush=True)
