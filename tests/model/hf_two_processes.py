"""One of two processes that load and export a sharded checkpoint together; started by test_hf.

Arguments: own number, port, checkpoint directory, export directory. Prints one JSON object.
"""

import json
import sys
import tracemalloc

import jax
import jax.numpy as jnp

from jaxreason.errors import UserError
from jaxreason.model import hf, weights
from jaxreason.sharding import MeshSizes, make_mesh

number, port, directory, export = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)
mesh = make_mesh(MeshSizes(data=1, fsdp=2, tensor=2))
shardings = weights.shardings(hf.read_config(directory), mesh)

tracemalloc.start()
params, config = hf.load(directory, dtype=jnp.float32, shardings=shardings)
jax.block_until_ready(params)
_, peak = tracemalloc.get_traced_memory()
tracemalloc.stop()

hf.save(params, config, export)
try:
  hf.save(params, config, export)
  refused = False
except UserError:
  refused = True

# Replicas on this process's devices share one read, so a slice counts once.
pieces = [{str(shard.index): shard.data.nbytes for shard in leaf.addressable_shards} for leaf in jax.tree.leaves(params)]
local = sum(sum(by_slice.values()) for by_slice in pieces)
total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print(json.dumps({"devices": jax.device_count(), "peak": peak, "local": local, "total": total, "refused": refused}))
