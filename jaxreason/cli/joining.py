"""Floor 5, command line: whether this process is one of several of a run, and how it finds the others.

What enters: the flags, the environment that a launcher or a scheduler made, the kind of machine. What leaves: a process that
JAX knows as one of N, or alone. `how` only decides; `join` acts, before the first device is touched.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxreason.errors import UserError

FLAGS = {
  "--coordinator": dict(metavar="HOST:PORT", help="of several processes: where the first one listens"),
  "--processes": dict(type=int, metavar="N", help="of several processes: how many"),
  "--process": dict(type=int, metavar="I", help="of several processes: which this is, from 0"),
}
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Join(NamedTuple):
  """How to find the others; without an address JAX reads what the scheduler says."""

  by: str
  address: str | None = None
  processes: int | None = None
  process: int | None = None


def how(flags: tuple, environment: Mapping[str, str], *, tpu: bool = False) -> Join | None:
  """How this process joins the others of its run, or None where it is alone.

  Flags come first, then the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, then the tasks of a Slurm
  step and of Open MPI, then the workers of a TPU slice.

  Args:
    flags: coordinator, processes and process, None where not given.
    environment: of the process.
    tpu: whether this is a host of TPUs that are to be used.

  Raises:
    UserError: some of the three were given and not all, or they contradict each other.
  """
  variables = tuple(environment.get(name) or None for name in _VARIABLES)
  for names, given in ((tuple(FLAGS), flags), (_VARIABLES, variables)):
    if any(one is not None for one in given):
      return _explicit(names, given)
  if int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
    return Join("Slurm")
  if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
    if "OMPI_MCA_orte_hnp_uri" not in environment:  # Open MPI 5 does not say where its first process is
      raise UserError(
        f"Open MPI expected {_VARIABLES[0]}=HOST:PORT of rank 0 beside it, got none; set it, {_VARIABLES[1]} and "
        f"{_VARIABLES[2]}, or give {', '.join(FLAGS)}"
      )
    return Join("Open MPI")
  return Join("TPU") if tpu else None


def join(arguments: argparse.Namespace, environment: Mapping[str, str]) -> None:
  """Makes this process one of its run's, where it has several; waits for the others.

  Raises:
    UserError: as `how`, or the others were not found.
  """
  tpu = arguments.platform != "cpu" and environment.get("JAX_PLATFORMS", "tpu").startswith("tpu") and _has_tpu()
  found = how((arguments.coordinator, arguments.processes, arguments.process), environment, tpu=tpu)
  if found is None:
    return
  import jax

  try:
    jax.distributed.initialize(found.address, found.processes, found.process)
  except (RuntimeError, ValueError) as error:
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    raise UserError(f"{found.by} expected the processes of one run to find each other, got: {reason[:300]}") from error


def _explicit(names: tuple, given: tuple) -> Join:
  missing = [name for name, one in zip(names, given, strict=True) if one is None]
  if missing:
    raise UserError(f"{', '.join(names)} expected together, got no {' and no '.join(missing)}; give all three, or none")
  address, (count, number) = str(given[0]), map(int, given[1:])
  if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit():
    raise UserError(f"{names[0]} expected HOST:PORT, got {address}")
  if not 0 <= number < count:
    raise UserError(f"{names[2]} expected from 0 to {count - 1} with {names[1]}={count}, got {number}")
  return Join(names[0], address, count, number)


def _has_tpu() -> bool:
  return Path("/dev/accel0").exists() or any(Path("/dev/vfio").glob("[0-9]*"))
