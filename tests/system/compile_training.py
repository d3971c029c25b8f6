"""Compiles the gradients of a whole update for a chip that is not here and prints what came of it, one JSON object a line.

`python compile_training.py tpu|gpu`, in the environment of test_chips.py. Two layers of Qwen2.5-1.5B's, SmolLM2-135M's
and Gemma 2 2B's shapes with a small vocabulary, so that blocks are what takes time and memory.
"""

import dataclasses
import functools
import json
import re
import sys
import time

import jax
import jax.numpy as jnp
from compile_decode import devices_of
from compile_rollout import GEMMA, QWEN, SMOL

from jaxreason import sharding
from jaxreason import update as updates
from jaxreason.model import training_attention, weights
from jaxreason.objective import Objective
from jaxreason.records import Batch, Layout
from jaxreason.sharding import MeshSizes

ROWS, COLUMNS, PROMPT, PACKED = 4, 8192, 2048, (2, 8192)
# Name, sizes, whether samples are packed, sizes of the mesh and what is kept.
CASES = (
  ("Qwen2.5-1.5B", QWEN, True, MeshSizes(1), "attention"),
  ("Qwen2.5-1.5B", QWEN, False, MeshSizes(2, 1, 2), "block"),
  ("Qwen2.5-1.5B", QWEN, True, MeshSizes(1, 2, 1, 2), "offload"),
  ("SmolLM2-135M", SMOL, False, MeshSizes(1), "attention"),
  ("Gemma-2-2B", GEMMA, False, MeshSizes(1), "attention"),
)


def batch_of(mesh, packed: bool, *, rows=ROWS, columns=COLUMNS, prompt=PROMPT) -> Batch:
  """Shapes of a batch on a mesh: rows in parts, the rest whole."""

  def array(axes, *shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.sharding(mesh, axes))

  numbers = array((None,), rows, dtype=jnp.int32)
  tokens = functools.partial(array, (None, None), rows, columns - prompt)
  layout = Layout(array((None, None), *PACKED, dtype=jnp.int32), numbers) if packed else None
  return Batch(
    tokens=array((None, None), rows, columns, dtype=jnp.int32), prompt_lengths=numbers, lengths=numbers,
    mask=tokens(dtype=bool), behavior_logprobs=tokens(), advantages=tokens(), layout=layout,
  )  # fmt: skip


def report(platform, name, config, packed, sizes, remat):
  count = sizes.data * sizes.fsdp * sizes.tensor * sizes.sequence
  mesh = sharding.make_mesh(sizes, devices_of(platform)[:count])
  chosen, _ = training_attention.choose(
    platform, heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, mesh=mesh
  )
  config = dataclasses.replace(config, vocab_size=8192, attention=chosen, remat=remat)
  step = functools.partial(updates.value_and_gradients, config=config, objective=Objective(), chunk_tokens=1024)
  start = time.perf_counter()
  with jax.set_mesh(mesh):
    program = jax.jit(step).lower(weights.abstract(config, mesh=mesh), batch_of(mesh, packed), 1.0).compile()
  text, memory = program.as_text(), program.memory_analysis()
  rows, columns = PACKED if packed else (ROWS, COLUMNS)
  return {
    "shape": name,
    "packed": packed,
    "mesh": dataclasses.astuple(sizes),
    "kernel": config.attention,
    "remat": remat,
    "seconds": round(time.perf_counter() - start, 1),
    "kernel_calls": len(re.findall(r"custom-call\(.*(?:tpu_custom_call|xla\.gpu\.triton)", text)),
    "temporary_bytes": memory.temp_size_in_bytes,
    "host_bytes": memory.host_temp_size_in_bytes,
    # The blocks' inputs, and one layer's scores, as this device would hold them.
    "inputs_bytes": 2 * config.layers * config.embed * rows * columns // count,
    "scores_bytes": 4 * config.heads * rows * columns**2 // count,
  }


if __name__ == "__main__":
  for case in CASES if sys.argv[1] == "gpu" else CASES[::2]:  # a TPU's compiler takes a minute or two for each
    print(json.dumps(report(sys.argv[1], *case)), flush=True)
