"""Compiles a decode loop's attention for a chip that is not here and prints what came of it, one JSON object a line.

`python compile_decode.py tpu|gpu`, with libtpu or the CUDA plugin installed beside JAX; see test_chips.py for the environment.
"""

import json
import re
import sys
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from jaxreason import sharding
from jaxreason.model.decode_attention import attend_decode, choose, write_decode
from jaxreason.sharding import MeshSizes

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
LAYERS, STEPS = 2, 4

# Shapes of a rollout: (heads, kv heads, head dim), rows, slots; eight rows share a prompt of half as many slots.
SHAPES = {"SmolLM2-135M": ((9, 3, 64), 256, 512), "Qwen2.5-1.5B": ((12, 2, 128), 128, 1024)}


def devices_of(platform):
  if platform == "tpu":
    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2x1").devices
  return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x4").devices


def loop(kernel):
  """Decode's use of a cache and no more: every step writes a key and a value in each layer and attends to what is there."""

  def step(_, state):
    q, layers, lengths, prefixes, prefix_lengths = state
    written = []
    for (keys, values), prefix in zip(layers, prefixes, strict=True):
      new = q.reshape(len(q), keys.shape[1], -1, q.shape[2])[:, :, 0]
      keys, values = write_decode(keys, values, new, 2 * new, lengths, kernel=kernel)
      q = q + attend_decode(q, keys, values, lengths + 1, *prefix, prefix_lengths, kernel=kernel)
      written.append((keys, values))
    return q, written, lengths + 1, prefixes, prefix_lengths

  return lambda *state: jax.lax.fori_loop(0, STEPS, step, state)


def compiled(kernel, mesh, heads, rows, slots):
  N, K, H = heads
  prompts = rows // 8

  def array(axes, *shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.sharding(mesh, axes))

  cache = lambda count, width: [(array(("batch", "kv_heads", None, None), count, K, width, H),) * 2] * LAYERS
  numbers = lambda count: array(("batch",), count, dtype=jnp.int32)
  q = array(("batch", "heads", None), rows, N, H)
  state = (q, cache(rows, slots), numbers(rows), cache(prompts, slots // 2), numbers(prompts))
  with jax.set_mesh(mesh):
    return jax.jit(loop(kernel), donate_argnums=(0, 1, 2)).lower(*state).compile()


def report(platform, name, sizes, kernel):
  heads, rows, slots = SHAPES[name]
  count = sizes.data * sizes.tensor
  mesh = sharding.make_mesh(sizes, devices_of(platform)[:count])
  chosen, reason = choose(
    platform, heads=heads[0], kv_heads=heads[1], head_dim=heads[2], rows=rows, slots=slots, prompts=rows // 8,
    prefix_slots=slots // 2, mesh=mesh,
  )  # fmt: skip
  start = time.perf_counter()
  program = compiled(kernel or chosen, mesh, heads, rows, slots)
  text = program.as_text()
  # One layer's keys, or the half of them, as this device holds them, in either order of the last two axes.
  local = rf"bf16\[{rows // sizes.data},{heads[1] // sizes.tensor},(?:{slots},{heads[2]}|{heads[2]},{slots})\]"
  return {
    "shape": name,
    "devices": count,
    "kernel": kernel or chosen,
    "reason": "asked for" if kernel else reason,
    "seconds": round(time.perf_counter() - start, 1),
    "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    "layer_bytes": 2 * rows * slots * heads[1] * heads[2] * 2 // count,
    "kernel_calls": len(re.findall(r"custom-call\(.*(?:tpu_custom_call|xla\.gpu\.triton)", text)),
    "cache_copies": len(re.findall(rf"= {local}\S* (?:copy|transpose)\(", text)),
    "collectives": len(re.findall(r" (?:all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(", text)),
  }


if __name__ == "__main__":
  for name in SHAPES:
    for kernel in (None, "einsum"):
      print(json.dumps(report(sys.argv[1], name, MeshSizes(1, 1, 1), kernel)), flush=True)
  print(json.dumps(report(sys.argv[1], "Qwen2.5-1.5B", MeshSizes(2, 1, 2), None)), flush=True)
