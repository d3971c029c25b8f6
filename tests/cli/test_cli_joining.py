"""How a process finds the others of its run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxreason.cli.joining import Join, how
from jaxreason.errors import UserError

NONE = (None, None, None)
SLURM = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "node1"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:4"}
VARIABLES = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}


@pytest.mark.parametrize(("flags", "environment", "tpu", "found"), [
  (NONE, {}, False, None),
  (NONE, {}, True, Join("TPU")),
  (NONE, SLURM, False, Join("Slurm")),
  (NONE, SLURM | {"SLURM_NTASKS": "1"}, False, None),
  (NONE, {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, False, None),  # in the batch script, outside a step
  (NONE, MPI, False, Join("Open MPI")),
  (NONE, VARIABLES | SLURM, False, Join("JAX_COORDINATOR_ADDRESS", "a:1", 2, 0)),
  (("h:5", 3, 2), VARIABLES | SLURM, True, Join("--coordinator", "h:5", 3, 2)),
])  # fmt: skip
def test_flags_come_before_variables_before_schedulers_before_tpus(flags, environment, tpu, found):
  assert how(flags, environment, tpu=tpu) == found


@pytest.mark.parametrize(("flags", "environment", "told"), [
  (("h:5", None, 0), {}, "got no --processes; give all three, or none"),
  ((None, 2, None), {}, "got no --coordinator and no --process;"),
  (("h", 2, 0), {}, "--coordinator expected HOST:PORT, got h"),
  (("h:5", 2, 2), {}, "--process expected from 0 to 1 with --processes=2, got 2"),
  (NONE, {"JAX_NUM_PROCESSES": "2"}, "got no JAX_COORDINATOR_ADDRESS and no JAX_PROCESS_ID"),
  (NONE, {"OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI expected JAX_COORDINATOR_ADDRESS=HOST:PORT"),
])  # fmt: skip
def test_what_is_missing_is_told_in_one_line(flags, environment, told):
  with pytest.raises(UserError, match=told):
    how(flags, environment)


@pytest.mark.system
def test_the_launcher_of_several_processes_trains_one_run(tmp_path):
  """Two processes of two CPU devices through `launchers/local_multiprocess.sh`; only the first talks and writes."""
  root = Path(__file__).parents[2]
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  done = subprocess.run(
    [root / "launchers/local_multiprocess.sh", "2", "2", sys.executable, "-m", "jaxreason.cli.main", "train",
     "--config=quickstart", "--platform=cpu", f"--workdir={tmp_path}", "--config.sft.steps=2", "--config.train.steps=1",
     "--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.evaluation.problems=8", "--config.evaluation.every=0"],
    env=os.environ | {"PYTHONPATH": str(root), "PORT": str(port)}, capture_output=True, text=True, timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  assert done.stdout.count("devices: 4 x cpu; mesh: data 2, fsdp 2") == 1
  assert set(json.loads((tmp_path / "results.json").read_text())) >= {"before", "after"}
