"""Compiles an update for two slices of a TPU v5e that are not here; prints the slices of the mesh, and kinds of collectives.

Argument: tpu.
"""

import json
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from jaxreason import build, phases, sharding
from jaxreason.model.config import ModelConfig
from jaxreason.records import Batch
from jaxreason.settings import RunSettings
from jaxreason.sharding import MeshSizes

CONFIG = ModelConfig(
  vocab_size=256, embed=256, layers=2, heads=2, kv_heads=2, head_dim=128, mlp=512, compute_dtype="bfloat16"
)
topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2", num_slices=2)
mesh = sharding.make_mesh(MeshSizes(1, 2, 2, dcn=2), topology.devices)
rows = lambda dtype, *shape: jax.ShapeDtypeStruct((16, *shape), dtype, sharding=sharding.sharding(mesh, ("batch",)))
batch = Batch(
  tokens=rows(jnp.int32, 128), prompt_lengths=rows(jnp.int32), lengths=rows(jnp.int32), mask=rows(bool, 64),
  behavior_logprobs=rows(jnp.float32, 64), advantages=rows(jnp.float32, 64),
)  # fmt: skip
with jax.set_mesh(mesh):
  state = phases.abstract_state(RunSettings(), CONFIG, mesh, "train")
  text = build.compile_programs(RunSettings(), CONFIG, mesh).update.lower(state, batch, 1.0).compile().as_text()
found = sorted(set(re.findall(r" (all-gather|all-reduce|reduce-scatter)(?:-start)?\(", text)))
print(json.dumps({"slices": [sorted({d.slice_index for d in part.flat}) for part in mesh.devices], "collectives": found}))
