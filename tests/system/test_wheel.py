"""The wheel, as somebody gets it who has no checkout: an empty environment, an empty directory, the installed command."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = [
  "--config.sft.steps=2",
  "--config.train.steps=2",
  "--config.model.layers=2",
  "--config.evaluation.problems=8",
  "--config.evaluation.every=0",
  "--config.rollout.prompts=4",
  "--config.rollout.group=2",
  "--config.train.micro_batches=1",
]


def as_a_user() -> dict:
  """The environment without what the suite sets for itself: one device, optimised code."""
  return {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """(directory with the wheel, environment it is installed in)"""
  there = tmp_path_factory.mktemp("wheel")
  subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", there, ROOT], check=True)
  environment = there / "environment"
  venv.create(environment, with_pip=True)
  wheel = next(there.glob("jaxreason-*.whl"))
  subprocess.run([environment / "bin/python", "-m", "pip", "install", "-q", wheel], check=True)
  return wheel, environment / "bin"


@pytest.mark.system
def test_the_wheel_holds_code_and_configs_and_no_tests(installed):
  names = zipfile.ZipFile(installed[0]).namelist()
  assert "jaxreason/train.py" in names and "jaxreason/configs/quickstart.py" in names
  assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]


@pytest.mark.system
def test_a_run_from_the_wheel_outside_any_checkout(installed, tmp_path):
  command = [installed[1] / "jaxreason", "train", "--config=quickstart", "--workdir=run", "--platform=cpu", *TINY]
  subprocess.run(command, cwd=tmp_path, check=True, timeout=300, env=as_a_user())
  results = json.loads((tmp_path / "run/results.json").read_text())
  assert results.keys() >= {"before", "after", "gain"}
  assert (tmp_path / "run/reward_curve.png").stat().st_size > 10_000


@pytest.mark.system
def test_doctor_from_the_wheel_finds_nothing_wrong(installed, tmp_path):
  done = subprocess.run(
    [installed[1] / "jaxreason", "doctor", "--json", "--platform=cpu"],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=120,
    env=as_a_user(),
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert isinstance(json.loads(done.stdout), dict)
