"""`launchers/slurm.sbatch` under a real Slurm of this machine alone: two tasks train, are requeued, and go on to the end."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.system
FLAGS = [
  "--config=quickstart", "--platform=cpu", "--config.mesh.data=2", "--config.sft.steps=2", "--config.train.steps=3",
  "--config.train.save_every=1", "--config.train.keep=2", "--config.evaluation.problems=8", "--config.evaluation.samples=1",
  "--config.evaluation.every=0", "--config.rollout.prompts=4", "--config.rollout.group=4", "--config.rewards.workers=1",
]  # fmt: skip


@pytest.fixture
def slurm(tmp_path):
  """(the environment of a client, call) -> what a command of Slurm's printed."""
  script = ROOT / "tests/system/slurm_here.sh"
  try:
    started = subprocess.run(["bash", script, "start", tmp_path / "slurm"], capture_output=True, text=True, timeout=300)
    assert started.returncode == 0, started.stderr
    variables = dict(line.split("=", 1) for line in started.stdout.splitlines() if line.startswith("SLURM_CONF="))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment |= variables | {"PATH": path, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}

    def call(*command):
      done = subprocess.run(list(map(str, command)), env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
      logs = [log.read_text()[-2000:] for log in (tmp_path / "slurm").glob("*.log")]
      assert done.returncode == 0, (command, done.stderr, *logs)
      return done.stdout

    yield call
  finally:
    subprocess.run(["bash", script, "stop", tmp_path / "slurm"], timeout=60)


def wait_for(wanted, seconds, told):
  end = time.monotonic() + seconds
  while not (found := wanted()):
    assert time.monotonic() < end, told()
    time.sleep(0.5)
  return found


def test_two_tasks_are_requeued_and_go_on_to_the_end(slurm, tmp_path):
  workdir, log = tmp_path / "run", tmp_path / "job.log"
  submitted = slurm(
    "sbatch", "--ntasks=2", "--ntasks-per-node=2", "--cpus-per-task=1", f"--output={log}", ROOT / "launchers/slurm.sbatch",
    *FLAGS, f"--workdir={workdir}",
  )  # fmt: skip
  job = re.search(r"\d+", submitted)[0]
  state = lambda: re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", job))[1]
  said = lambda: f"{state()}: {log.read_text()[-3000:] if log.exists() else 'no log'}"
  checkpoints = workdir / "checkpoints"
  wait_for(lambda: list(checkpoints.glob("[0-9]*/manifest.json")), 180, said)
  slurm("scontrol", "requeue", job)
  wait_for(lambda: state() == "PENDING", 90, said)
  assert "asked to end, saved at step" in log.read_text()
  slurm("scontrol", "update", f"JobId={job}", "StartTime=now")  # a requeued job would wait two minutes
  wait_for(lambda: state() in ("COMPLETED", "FAILED", "TIMEOUT"), 240, said)
  assert state() == "COMPLETED", said()
  assert "going on from step" in log.read_text()
  assert json.loads((workdir / "results.json").read_text())["after"]
  assert re.search(r"Restarts=(\d+)", slurm("scontrol", "show", "job", job))[1] == "1"
