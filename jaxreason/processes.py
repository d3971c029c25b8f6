"""Floor 1: what several processes of one run say to each other beside the arrays.

Every process runs the same program and decides alike, from values that all of them hold. What enters: arrays of which a process
holds a part, rows that all know, verdicts that one has. What leaves: the same on every process. With one process each function
is the identity.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxreason import sharding
from jaxreason.errors import UserError

_LEAST_BYTES = 4096  # messages are padded to powers of two from here: few sizes are few compilations


def is_first() -> bool:
  """Whether this is the process that writes files and talks."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def count() -> int:
  """How many processes make this run. A process that is alone is told so without a device being started."""
  return jax.process_count() if jax.distributed.is_initialized() else 1


def number() -> int:
  """Which of them this one is."""
  return jax.process_index() if jax.distributed.is_initialized() else 0


def is_mine(number: int) -> bool:
  """Whether a group, by its visit id, is verified here: it is whole on one process."""
  return count() == 1 or number % count() == jax.process_index()


def fetched(tree) -> Any:
  """The arrays as numpy arrays, whole on every process; all of them call it, in the same order."""
  if all(jax.tree.leaves(jax.tree.map(_is_here, tree))):
    return jax.device_get(tree)
  return jax.device_get(multihost_utils.process_allgather(tree, tiled=True))


def _is_here(leaf) -> bool:
  return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def fed(tree, mesh: Mesh) -> Any:
  """Rows that every process knows, as arrays on the mesh: each puts the rows that its own devices hold.

  Args:
    tree: of numpy arrays [n, ...]; other leaves stay as they are. A batch divides over the devices it is cut over, or was
      refused before; groups that do not, whose samples do, are put whole on each, and cut where they become a batch.
    mesh: of all processes.
  """
  parts = sharding.parts("batch", mesh)

  def placed(leaf):
    if not isinstance(leaf, np.ndarray) or not leaf.ndim:
      return leaf
    cut = leaf.shape[0] % parts == 0
    where = sharding.sharding(mesh, ("batch",)) if cut else sharding.replicated(mesh)
    return jax.make_array_from_callback(leaf.shape, where, lambda index: leaf[index])

  return jax.tree.map(placed, tree) if count() > 1 else tree


def feeding(mesh: Mesh, program: Callable, place: int) -> Callable:
  """The program, with one of its arguments `fed`."""
  if count() == 1:
    return program
  return lambda *given, **named: program(*given[:place], fed(given[place], mesh), *given[place + 1 :], **named)


def agree(problem: Exception | None) -> None:
  """Raises on every process what one of them met, so that none waits for another that is gone; all of them call it.

  Raises:
    Exception: `problem` itself where it was met; elsewhere a UserError with its words.
  """
  met = exchanged(problem and " ".join(str(problem).split()))
  if problem is not None:
    raise problem
  for number, told in enumerate(met):
    if told is not None:
      raise UserError(f"process {number}: {told}")


def exchanged(told) -> list:
  """What each process told, JSON values, in their order; all of them call it."""
  if count() == 1:
    return [told]
  data = json.dumps(told).encode()
  lengths = multihost_utils.process_allgather(np.array([len(data)], np.int32)).reshape(-1)
  size = max(_LEAST_BYTES, 1 << (int(lengths.max()) - 1).bit_length())
  padded = np.zeros(size, np.uint8)
  padded[: len(data)] = np.frombuffer(data, np.uint8)
  every = multihost_utils.process_allgather(padded).reshape(len(lengths), size)
  return [json.loads(row[:length].tobytes()) for row, length in zip(every, lengths, strict=True)]
