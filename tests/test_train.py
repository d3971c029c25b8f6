"""Laws of a run: it learns, and it tells what it did."""

import jax
import numpy as np
import pytest
import tiny
import tiny_run

from jaxreason import metrics
from jaxreason.checkpoint import Checkpoints
from jaxreason.report.display import display
from jaxreason.train import Demonstrations, due, train


def trained(run, workdir):
  with display({}, quiet=True) as show:
    return train(run, workdir, show=show)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
  """(rows of metrics, results, working directory) of a run over 40 supervised and 100 policy steps."""
  workdir = tmp_path_factory.mktemp("learned")
  results = trained(tiny_run.learner(), workdir)
  return metrics.read(workdir), results, workdir


def numbers(rows, phase, name):
  return np.array([row[name] for row in rows if row["phase"] == phase])


def test_supervised_steps_lower_the_loss_and_rewards_rise_after_them(learned):
  rows = learned[0]
  loss, reward = numbers(rows, "sft", "loss"), numbers(rows, "train", "reward")
  assert loss[-5:].mean() < loss[:5].mean() / 2
  assert reward[-20:].mean() > reward[:10].mean() + 0.1


@pytest.mark.system
def test_stale_samples_teach_as_much_under_the_decoupled_objective(learned, tmp_path):
  endless = dict(rollout__max_staleness=1, rollout__chunk=4, evaluation__every=0)
  trained(tiny_run.learner(objective="decoupled_ppo", **endless), tmp_path)
  reward, synchronous = (numbers(rows, "train", "reward") for rows in (metrics.read(tmp_path), learned[0]))
  assert numbers(metrics.read(tmp_path), "train", "staleness/mean").mean() > 0.1
  assert reward[-20:].mean() > reward[:10].mean() + 0.1
  assert reward[-20:].mean() > synchronous[-20:].mean() - 0.1


def test_the_sampler_and_the_update_agree_on_every_logprob(learned):
  rows = learned[0]
  assert numbers(rows, "train", "sampling/sampling_logp_difference/max").max() < 1e-4
  assert not numbers(rows, "train", "clip_ratio/low_mean").any()
  assert not numbers(rows, "train", "skipped").any()


def test_the_results_are_those_of_the_metrics(learned):
  rows, results, workdir = learned
  for when in ("before", "after"):
    (row,) = (row for row in rows if row["phase"] == f"test_{when}")
    for manner in ("greedy", "sampled"):
      assert row[f"{manner}/pass@1"] == results[when][manner]["pass@1"]
      assert np.mean(results[when]["right"][manner]) == pytest.approx(results[when][manner]["pass@1"])
  for manner in ("greedy", "sampled"):
    gain = results["after"][manner]["pass@1"] - results["before"][manner]["pass@1"]
    assert results["gain"][manner]["gain"] == pytest.approx(gain)
  with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
    assert checkpoints.latest_step() == 140
    assert checkpoints.read_host()["best"]["pass@1"] == max(numbers(rows, "eval", "pass@1"))


def test_a_run_may_have_one_stage_alone(tmp_path):
  run = tiny_run.learner()
  results = trained(tiny_run.changed(run, sft=dict(steps=0), train=dict(steps=1)), tmp_path / "rl")
  assert results.keys() == {"before", "after", "gain"}
  results = trained(tiny_run.changed(run, sft=dict(steps=2), train=dict(steps=0)), tmp_path / "sft")
  assert results.keys() == {"after"}
  assert [row["phase"] for row in metrics.read(tmp_path / "sft")] == ["sft", "sft", "test_after"]


def test_the_same_run_twice_gives_the_same_numbers_and_compiles_nothing_more(tmp_path):
  short = tiny_run.changed(tiny_run.learner(), sft=dict(steps=3), train=dict(steps=2))
  one = trained(short, tmp_path / "one")
  with tiny.compilations() as compiled:
    other = trained(short, tmp_path / "other")
  assert compiled == []
  assert one == other
  assert metrics.deterministic(metrics.read(tmp_path / "one")) == metrics.deterministic(metrics.read(tmp_path / "other"))


@pytest.mark.parametrize("max_staleness", [0, pytest.param(1, marks=pytest.mark.system)])
def test_a_run_with_validation_trains_bit_for_bit_as_one_without(tmp_path, max_staleness):
  """The same samples, numbers and parameters after each update, also where samples live on across the validation."""
  chosen = dict(rollout__max_staleness=1, rollout__chunk=4, objective="decoupled_ppo") if max_staleness else {}
  run, told = tiny_run.learner(**chosen), []
  for every in (0, 1):
    short = tiny_run.changed(run, sft=dict(steps=2), train=dict(steps=3), evaluation=dict(every=every))
    seen = watched(short, tmp_path / str(every))
    rows = metrics.deterministic(metrics.read(tmp_path / str(every)))
    assert (numbers(rows, "train", "staleness/mean").max() > 0) == bool(max_staleness)
    told.append((seen, [row for row in rows if row["phase"] != "eval"]))
    assert sum(row["phase"] == "eval" for row in rows) == 3 * every
  jax.tree.map(np.testing.assert_array_equal, told[0][0], told[1][0])
  assert told[0][1] == told[1][1]


def watched(run, workdir):
  """Parameters and tokens of each update."""
  seen = []
  watch = lambda step, phase, state, batch, stats: seen.append(jax.device_get((state.params, batch.tokens)))
  with display({}, quiet=True) as show:
    train(run, workdir, show=show, watch=watch)
  return seen


@pytest.mark.system
def test_a_run_over_four_devices_in_packed_rows_tells_the_same_story(tmp_path):
  """Supervised and policy steps, tests and validation: the same words, and numbers that differ by rounding."""
  rows = []
  for name, run in (("one", tiny_run.learner()), ("four", tiny_run.learner(data=2, fsdp=2, row_tokens=72))):
    trained(tiny_run.changed(run, sft=dict(steps=8), train=dict(steps=2)), tmp_path / name)
    rows.append(metrics.deterministic(metrics.read(tmp_path / name)))
  assert [row["phase"] for row in rows[0]] == ["sft"] * 8 + ["test_before", "train", "train", "eval", "test_after"]
  for one, four in zip(*rows, strict=True):
    assert one.pop("phase") == four.pop("phase")
    assert one == pytest.approx(four, rel=1e-3, abs=1e-5)


def test_a_watch_sees_every_update_as_it_was(tmp_path):
  seen = []

  def watch(step, phase, state, batch, stats):
    seen.append((step, phase, int(state.step), batch.tokens.shape[0], bool(np.isfinite(stats["loss"]))))

  short = tiny_run.changed(tiny_run.learner(), sft=dict(steps=2), train=dict(steps=2))
  with display({}, quiet=True) as show:
    train(short, tmp_path, show=show, watch=watch)
  assert seen == [(0, "sft", 1, 32, True), (1, "sft", 2, 32, True), (2, "train", 1, 64, True), (3, "train", 2, 64, True)]


def test_a_supervised_batch_is_a_function_of_its_step():
  supervised = Demonstrations(tiny_run.learner())
  jax.tree.map(np.testing.assert_array_equal, supervised.batch(3), Demonstrations(tiny_run.learner()).batch(3))
  assert (supervised.batch(3).tokens != supervised.batch(4).tokens).any()
  batch = supervised.batch(0)
  stop = batch.tokens[np.arange(len(batch.lengths)), batch.lengths - 1]
  assert (stop == tiny_run.learner().tokenizer.stop_ids[0]).all()
  np.testing.assert_array_equal(batch.mask.sum(1), batch.lengths - batch.prompt_lengths)


def test_what_is_due():
  assert [step for step in range(-3, 10) if due(3, step)] == [3, 6, 9]
  assert not any(due(0, step) for step in range(10))
