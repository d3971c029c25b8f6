"""Laws of the launchers: their shell is clean, and gcloud, a recorder here, is given the command lines that they say."""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

import pytest

LAUNCHERS = Path(__file__).resolve().parents[1] / "launchers"
RECORDER = """#!/bin/sh
printf '%s\\n' "$*" >> "$RECORD"
[ -s "$STATUSES" ] || exit 0
status=$(head -n 1 "$STATUSES"); sed -i 1d "$STATUSES"; exit "$status"
"""
SSH = "compute tpus queued-resources ssh mine --zone=us-west4-a --node=all --worker=all --command="


@pytest.fixture
def called(tmp_path):
  """Runs tpu_vm.sh; gives its status, gcloud's command lines, and what it told."""
  recorder = tmp_path / "bin" / "gcloud"
  recorder.parent.mkdir()
  recorder.write_text(RECORDER)
  recorder.chmod(0o755)

  def call(*arguments, statuses=(), **variables):
    (tmp_path / "statuses").write_text("".join(f"{one}\n" for one in statuses))
    record = tmp_path / "record"
    record.write_text("")
    environment = {"PATH": f"{recorder.parent}:{os.environ['PATH']}", "RECORD": record, "STATUSES": tmp_path / "statuses"}
    done = subprocess.run(
      [LAUNCHERS / "tpu_vm.sh", *arguments], env=environment | variables, capture_output=True, text=True, timeout=60
    )
    return done.returncode, record.read_text().splitlines(), done.stderr

  return call


def test_shellcheck_finds_nothing():
  found = [path for path in LAUNCHERS.iterdir() if path.suffix in (".sh", ".sbatch")]
  assert len(found) == 3
  checked = subprocess.run([Path(sysconfig.get_path("scripts")) / "shellcheck", *found], capture_output=True, text=True)
  assert checked.returncode == 0, checked.stdout


def test_slices_are_asked_for_and_given_back(called):
  asked = "compute tpus queued-resources create mine --zone=us-west4-a --accelerator-type=v5litepod-16 --runtime-version="
  one = called("create", "mine", "us-west4-a", "v5litepod-16")
  assert one == (0, [asked + "v2-alpha-tpuv5-lite --node-id=mine"], "")
  two = called("create", "mine", "us-west4-a", "v5litepod-16", "2", SPOT="1", RUNTIME="v2-alpha-tpuv6e")
  assert two == (0, [asked + "v2-alpha-tpuv6e --node-prefix=mine --node-count=2 --spot"], "")
  assert called("delete", "mine", "us-west4-a")[1] == [
    "compute tpus queued-resources delete mine --zone=us-west4-a --force --quiet"
  ]
  assert called("stop", "mine", "us-west4-a")[1] == [SSH + "pkill -TERM -f '[j]axreason train'"]


def test_every_host_installs_and_trains_with_the_arguments_as_they_were(called):
  _, lines, _ = called("install", "mine", "us-west4-a", JAXREASON="git+https://example.org/fork")
  assert lines == [
    SSH + "python3 -m venv jaxreason && jaxreason/bin/pip install -q 'jax[tpu]' 'git+https://example.org/fork'"
  ]
  given = ["--config=a", "--config.name=it's a \"name\" $HOME"]
  status, (line,), _ = called("train", "mine", "us-west4-a", *given)
  assert status == 0
  assert shlex.split(line.removeprefix(SSH)) == ["jaxreason/bin/jaxreason", "train", *given]


def test_what_was_saved_or_hung_is_started_again_and_what_failed_is_not(called):
  status, lines, told = called("train", "mine", "us-west4-a", "--config=a", statuses=(75, 70))
  assert (status, len(lines)) == (0, 3)
  assert [line.split("ended with ")[1][:2] for line in told.splitlines()] == ["75", "70"]
  for failed in (1, 2):
    status, lines, _ = called("train", "mine", "us-west4-a", "--config=a", statuses=(failed,))
    assert (status, len(lines)) == (failed, 1)
  status, lines, _ = called("train", "mine", "us-west4-a", "--config=a", statuses=(75, 75, 75), RESTARTS="1")
  assert (status, len(lines)) == (75, 2)


@pytest.mark.parametrize("arguments", [(), ("train", "mine"), ("create", "mine", "us-west4-a"), ("fly", "mine", "us-west4-a")])
def test_a_line_that_is_not_understood_shows_how_it_goes(called, arguments):
  status, lines, told = called(*arguments)
  assert (status, lines) == (2, []) and len(told.splitlines()) >= 5
