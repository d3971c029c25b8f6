"""A whole run of two processes of four devices, ended and taken up again: it tells what one process of eight devices tells.

As a program: own number, port, working directory, steps, the step in which process 1 gets a signal, or 0, and the signal.
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


def two_processes(workdir, steps, ends=0, sent=signal.SIGTERM):
  """What each said; both end by themselves, whatever process 1 is sent."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  paths = os.pathsep.join(map(str, (HERE.parents[2], HERE.parents[1])))
  both = [
    subprocess.Popen(
      [sys.executable, str(HERE), str(number), str(port), str(workdir), str(steps), str(ends), str(int(sent))],
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
  statuses = [process.returncode for process in both]
  if ends and sent == signal.SIGKILL:
    assert statuses[1] == -sent and statuses[0] not in (0, 75), "\n".join(said)
  else:
    assert statuses == ([75, 75] if ends else [0, 0]), "\n".join(said)
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


def test_when_one_of_two_processes_is_killed_the_other_ends_too_and_both_go_on_from_the_last_checkpoint(tmp_path):
  from jaxreason import metrics

  two_processes(tmp_path / "killed", 3, ends=5, sent=signal.SIGKILL)
  assert all("going on from step" in told for told in two_processes(tmp_path / "killed", 3))
  two_processes(tmp_path / "whole", 3)
  got, expected = (metrics.deterministic(metrics.read(tmp_path / name)) for name in ("killed", "whole"))
  assert got == expected


if __name__ == "__main__":
  from jaxreason.errors import Preempted

  number, port, workdir, steps, ends, sent = sys.argv[1:]
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(number), initialization_timeout=60)

  def asked(step, phase, *_):
    if int(ends) and step == int(ends) and number == "1":
      os.kill(os.getpid(), int(sent))

  try:
    trained(workdir, int(steps), asked)
  except Preempted:
    sys.exit(75)
