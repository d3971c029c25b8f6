"""One run from its config to an exported model, and everything the command says and writes on the way."""

import io
import json
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
from command_process import start

from jaxreason import metrics
from jaxreason.checkpoint import Checkpoints, manifest
from jaxreason.cli.main import main
from jaxreason.model import hf


def test_a_run_says_what_runs_and_what_was_gained(trained):
  workdir, out = trained
  for words in (
    r"^devices: 1 x cpu; mesh: one device$",
    r"^model: 6,144 parameters, 3 layers of 16, vocabulary 17, computing in float32$",
    r"^data: running_sums, problems: 60 train, 8 validation, 8 test$",
    r"^supervised: 2 steps of 8 demonstrations$",
    r"^reinforcement: 2 steps of 4 prompts x 2 samples$",
    r"^objective: .*clipped, group_relative, token_mean",
    r"^sft 2/2  loss ",
    r"^train 2/2  .*reward .*pass rate .*tokens/s ",
    r"^completions before reinforcement learning",
    r"^completions after reinforcement learning",
    r"^8 held-out test problems",
    r"^ +before +after +gain$",
    r"^  pass@1, greedy .* ± .* ± .* ± ",
    r"^  pass@1, sampled at temperature 1 ",
    r"^On 8 held-out problems, 2 steps of reinforcement learning: greedy pass@1 ",
    rf"^reward curve: {re.escape(str(workdir))}/reward_curve.png$",
  ):
    assert re.search(words, out, re.MULTILINE), (words, out)
  assert "no accelerator" not in out, "the CPU was asked for"


def test_a_run_writes_results_metrics_and_the_curve(trained):
  workdir, _ = trained
  results = json.loads((workdir / "results.json").read_text())
  assert results.keys() == {"before", "after", "gain", "settings", "devices", "versions"}
  assert len(results["after"]["right"]["sampled"]) == 8
  assert (workdir / "reward_curve.png").read_bytes().startswith(b"\x89PNG")
  phases = [row["phase"] for row in metrics.read(workdir)]
  assert phases == ["sft", "sft", "test_before", "train", "train", "test_after"]


def test_a_finished_run_is_taken_up_without_its_config_and_told_again(trained, capsys):
  workdir, _ = trained
  before = (workdir / "metrics.jsonl").read_bytes()
  assert main(["train", f"--workdir={workdir}", "-q"]) == 0
  told = capsys.readouterr().out
  assert "held-out test problems" in told and "sft" not in told, "-q shows results and no progress"
  assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_run_is_not_taken_up_with_other_settings(trained, config_file, capsys):
  workdir, _ = trained
  assert main(["train", f"--config={config_file}", f"--workdir={workdir}", "--config.seed=5"]) == 2
  assert re.fullmatch(r"jaxreason: config.seed expected 0, .* got 5; go on with .*\n", capsys.readouterr().err)


def test_eval_prints_exactly_one_json_object(trained, capsys):
  workdir, _ = trained
  argv = ["eval", f"--workdir={workdir}", "--split=validation", "--temperature=1", "--samples=3", "--limit=5", "--json"]
  assert main(argv) == 0
  told = capsys.readouterr().out
  assert told.count("\n") == 1
  numbers = json.loads(told)
  assert (numbers["split"], numbers["problems"], numbers["samples"], numbers["step"]) == ("validation", 5, 3, 4)
  assert 0 <= numbers["pass@1"] <= 1


def test_eval_agrees_with_the_run(trained, capsys):
  workdir, _ = trained
  assert main(["eval", f"--workdir={workdir}", "--json"]) == 0
  numbers = json.loads(capsys.readouterr().out)
  after = json.loads((workdir / "results.json").read_text())["after"]["greedy"]
  assert {name: numbers[name] for name in after} == after


def test_settings_of_rollouts_are_those_of_eval_and_generate(trained, capsys):
  workdir, _ = trained
  shape = ["--config.rollout.min_new_tokens=4", "--config.rollout.stop_strings=7", "--config.rollout.slots=3"]
  asked = ["--temperature=1", *shape, "--config.rewards.require_finished=False"]
  assert main(["eval", f"--workdir={workdir}", "--samples=4", "--json", *asked]) == 0
  numbers = json.loads(capsys.readouterr().out)
  assert numbers["completions/mean_length"] > 2 and numbers["problems"] == 8
  for seed in range(4):
    assert main(["generate", f"--workdir={workdir}", "--prompt=1+2=", "--temperature=1", f"--seed={seed}", *shape]) == 0
    text = capsys.readouterr().out.rstrip("\n")
    assert "7" not in text[:-1] and (len(text) >= 4 or text.endswith("7"))


def test_an_exported_run_generates_what_the_run_does(trained, tmp_path, capsys):
  workdir, _ = trained
  assert main(["export", f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "-q"]) == 0
  with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
    assert checkpoints.latest_step() == 4
  params, config = hf.load(tmp_path / "out")
  assert config.layers == 3 and np.isfinite(params.embedding).all()

  def generated(*source):
    assert main(["generate", *source, "--prompt=1+2=", "--max-new-tokens=8", "--temperature=1", "--seed=3"]) == 0
    return capsys.readouterr().out

  first = generated(f"--workdir={workdir}")
  assert re.fullmatch(r"[0-9+\-=#]*\n", first)
  assert generated(f"--model={tmp_path / 'out'}") == first
  assert main(["export", f"--workdir={workdir}", f"--output={tmp_path / 'out'}"]) == 2
  assert "expected a new or empty directory" in capsys.readouterr().err


def test_generate_reads_standard_input_and_refuses_what_the_tokenizer_does_not_know(trained, monkeypatch, capsys):
  workdir, _ = trained
  monkeypatch.setattr("sys.stdin", io.StringIO(""))
  assert main(["generate", f"--workdir={workdir}"]) == 2
  assert main(["generate", f"--workdir={workdir}", "--prompt=seven"]) == 2
  assert main(["generate", f"--workdir={workdir}", "--prompt=1+2=", "--max-new-tokens=5000"]) == 2
  first, second, third = capsys.readouterr().err.splitlines()
  assert first.startswith("jaxreason: --prompt expected some text, got none")
  assert second.startswith("jaxreason: character 's' is outside the alphabet")
  assert third.startswith("jaxreason: --prompt of 5 tokens and a budget of 5000 expected to fit")


def test_other_held_out_rows_of_a_file_are_refused(trained, tmp_path, capsys):
  workdir, _ = trained
  copy = tmp_path / "copy"
  shutil.copytree(workdir / "checkpoints", copy / "checkpoints")
  path = copy / "checkpoints/4/host/metadata"
  document = json.loads(path.read_text())
  document["host"]["config"]["data"]["task"] = "files"
  document["host"]["config"]["data"]["files"]["evaluation"] = "test.jsonl"
  path.write_text(json.dumps(document))
  manifest.write(copy / "checkpoints/4", {})
  for flags, told in (
    (["--config.evaluation.problems=30", "--split=validation"], "config.evaluation.problems expected 8, got 30"),
    (["--config.data.files.evaluation="], "config.data.files.evaluation expected 'test.jsonl', got ''"),
  ):
    assert main(["eval", f"--workdir={copy}", *flags]) == 2
    assert f"{told}, which holds out other rows" in capsys.readouterr().err


def test_a_run_that_a_scheduler_ends_is_saved_and_goes_on(config_file, trained, tmp_path):
  """SIGTERM after the first supervised step; started again, it ends as the undisturbed one."""
  flags = [f"--config={config_file}", f"--workdir={tmp_path}"]
  process = start("train", *flags)
  for line in process.stdout:
    if line.startswith("working directory"):
      break
  for line in process.stdout:
    if line.startswith("sft 1/2"):
      process.terminate()
      break
  _, err = process.communicate(timeout=120)
  assert process.returncode == 75
  assert err.splitlines()[-1].startswith("jaxreason: asked to end, saved at step")
  process = start("train", *flags)
  out, err = process.communicate(timeout=240)
  assert process.returncode == 0, err
  assert "going on from step" in out
  rows = [metrics.deterministic(metrics.read(workdir)) for workdir in (tmp_path, trained[0])]
  assert rows[0] == rows[1]


def test_a_run_interrupted_twice_ends_and_leaves_no_process(config_file, tmp_path):
  process = start("train", f"--config={config_file}", f"--workdir={tmp_path}")
  try:
    while not (line := process.stdout.readline()).startswith("working directory"):
      assert line, process.stderr.read()
    workers = []
    while not workers:  # they are started by threads
      time.sleep(0.05)
      tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
      workers = [int(pid) for children in tasks for pid in children.read_text().split()]
    process.send_signal(signal.SIGINT)
    assert any("A second signal ends at once" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == -signal.SIGINT and "Traceback" not in err
  deadline = time.monotonic() + 10
  while (left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
    time.sleep(0.05)  # they see that their parent is gone
  assert not left
  Checkpoints(tmp_path / "checkpoints").close()  # its lock is free
