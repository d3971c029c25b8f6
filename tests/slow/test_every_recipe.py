"""Every recipe trains the quickstart. Run by `make test-slow`; the table and the curves go to docs/results.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.recipes import rewards
from jaxreason import metrics
from jaxreason.recipes import RECIPES

WORKDIR = Path("runs/recipes")


@pytest.fixture(scope="module")
def finished():
  """All runs, from wherever they were left; their table is printed."""
  environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
  subprocess.run([sys.executable, "-m", "benchmarks.recipes", f"--workdir={WORKDIR}"], check=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_the_quickstart(name, finished):
  curve = rewards(WORKDIR / name)
  print(name, np.round(curve, 2).tolist(), json.loads((WORKDIR / name / "results.json").read_text())["gain"])
  assert curve[-10:].mean() > curve[:5].mean() + 0.1
  assert not any(row["skipped"] for row in metrics.read(WORKDIR / name) if row["phase"] == "train")


@pytest.mark.slow
def test_the_curves_are_drawn(finished):
  assert (WORKDIR / "curves.png").stat().st_size > 10_000
