"""Laws of going on: a run killed at any moment and started again ends as if it had never stopped, bit for bit."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from jaxreason import build, metrics, phases, progress, settings
from jaxreason.checkpoint import Checkpoints
from jaxreason.errors import UserError
from jaxreason.model import weights
from jaxreason.report.display import display
from jaxreason.train import train


def start(workdir, cache, *kind) -> subprocess.Popen:
  """The run as a process of its own. Compiled programs are kept from one process to the next, as they are the same."""
  environment = os.environ | {
    "JAX_NUM_CPU_DEVICES": "1",
    "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  command = [sys.executable, tiny_run.__file__, str(workdir), *kind]
  return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def to_the_end(workdir, cache, *kind) -> dict:
  """The results of the run, from wherever it is."""
  process = start(workdir, cache, *kind)
  told, _ = process.communicate(timeout=240)
  assert process.returncode == 0, told
  return json.loads(told.splitlines()[-1])


def killed(workdir, cache, line: str | int, delay: float, *kind) -> None:
  """Starts the run and kills it some seconds after it has printed the line, or one of a step that is this or a later one."""
  process = start(workdir, cache, *kind)
  try:
    for told in process.stdout:
      phase, _, step = told.strip().partition(" ")
      later = isinstance(line, int) and phase in ("sft", "train") and step.isdigit() and int(step) >= line
      if later or told.strip() == line:
        break
    time.sleep(delay)
  finally:
    process.kill()
  process.communicate(timeout=60)
  assert process.returncode == -9, f"the run ended before it was killed after {line}"


def run_of(**changes) -> build.Run:
  return build.build(tiny_run.settings(**changes), devices=jax.devices()[:1])


def kept(workdir):
  """(step, arrays, host data) of the newest checkpoint of a finished run."""
  run = run_of()
  params = weights.abstract(run.config, mesh=run.mesh)
  like = progress.saved_tree(phases.abstract_state(run.settings, run.config, run.mesh, "train"), params)
  with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
    return checkpoints.restore(like)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
  """(working directory, results) of a run that nothing disturbed."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, to_the_end(workdir, cache)


def test_a_run_killed_at_three_random_moments_ends_like_one_that_was_not(whole, cache, tmp_path):
  """One kill among the supervised steps, one in the test before reinforcement learning or its first steps, one later on."""
  chosen, draw = tiny_run.settings(), random.Random(17)
  first = chosen.sft.steps
  moments = [
    (f"sft {draw.randrange(first // 2)}", draw.uniform(0, 0.2)),
    (f"sft {first - 1}", draw.uniform(0, 0.5)),
    (f"train {first + draw.randrange(1, chosen.train.steps // 2)}", draw.uniform(0, 0.1)),
  ]
  for line, delay in moments:
    killed(tmp_path, cache, line, delay)
  ends_like(whole, cache, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_ten_random_moments_ends_like_one_that_was_not(whole, cache, tmp_path, seed):
  """Within a step, a save or the test before reinforcement learning, as the delay falls."""
  chosen, draw = tiny_run.settings(), random.Random(seed)
  total = chosen.sft.steps + chosen.train.steps
  for step in sorted(draw.randrange(total - 3) for _ in range(10)):
    killed(tmp_path, cache, step, draw.uniform(0, 0.3))
  ends_like(whole, cache, tmp_path)


def ends_like(whole, cache, workdir) -> None:
  """The run, taken up again, ends with what the undisturbed one has: results, rows, and every bit of its last checkpoint."""
  results, chosen = to_the_end(workdir, cache), tiny_run.settings()
  assert results == whole[1]
  assert metrics.deterministic(metrics.read(workdir)) == metrics.deterministic(metrics.read(whole[0]))
  (step, arrays, host), (other_step, other_arrays, other_host) = kept(workdir), kept(whole[0])
  assert step == other_step == chosen.sft.steps + chosen.train.steps
  assert host == other_host
  jax.tree.map(np.testing.assert_array_equal, arrays, other_arrays)


def test_the_undisturbed_run_went_through_every_phase(whole):
  rows, results = metrics.read(whole[0]), whole[1]
  phases = [row["phase"] for row in rows]
  assert {name: phases.count(name) for name in dict.fromkeys(phases)} == {
    "sft": 24, "test_before": 1, "train": 6, "eval": 3, "test_after": 1,
  }  # fmt: skip
  assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
  assert sum(row["reward"] > 0 and row["grad_norm"] > 0 for row in rows if row["phase"] == "train") > 2
  assert results.keys() == {"before", "after", "gain"}
  assert all(np.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))


@pytest.mark.system
def test_an_endless_run_of_dialogues_killed_twice_trains_every_sample_once(cache, tmp_path):
  """Over the history that counts: of a step that was done again, the last time."""
  first, total = tiny_run.ENDLESS["sft__steps"], tiny_run.ENDLESS["sft__steps"] + 6
  draw = random.Random(5)
  for step in (first + 1, first + 3):
    killed(tmp_path, cache, f"train {step}", draw.uniform(0, 0.1), "endless")
  results = to_the_end(tmp_path, cache, "endless")
  assert results.keys() == {"before", "after", "gain"}
  told = {}
  for line in (tmp_path / "trained.jsonl").read_text().splitlines():
    step, names, rewards = json.loads(line)
    told[step] = [tuple(name) for name in names], rewards
  assert sorted(told) == list(range(6))
  names = [name for step in sorted(told) for name in told[step][0]]
  assert len(names) == len(set(names)) == 6 * 4 * 4
  with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
    host = checkpoints.read_host()
  state = host["collector"]
  on_way = {group["visit"] for group in state["groups"]}
  assert {visit for visit, _ in names} | on_way == set(range(state["queue"]["next_visit"]))
  rows = [row for row in metrics.read(tmp_path) if row["phase"] == "train"]
  assert [row["step"] for row in rows] == list(range(first, total))
  assert all(row["turns"] > 1 and row["unjudged"] == 0 for row in rows) and rows[-1]["staleness/mean"] > 0
  rewards = [np.mean(told[step][1]) for step in sorted(told)]
  np.testing.assert_allclose([row["reward"] for row in rows], rewards, rtol=1e-5)


@pytest.fixture
def again(whole, tmp_path):
  """A copy of the finished run's working directory."""
  return Path(shutil.copytree(whole[0], tmp_path / "again"))


def quietly(run, workdir):
  with display({}, quiet=True) as show:
    return train(run, workdir, show=show)


def files(workdir):
  """What is on disk, but for the lock and the event files that every start adds."""
  ours = [
    path for path in sorted(workdir.rglob("*")) if path.is_file() and path.name != "lock" and "tensorboard" not in path.parts
  ]
  return {str(path.relative_to(workdir)): path.read_bytes() for path in ours}


def test_a_finished_run_started_again_changes_nothing(whole, again):
  before = files(again)
  assert json.loads(json.dumps(quietly(run_of(), again))) == whole[1]
  assert files(again) == before


def test_settings_that_change_no_number_may_change(whole, again):
  assert json.loads(json.dumps(quietly(run_of(train__save_every=7, evaluation__show=0), again))) == whole[1]


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (dict(optimizer__peak_lr=2e-3), r"config.optimizer.peak_lr expected 0.001, with which this run was started, got 0.002"),
    (dict(seed=1), "config.seed expected 0, with which this run was started, got 1"),
    (dict(model__mlp=32), "config.model.mlp expected 64"),
  ],
)
def test_other_settings_are_refused_in_one_line(again, changes, told):
  before = files(again)
  with pytest.raises(UserError, match=told) as error:
    quietly(run_of(**changes), again)
  assert "\n" not in str(error.value)
  assert files(again) == before


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_other_data_are_refused_in_one_line(again, split):
  """One answer among the rows that a run learns from or is measured on."""
  run = run_of()
  rows = [*getattr(run.rows, split)[:-1], getattr(run.rows, split)[-1] | {"answer": "999"}]
  with pytest.raises(UserError, match="that this run was started with, got other rows") as error:
    quietly(run._replace(rows=run.rows._replace(**{split: rows})), again)
  assert "\n" not in str(error.value)


def ended(run, workdir):
  """(results, arrays of the last checkpoint) of a run of this process."""
  results = quietly(run, workdir)
  like = progress.saved_tree(phases.abstract_state(run.settings, run.config, run.mesh, "train"), None)
  with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
    return results, checkpoints.restore(like)[1]


def stages(sft, rl):
  return tiny_run.changed(tiny_run.learner(), sft=dict(steps=sft), train=dict(steps=rl))


@pytest.mark.parametrize(
  "first", [pytest.param((3, 2), marks=pytest.mark.system), (3, 0)], ids=["policy_steps", "supervised_steps"]
)
def test_a_finished_run_made_longer_is_the_longer_run(first, tmp_path):
  """Two more steps of reinforcement learning, or its first ones after a supervised run, with no other number changed."""
  quietly(stages(*first), tmp_path / "grown")
  results, arrays = ended(stages(3, 4), tmp_path / "grown")
  expected, others = ended(stages(3, 4), tmp_path / "whole")
  assert results == expected
  jax.tree.map(np.testing.assert_array_equal, arrays, others)


def test_a_supervised_run_goes_on_under_a_schedule_that_knows_its_length(tmp_path):
  """`sft`, then `train` with a cosine; once a policy step was made under it, its length stays."""
  cosine = dataclasses.replace(tiny_run.learner().settings.optimizer, schedule="cosine")
  run = lambda rl: tiny_run.changed(stages(3, rl), optimizer=dataclasses.asdict(cosine))
  quietly(run(0), tmp_path)
  assert quietly(run(2), tmp_path).keys() == {"before", "after", "gain"}
  with pytest.raises(UserError, match=r"config.train.steps expected 2, with which this run was started, got 3"):
    quietly(run(3), tmp_path)


@pytest.mark.system
def test_a_run_of_muon_made_longer_is_the_longer_run(tmp_path):
  """With one parameter that is slow and one that is frozen."""
  run = tiny_run.learner(optimizer__name="muon", optimizer__lr_factors='{"embedding": 0.1, "key": 0}')
  stages = lambda rl: tiny_run.changed(run, sft=dict(steps=3), train=dict(steps=rl))
  quietly(stages(1), tmp_path / "grown")
  results, arrays = ended(stages(3), tmp_path / "grown")
  expected, others = ended(stages(3), tmp_path / "whole")
  assert results == expected
  jax.tree.map(np.testing.assert_array_equal, arrays, others)


@pytest.mark.parametrize(
  ("changes", "step", "free"),
  [
    (dict(schedule="constant"), 99, True),
    (dict(schedule="wsd"), 80, True),  # the last of 100 steps before it falls
    (dict(schedule="wsd"), 81, False),
    (dict(schedule="linear", warmup_steps=5), 5, True),
    (dict(schedule="linear", warmup_steps=5), 6, False),
  ],
)
@pytest.mark.parametrize("section", ["optimizer", "critic.optimizer"])
def test_a_run_may_be_longer_while_no_rate_that_it_has_seen_would_be_another(section, changes, step, free):
  chosen = {f"{section}.{name}": value for name, value in changes.items()}
  chosen = tiny_run.settings(objective="ppo", sft__steps=0, train__steps=100, **chosen)
  host = {"config": settings.thaw(chosen), "data": "same", "step": step}
  longer = dataclasses.replace(chosen, train=dataclasses.replace(chosen.train, steps=200))
  if free:
    progress.check_same(host, longer, "same")
  else:
    with pytest.raises(UserError, match=r"config.train.steps expected 100, with which this run was started, got 200"):
      progress.check_same(host, longer, "same")


def test_a_run_goes_on_where_its_data_has_moved(tmp_path):
  host = {"config": settings.thaw(tiny_run.learner().settings), "data": "same", "step": 1}
  moved = settings.default_config()
  moved.update(host["config"])
  moved.data.files.train, moved.model.source = "elsewhere.jsonl", "~/elsewhere"
  progress.check_same(host, settings.freeze(moved), "same")
  with pytest.raises(UserError, match="expected the training data that this run was started with"):
    progress.check_same(host, settings.freeze(moved), "other")


def test_a_run_cannot_be_made_shorter_than_it_is(tmp_path):
  quietly(stages(3, 2), tmp_path)
  before = files(tmp_path)
  with pytest.raises(UserError, match=r"config.train.steps expected to end after step 5, which this run has reached, got 4"):
    quietly(stages(3, 1), tmp_path)
  assert files(tmp_path) == before


@pytest.mark.system
def test_a_run_goes_on_over_other_devices_in_other_rows_and_says_so(tmp_path, capsys):
  quietly(stages(3, 2), tmp_path / "moved")
  four = tiny_run.learner(data=2, fsdp=2, row_tokens=72)
  longer = tiny_run.changed(four, sft=dict(steps=3), train=dict(steps=4))
  with display({}) as show:
    train(longer, tmp_path / "moved", show=show)
  told = "it was made on 1 x cpu, this is 4 x cpu (data 2, fsdp 2): numbers to come differ by rounding"
  assert told in capsys.readouterr().out
  quietly(stages(3, 4), tmp_path / "whole")
  rows = [metrics.deterministic(metrics.read(tmp_path / name)) for name in ("moved", "whole")]
  trained = [[row for row in told if row["phase"] == "train"] for told in rows]
  assert len(trained[0]) == 4
  for moved, stayed in zip(*trained, strict=True):
    assert moved.pop("phase") == stayed.pop("phase")
    assert moved == pytest.approx(stayed, rel=1e-3, abs=1e-5)
