"""A whole run of two processes of four devices, ended and taken up again: it tells what one process of eight devices tells.

As a program: own number, port, working directory, steps, and the step in which process 1 is asked to end, or 0.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

HERE = Path(__file__).resolve()
pytestmark = pytest.mark.system


def trained(workdir: str, steps: int, watch=None) -> None:
  import tiny_run

  from jaxreason import train
  from jaxreason.build import build
  from jaxreason.report.display import display

  chosen = tiny_run.settings(
    mesh__data=4, mesh__fsdp=2, sft__steps=4, sft__row_tokens=0, train__row_tokens=0, rollout__prompts=8, train__steps=steps,
    train__save_every=1, train__keep=1, evaluation__every=0, evaluation__problems=8,
  )  # fmt: skip
  with display({"sft": chosen.sft.steps, "train": chosen.train.steps}) as show:
    train.train(build(chosen), workdir, show=show, watch=watch)


def two_processes(workdir, steps, ends=0):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  paths = os.pathsep.join(map(str, (HERE.parents[2], HERE.parents[1])))
  both = [
    subprocess.Popen(
      [sys.executable, str(HERE), str(number), str(port), str(workdir), str(steps), str(ends)],
      env=os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": paths},
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    for number in range(2)
  ]  # fmt: skip
  try:
    said = [process.communicate(timeout=300)[0] for process in both]
  finally:
    for process in both:
      process.kill()
  assert [process.returncode for process in both] == ([75, 75] if ends else [0, 0]), "\n".join(said)
  return said


def test_a_run_of_two_processes_that_goes_on_is_the_run_of_one(tmp_path):
  from jaxreason import metrics

  two_processes(tmp_path / "two", 3, ends=5)  # the scheduler asks one of them
  assert all("going on from step 6" in told for told in two_processes(tmp_path / "two", 3))
  trained(str(tmp_path / "one"), 3)
  rows = [
    [row for row in metrics.deterministic(metrics.read(tmp_path / name)) if row["phase"] in ("sft", "train")]
    for name in ("two", "one")
  ]
  assert [(row["step"], row["phase"]) for row in rows[0]] == [(step, "sft" if step < 4 else "train") for step in range(7)]
  for got, expected in zip(*rows, strict=True):
    for name in {"loss", "entropy", "reward", "tokens", "completions/mean_length"} & expected.keys():
      np.testing.assert_allclose(got[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=f"{name} of step {got['step']}")


if __name__ == "__main__":
  from jaxreason.errors import Preempted

  number, port, workdir, steps, ends = sys.argv[1:]
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(number), initialization_timeout=60)

  def asked(step, phase, *_):
    if int(ends) and step == int(ends) and number == "1":
      os.kill(os.getpid(), signal.SIGTERM)

  try:
    trained(workdir, int(steps), asked)
  except Preempted:
    sys.exit(75)
