"""Laws of a run that learns from pairs: killed at any moment it ends as if it had never stopped, and it learns."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pairs_run
import pytest
import tiny

from jaxreason import build, metrics, phases, progress
from jaxreason.checkpoint import Checkpoints
from jaxreason.errors import UserError
from jaxreason.given import Pairs
from jaxreason.model import weights
from jaxreason.pairs import compile_programs, ranking
from jaxreason.prefer import prefer
from jaxreason.report.display import display

ACCURACY = "rewards/accuracies"


def start(workdir, cache, kind) -> subprocess.Popen:
  """The run as a process of its own. Compiled programs are kept from one process to the next, as they are the same."""
  environment = os.environ | {
    "JAX_NUM_CPU_DEVICES": "1",
    "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  command = [sys.executable, pairs_run.__file__, str(workdir), kind]
  return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def to_the_end(workdir, cache, kind) -> dict:
  """The results of the run, from wherever it is."""
  process = start(workdir, cache, kind)
  told, _ = process.communicate(timeout=240)
  assert process.returncode == 0, told
  return json.loads(told.splitlines()[-1])


def killed(workdir, cache, kind, line: str, delay: float) -> None:
  """Starts the run and kills it some seconds after it has printed the line."""
  process = start(workdir, cache, kind)
  try:
    for told in process.stdout:
      if told.strip() == line:
        break
    time.sleep(delay)
  finally:
    process.kill()
  process.communicate(timeout=60)
  assert process.returncode == -9, f"the run ended before it was killed after {line}"


def kept(workdir, chosen):
  """(step, arrays, host data) of the newest checkpoint."""
  run = build.build(chosen, devices=jax.devices()[:1])
  reference = weights.abstract(run.config, mesh=run.mesh) if chosen.preference.kind == "dpo" else None
  like = progress.saved_tree(phases.abstract_state(chosen, run.config, run.mesh, "preference"), reference)
  with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
    return checkpoints.restore(like)


@pytest.mark.system
def test_a_run_killed_among_its_pairs_ends_like_one_that_was_not(tmp_path):
  """Of DPO, whose reference is in the checkpoint."""
  draw = random.Random(11)
  results = to_the_end(tmp_path / "whole", tmp_path / "cache", "dpo")
  killed(tmp_path / "killed", tmp_path / "cache", "dpo", f"preference {4 + draw.randrange(2, 6)}", draw.uniform(0, 0.05))
  assert to_the_end(tmp_path / "killed", tmp_path / "cache", "dpo") == results
  rows = metrics.deterministic(metrics.read(tmp_path / "whole"))
  assert metrics.deterministic(metrics.read(tmp_path / "killed")) == rows
  phases = [row["phase"] for row in rows]
  assert phases == ["sft"] * 4 + ["test_before"] + [*["preference"] * 4, "eval"] * 2 + ["test_after"]
  chosen = pairs_run.settings()
  (step, arrays, host), (other_step, other_arrays, other_host) = (kept(tmp_path / name, chosen) for name in ("whole", "killed"))
  assert step == other_step == 12 and host == other_host
  jax.tree.map(np.testing.assert_array_equal, arrays, other_arrays)
  assert results["before"][ACCURACY] == 0.5 and results["before"]["loss"] == pytest.approx(np.log(2), rel=1e-6)


def run_of(**changes) -> build.Run:
  return build.build(pairs_run.settings(**changes), devices=jax.devices()[:1])


def quietly(run, workdir):
  with display({}, quiet=True) as show:
    return prefer(run, workdir, show=show)


SHORT = dict(preference__kind="reward_model", sft__steps=1, evaluation__every=0, preference__optimizer__schedule="constant")


def test_a_reward_model_made_longer_is_the_longer_run_and_compiles_once(tmp_path):
  run = run_of(preference__steps=2, **SHORT)
  quietly(run, tmp_path / "grown")
  chosen = dataclasses.replace(run.settings, preference=dataclasses.replace(run.settings.preference, steps=5))
  longer = run._replace(settings=chosen)
  with tiny.compilations() as compiled:
    grown = quietly(longer, tmp_path / "grown")
  assert "jit(update)" not in compiled, "its programs are those of the shorter run"
  assert grown == quietly(longer, tmp_path / "whole")
  (_, arrays, _), (_, others, _) = (kept(tmp_path / name, chosen) for name in ("grown", "whole"))
  jax.tree.map(np.testing.assert_array_equal, arrays, others)
  with pytest.raises(UserError, match=r"config.preference.steps expected to end after step 6, .* got 3"):
    quietly(run, tmp_path / "grown")
  other = dataclasses.replace(chosen, preference=dataclasses.replace(chosen.preference, beta=0.2))
  with pytest.raises(UserError, match=r"config.preference.beta expected 0.1, with which this run was started, got 0.2"):
    quietly(run._replace(settings=other), tmp_path / "grown")


@pytest.mark.system
def test_a_run_over_four_devices_in_unpacked_rows_is_the_run_on_one(tmp_path):
  shape = dict(sft__steps=0, preference__steps=3, evaluation__every=0)
  spread = dict(mesh__data=2, mesh__fsdp=2, preference__row_tokens=0, preference__micro_batches=1)
  quietly(run_of(**shape), tmp_path / "one")
  quietly(build.build(pairs_run.settings(**shape, **spread), devices=jax.devices()[:4]), tmp_path / "four")
  one, four = (metrics.deterministic(metrics.read(tmp_path / name)) for name in ("one", "four"))
  for row, other in zip(one, four, strict=True):
    assert row.pop("phase") == other.pop("phase")
    for told in (row, other):
      told.pop(ACCURACY, None)  # rewards near the reference are differences of nearly equal sums: rounding parts ties
    assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", ["dpo", "reward_model"])
def test_pairs_that_are_seen_often_are_ranked_right(kind):
  """From chance to all of them; a policy's reference stays where it was."""
  rate = dict(preference__optimizer__peak_lr=5e-3, preference__optimizer__schedule="constant")
  run = run_of(data__train_rows=16, preference__kind=kind, preference__batch=16, preference__micro_batches=1, **rate)
  programs, pairs = compile_programs(run), Pairs(run)
  with jax.set_mesh(run.mesh):
    state = run.programs.start_rl(run.initial_params())
    reference = run.initial_params() if kind == "dpo" else None
    before, _ = ranking(run, programs, state.params, reference, run.rows.train)
    for step in range(15):
      batch = pairs.batch(step)
      batch = batch if reference is None else programs.reference(reference, batch)
      state, _ = run.programs.update(state, batch, 1.0)
    after, right = ranking(run, programs, state.params, reference, run.rows.train)
  assert before[ACCURACY] == 0.5 and before["loss"] == pytest.approx(np.log(2), rel=1e-6)
  assert after[ACCURACY] == 1 and right == [1.0] * 16
  assert after["loss"] < 0.3 and after["rewards/margins"] == after["rewards/chosen"] - after["rewards/rejected"] > 1


@pytest.mark.parametrize("kind", ["dpo", "reward_model"])
def test_packed_pairs_cut_along_their_length_move_the_parameters_alike(kind):
  """Over fsdp and sequence, where a pair's last tokens may be on another device than its first."""

  def step(devices, **sizes):
    chosen = pairs_run.settings(preference__kind=kind, preference__optimizer__warmup_steps=0, **sizes)
    run = build.build(chosen, devices=jax.devices()[:devices])
    with jax.set_mesh(run.mesh):
      state = run.programs.start_rl(run.initial_params())
      batch = Pairs(run).batch(0)
      if kind == "dpo":
        batch = compile_programs(run).reference(run.initial_params(), batch)
      state, stats = run.programs.update(state, batch, 1.0)
      return jax.device_get((state.params, stats))

  (one, stats), (cut, others) = step(1), step(4, mesh__data=1, mesh__fsdp=2, mesh__sequence=2)
  assert others["loss"] == pytest.approx(stats["loss"], rel=1e-6)
  assert others["grad_norm"] == pytest.approx(stats["grad_norm"], rel=1e-5)
  for whole, part in zip(jax.tree.leaves(one), jax.tree.leaves(cut), strict=True):
    np.testing.assert_allclose(part, whole, atol=2e-4)  # of a first step of AdamW of at most 1e-3
