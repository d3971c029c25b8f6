"""Compiles the whole decode and insert programs for a chip that is not here and prints their memory, one JSON object a line.

`python compile_rollout.py tpu|gpu`, in the environment of test_chips.py. Two layers of Qwen2.5-1.5B's, SmolLM2-135M's and
Gemma 2 2B's shapes.
"""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
from compile_decode import devices_of

from jaxreason import sharding
from jaxreason.model import weights
from jaxreason.model.config import ModelConfig
from jaxreason.rollout import prepare, programs
from jaxreason.rollout.state import Rows
from jaxreason.sampling import Sampling
from jaxreason.sharding import MeshSizes

QWEN = ModelConfig(
  vocab_size=151_936, embed=1536, layers=2, heads=12, kv_heads=2, head_dim=128, mlp=8960, qkv_bias=True,
  compute_dtype="bfloat16",
)  # fmt: skip
SMOL = ModelConfig(vocab_size=49_152, embed=576, layers=2, heads=9, kv_heads=3, head_dim=64, mlp=1536, compute_dtype="bfloat16")
# Of Gemma 2's layers those with a window, here shorter than what is in the cache.
GEMMA = ModelConfig(
  vocab_size=256_000, embed=2304, layers=2, heads=8, kv_heads=4, head_dim=256, mlp=9216, norms="both", norm_offset=True,
  activation="gelu_tanh", scale_embedding=True, layer_kinds=("window",) * 2, window=384, attention_cap=50.0, logit_cap=30.0,
  compute_dtype="bfloat16",
)  # fmt: skip
# Name, sizes, slots, slots that share a prompt, prompt columns, cache slots, tokens, devices.
CASES = (
  ("Qwen2.5-1.5B", QWEN, 128, 8, 256, 512, 512, 1),
  ("Qwen2.5-1.5B", QWEN, 128, 8, 256, 512, 512, 4),
  ("SmolLM2-135M", SMOL, 256, 1, 256, 768, 512, 1),
  ("Gemma-2-2B", GEMMA, 128, 8, 256, 512, 512, 1),
)


def programs_of(mesh, config, *, B, g, prompt, slots, budget):
  """(insert, decode, the state that both take), compiled."""
  R, numbers = 16, lambda dtype: jax.ShapeDtypeStruct((16,), dtype)
  whole = functools.partial(_placed, mesh, lambda x: (None,) * x.ndim)
  spread = functools.partial(_placed, mesh, lambda x: programs.AXES[x.ndim])
  i, f = numbers(jnp.int32), numbers(jnp.float32)
  rows = whole(Rows(i, i, i, i, i, Sampling(f, f, i, f), i, i))
  root = jax.eval_shape(lambda: jax.random.key(0))
  with jax.set_mesh(mesh):
    params = whole(jax.eval_shape(functools.partial(prepare.prepare_rollout_params, config=config), weights.abstract(config)))
    extend = lambda params, tokens, lengths: programs.extend(params, config, tokens, lengths)
    prefix, _ = jax.eval_shape(extend, params, jax.ShapeDtypeStruct((R, prompt), jnp.int32), i)
    prefix = spread(prefix)
    sizes = dict(shape=(B, B // g if g > 1 else 0, budget), slots=slots, prefix_slots=prompt)
    insert = functools.partial(programs.insert, **sizes)
    state = spread(jax.eval_shape(functools.partial(insert, None), prefix, rows, root))
    inserted = jax.jit(insert, donate_argnums=0).lower(state, prefix, rows, root).compile()
    decode = functools.partial(programs.decode, config=config, steps=16, truncate=False, least=False)
    stops, version = jax.ShapeDtypeStruct((3,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    decoded = jax.jit(decode, donate_argnames="state").lower(params, state=state, stop_ids=stops, version=version).compile()
  return inserted, decoded, state


def report(platform, name, config, B, g, prompt, slots, budget, devices):
  config = dataclasses.replace(config, decode_kernel=f"pallas_{platform}")
  mesh = sharding.make_mesh(MeshSizes(devices), devices_of(platform)[:devices])
  sizes = dict(B=B, g=g, prompt=prompt, slots=slots, budget=budget)
  inserted, decoded, state = programs_of(mesh, config, **sizes)
  cache = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state.cache.keys, state.cache.values)))
  return {
    "shape": name,
    "devices": devices,
    "decode_temporary_bytes": decoded.memory_analysis().temp_size_in_bytes,
    "insert_temporary_bytes": inserted.memory_analysis().temp_size_in_bytes,
    "logits_bytes": 4 * B * config.vocab_size // devices,
    "cache_bytes": cache // devices,
  }


def _placed(mesh, axes, tree):
  at = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.sharding(mesh, axes(x)))
  return jax.tree.map(at, tree)


if __name__ == "__main__":
  for case in CASES:
    print(json.dumps(report(sys.argv[1], *case)), flush=True)
