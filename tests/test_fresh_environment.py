"""The arithmetic installs with `--no-deps` beside jax and chex alone, and runs there. pip needs a network, or its cache."""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def run(*command, **settings):
  done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **settings)
  assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
  return done.stdout


@pytest.fixture
def folder():
  """Gone after the test: pytest would keep the last three, of 600 MB each."""
  with tempfile.TemporaryDirectory() as name:
    yield Path(name)


def test_the_arithmetic_needs_jax_and_chex_alone(folder):
  """This interpreter's pip fills the other environment, which is sooner made without one of its own."""
  venv.create(folder / "venv", symlinks=True)
  python = folder / "venv" / "bin" / "python"
  pip = sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"
  run(*pip, "jax", "chex")
  run(*pip, "--no-deps", HERE.parent)
  # Neither this process's flags for JAX nor the source tree are to be seen: `-I` hides the working directory too.
  kept = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "PYTHON"))}
  out = run(python, "-I", HERE / "arithmetic_alone.py", env={**kept, "JAX_PLATFORMS": "cpu"}, cwd=folder)
  assert out.strip() == "fine"
