"""The curve: a picture of the right size that holds what the rows say, whatever is missing from them."""

import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from jaxreason.errors import UserError
from jaxreason.report import curve
from jaxreason.report.curve import reward_curve, smooth


def rows_of_a_run(steps=40, first=20):
  rows = [{"step": n, "phase": "sft", "loss": 1.0} for n in range(first)]
  for n in range(steps):
    if n % 20 == 0:
      rows.append({"step": first + n, "phase": "eval", "pass@1": 0.1 + n / 60, "problems": 200})
    share = n / steps
    rows.append(
      {
        "step": first + n,
        "phase": "train",
        "reward": share,
        "worked_share": share,
        "completions/mean_length": 10 + n,
        "entropy": 1 - share,
      }
    )
  tests = {"test_before": (first, 0.1, 0.05), "test_after": (first + steps - 1, 0.6, 0.5)}
  return rows + [
    {"step": step, "phase": phase, "greedy/pass@1": greedy, "sampled/pass@1": sampled, "greedy/pass@1_interval": 0.03}
    for phase, (step, greedy, sampled) in tests.items()
  ]


def size_of(path):
  data = path.read_bytes()
  assert data[:8] == b"\x89PNG\r\n\x1a\n"
  return struct.unpack(">II", data[16:24])


def draw(rows, evaluations):
  train = [row for row in rows if row["phase"] == "train"]
  return curve._draw(train, train[0]["step"], evaluations, "title")


def test_draws_a_png_of_the_right_size_and_the_same_each_time(tmp_path):
  first = reward_curve(rows_of_a_run(), tmp_path / "made" / "curve.png")
  assert size_of(first) == (1200, 700)
  assert reward_curve(rows_of_a_run(), tmp_path / "again.png").read_bytes() == first.read_bytes()


def test_lines_hold_the_rows():
  rows = rows_of_a_run()
  top, bottom, right = draw(rows, {"greedy": [(0, 0.1), (40, 0.7)]}).axes
  lines = {line.get_label(): line for line in top.get_lines()}
  assert list(lines["greedy"].get_xdata()) == [0, 40]
  assert list(top.get_lines()[0].get_ydata()) == [row["reward"] for row in rows if row["phase"] == "train"]
  assert list(lines["training reward"].get_xdata()) == list(range(40))
  assert [text.get_text() for text in top.texts] == ["10%", "70%"]
  assert all(axis.get_ylabel() for axis in (top, bottom, right)) and bottom.get_xlabel() == "training step"


def test_evaluations_are_found_in_the_rows():
  assert curve._evaluations(rows_of_a_run()) == {
    "held-out pass@1, greedy": [(20, 0.1), (59, 0.6)],
    "held-out pass@1, sampled": [(20, 0.05), (59, 0.5)],
    "validation pass@1": [(20, 0.1), (40, pytest.approx(0.1 + 20 / 60))],
  }


def test_what_is_missing_is_left_out(tmp_path):
  bare = [{"step": 5, "phase": "train", "reward": 0.5}]
  assert size_of(reward_curve(bare, tmp_path / "bare.png")) == (1200, 700)
  gaps = rows_of_a_run()
  gaps[25]["reward"] = gaps[26]["entropy"] = None
  assert size_of(reward_curve(gaps, tmp_path / "gaps.png", evaluations={"nothing": []})) == (1200, 700)
  with pytest.raises(UserError, match="expected rows of phase 'train' to draw, got none"):
    reward_curve([{"step": 0, "phase": "sft"}], tmp_path / "none.png")
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="expected a place to write the curve"):
    reward_curve(bare, tmp_path / "file" / "curve.png")


def test_written_numbers_never_cover_each_other():
  (axis, *_) = draw(rows_of_a_run(), {"a": [(0, 0.10), (40, 0.5)], "b": [(0, 0.11), (40, 0.9)], "c": [(5, 0.1), (9, 0.2)]}).axes
  assert sorted(text.get_text() for text in axis.texts) == ["10%", "11%", "50%", "90%"]
  low, high = sorted(text.xy[1] for text in axis.texts[:2])
  assert high - low >= 0.05


def test_smoothing_keeps_lines_and_bridges_gaps():
  line = [0.1 * n for n in range(50)]
  assert smooth(line) == pytest.approx(line)
  assert smooth([1.0, math.nan, 3.0]) == pytest.approx([1.0, 2.0, 3.0])
  assert smooth([]) == []


def test_importing_it_loads_no_plotting_library():
  program = "import sys, jaxreason.report.curve; assert 'matplotlib' not in sys.modules and 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
