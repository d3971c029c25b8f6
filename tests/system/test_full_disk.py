"""The disk is full for some steps of a run: it goes on, warns, keeps the last good checkpoint, and loses no row.

As a program: a working directory. Files cannot grow from the update of step 26 to that of step 29.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
pytestmark = pytest.mark.system
FULL, ROOM = 26, 29


def run(workdir: str) -> None:
  import tiny_run

  from jaxreason import metrics, train
  from jaxreason.build import build
  from jaxreason.checkpoint import Checkpoints
  from jaxreason.report.display import display

  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  chosen = tiny_run.settings(train__steps=8, train__save_every=1, train__keep=2, evaluation__every=0)
  built, kept, limits = build(chosen), {}, resource.getrlimit(resource.RLIMIT_FSIZE)

  def watch(step, *_):
    reader = Checkpoints(Path(workdir) / "full" / "checkpoints", read_only=True)
    while step == FULL and FULL not in reader.steps():
      time.sleep(0.01)  # the save goes on beside the run, and is to be whole before the disk is full
    if step in (FULL, ROOM):
      resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]) if step == FULL else limits)
    kept[step] = reader.steps()

  with display({"sft": chosen.sft.steps, "train": chosen.train.steps}) as show:
    undisturbed = train.train(built, Path(workdir) / "whole", show=show)
    found = train.train(built, Path(workdir) / "full", show=show, watch=watch)
  rows = [metrics.deterministic(metrics.read(Path(workdir) / name)) for name in ("whole", "full")]
  print(json.dumps({"results": found == undisturbed, "rows": rows[0] == rows[1], "count": len(rows[0]), "kept": kept}))


def test_a_full_disk_ends_no_run_and_loses_no_row(tmp_path):
  paths = os.pathsep.join(map(str, (HERE.parents[2], HERE.parents[1])))
  done = subprocess.run(
    [sys.executable, str(HERE), str(tmp_path)], env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": paths},
    capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  told = json.loads(done.stdout.splitlines()[-1])
  assert told["results"] and told["rows"] and told["count"] > 30
  assert told["kept"]["27"] == told["kept"]["28"] == told["kept"]["29"] == [25, 26]  # saved before the disk was full
  assert done.stdout.count("tried again at the next save") >= 3
  from jaxreason.checkpoint import Checkpoints

  assert Checkpoints(tmp_path / "full" / "checkpoints", read_only=True).steps()[-1] == 32


if __name__ == "__main__":
  run(sys.argv[1])
