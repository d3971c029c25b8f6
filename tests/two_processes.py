"""One of two processes that make one update together; started by test_sharding.

Arguments: own number, port, file for the result. Each process holds two CPU devices and feeds the half of the batch that
lives on them. Process 0 writes the loss and the gradients (the first moments over 1 - b1).
"""

import sys

import jax
import numpy as np

number, port, result = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number, initialization_timeout=60)

import tiny  # noqa: E402  after the processes have found each other
from jax.experimental import multihost_utils  # noqa: E402

from jaxreason import build  # noqa: E402
from jaxreason.model import weights  # noqa: E402
from jaxreason.sharding import MeshSizes, make_mesh, sharding  # noqa: E402

mesh = make_mesh(MeshSizes(data=1, fsdp=2, tensor=2))
programs = build.compile_programs(tiny.settings(), tiny.CONFIG, mesh)


def spread(value, where):
  return jax.make_array_from_callback(value.shape, where, lambda index: value[index])


def mine(value):
  """This process's rows of a batch, as part of the whole."""
  rows = len(value) // 2
  where = sharding(mesh, ("batch",) + (None,) * (value.ndim - 1))
  return jax.make_array_from_process_local_data(where, value[number * rows : (number + 1) * rows])


with jax.set_mesh(mesh):
  params = jax.tree.map(spread, tiny.params(), weights.shardings(tiny.CONFIG, mesh))
  state, stats = programs.update(programs.start_rl(params), jax.tree.map(mine, tiny.batch()), 1.0)
gradients = multihost_utils.process_allgather(tiny.gradients(state), tiled=True)
if number == 0:
  np.savez(result, *jax.tree.leaves(gradients), loss=np.asarray(stats["loss"]), devices=jax.device_count())
