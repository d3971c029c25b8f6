"""The quickstart's promise, seed by seed, and its control. Run by `make test-slow`; the numbers go to docs/results.md."""

import json
import subprocess
import sys

import pytest


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
  subprocess.run([*command, *overrides], check=True)
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
