"""The quickstart's promise, seed by seed, and its control. Run by `make test-slow`; the numbers go to docs/results.md."""

import json
import os
import subprocess
import sys

import pytest


def as_a_user() -> dict:
  """The environment without what the suite sets for itself: one device, optimised code."""
  ours = ("JAX_", "XLA_")
  return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def quickstart(workdir, *overrides) -> dict:
  """Results of the quickstart as a user runs it."""
  command = [
    sys.executable,
    "-m",
    "jaxreason.cli.main",
    "train",
    "--config=quickstart",
    f"--workdir={workdir}",
    "--platform=cpu",
  ]
  subprocess.run([*command, *overrides], check=True, env=as_a_user())
  return json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pass_at_1_rises_by_25_points_greedy_and_15_sampled(tmp_path, seed):
  results = quickstart(tmp_path / "run", f"--config.seed={seed}")
  print(seed, json.dumps(results["gain"]))
  assert results["gain"]["greedy"]["gain"] >= 0.25
  assert results["gain"]["sampled"]["gain"] >= 0.15


@pytest.mark.slow
def test_shuffled_rewards_teach_nothing(tmp_path):
  results = quickstart(tmp_path / "run", "--config.rewards.shuffle=true")
  print(json.dumps(results["gain"]))
  assert results["gain"]["greedy"]["gain"] <= 0.05
  assert results["gain"]["sampled"]["gain"] <= 0.05
