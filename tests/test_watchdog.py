"""A run that hangs says where, and ends so that it can be started again."""

import os
import subprocess
import sys
import time
from pathlib import Path

from jaxreason.watchdog import Watchdog

HANGS = """
import sys, threading, time
from jaxreason.watchdog import Watchdog
def held_up_here():
  time.sleep(600)
with Watchdog(float(sys.argv[1])) as watchdog:
  watchdog.beat("an update of train step 7")
  held_up_here()
"""


def test_a_run_that_hangs_tells_all_stacks_and_ends_with_its_own_status():
  root = Path(__file__).parents[1]
  done = subprocess.run(
    [sys.executable, "-c", HANGS, "0.5"], env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=60
  )
  assert done.returncode == 70
  assert "no update ended for 0.5 s (config.train.stall_seconds); process 0 waits" in done.stderr
  assert "behind an update of train step 7" in done.stderr
  assert "held_up_here" in done.stderr and "watchdog.py" in done.stderr


def test_a_run_that_moves_on_and_one_that_may_take_forever_are_left_alone():
  with Watchdog(5.0) as watchdog:
    for number in range(20):
      time.sleep(0.01)
      watchdog.beat(f"update {number}")
  with Watchdog(0):
    time.sleep(0.01)
