"""Floor 4, report: the picture of a run that has learned, or has not.

What enters: the rows of `metrics.jsonl` (their `train` steps and evaluations). What leaves: a PNG of 1200 x 700 pixels. Above,
what training was rewarded with and how many held-out problems are solved; below, how long and how varied the responses are.
The plotting library is loaded on the first call.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxreason.errors import UserError

_REWARD, _LENGTH, _ENTROPY, _WORKED = "#4269d0", "#7a4a9e", "#2f9e8f", "#9a9a9a"
_HELD_OUT = ("#e4572e", "#d98e04", "#3ca951", "#a463f2")
_MARKERS = ("o", "s", "^", "D")
_APART = 0.055  # height of a written number, as a share of the axis


def reward_curve(
  rows: Sequence[Mapping[str, Any]],
  path: str | os.PathLike,
  *,
  evaluations: Mapping[str, Sequence[tuple[int, float]]] | None = None,
  title: str = "Reward and held-out pass@1",
) -> Path:
  """Draws a run.

  Args:
    rows: of `metrics.read`. Those of phase "train" give `reward`, `worked_share`, `completions/mean_length` and `entropy`,
      where they are there.
    path: of the PNG.
    evaluations: label to (step, share of problems solved), in global steps as in the rows; four series at most, and none of
      the supervised steps is drawn. Where None, `pass@1` of phase "eval" is taken as "validation pass@1" and `greedy/pass@1`
      of the phases "test_before" and "test_after" as "held-out pass@1, greedy".
    title: of the picture.

  Returns:
    The path.

  Raises:
    UserError: there is no training step to draw, or the file cannot be written.
  """
  train = [row for row in rows if row["phase"] == "train"]
  if not train:
    raise UserError("expected rows of phase 'train' to draw, got none; train first, or read the metrics of another --workdir")
  first = train[0]["step"]
  if evaluations is None:
    evaluations = _evaluations(rows)
  figure = _draw(
    train, first, {k: [(s - first, v) for s, v in points if s >= first] for k, points in evaluations.items()}, title
  )
  try:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})
  except OSError as error:
    raise UserError(
      f"expected a place to write the curve, got {path} ({error.strerror or error}); give another path"
    ) from error
  return Path(path)


def _draw(train: Sequence[Mapping[str, Any]], first: int, evaluations: Mapping[str, list[tuple[int, float]]], title: str):
  from matplotlib.figure import Figure  # heavy, and a run without a curve does without it
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
  top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
  figure.suptitle(title, fontsize=16, fontweight="bold")

  steps, reward = _series(train, "reward", first)
  top.plot(steps, reward, color=_REWARD, alpha=0.3, linewidth=1)
  _line(top, steps, smooth(reward), color=_REWARD, linewidth=2.5, label="training reward")
  steps, worked = _series(train, "worked_share", first)
  if steps:
    _line(top, steps, smooth(worked), color=_WORKED, linestyle="--", label="worked answers")
  drawn = {label: points for label, points in evaluations.items() if points}
  for (label, points), color, marker in zip(drawn.items(), _HELD_OUT, _MARKERS, strict=False):
    style = {"color": color, "marker": marker, "markersize": 9, "markeredgecolor": "white", "linewidth": 1.5, "zorder": 5}
    style["linestyle"] = ":" if len(points) == 2 else "-"  # before and after: nothing was measured on the way
    top.plot(*zip(*points, strict=True), label=label, **style)
  _write_ends(top, list(drawn.values()))
  top.set_ylabel("reward, shares", fontsize=13)
  top.set_ylim(-0.03, 1.05)
  top.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
  top.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, fontsize=10.5, frameon=False, columnspacing=1.0)

  _lower(bottom, train, first)
  last = max([row["step"] - first for row in train] + [step for points in drawn.values() for step, _ in points])
  bottom.set_xlim(-0.07 * max(last, 1), 1.07 * max(last, 1))
  bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
  for axis in (top, bottom):
    axis.grid(alpha=0.25)
    axis.spines[["top"]].set_visible(False)
    axis.tick_params(labelsize=11)
  top.spines[["right"]].set_visible(False)
  return figure


def _lower(axis, train: Sequence[Mapping[str, Any]], first: int) -> None:
  steps, length = _series(train, "completions/mean_length", first)
  _line(axis, steps, smooth(length), color=_LENGTH)
  axis.set_ylabel("completion length\n(tokens)", fontsize=13, color=_LENGTH)
  axis.set_ylim(bottom=0)
  axis.set_xlabel("training step", fontsize=13)
  steps, entropy = _series(train, "entropy", first)
  if steps:
    right = axis.twinx()
    _line(right, steps, smooth(entropy), color=_ENTROPY, linestyle="-.")
    right.set_ylabel("entropy\n(nats per token)", fontsize=13, color=_ENTROPY)
    right.set_ylim(bottom=0)
    right.tick_params(labelsize=11)
    right.spines[["top"]].set_visible(False)


def _line(axis, steps: Sequence[int], values: Sequence[float], **style) -> None:
  axis.plot(steps, values, marker="." if len(steps) < 3 else None, **{"linewidth": 2} | style)


def _write_ends(axis, series: Sequence[Sequence[tuple[int, float]]]) -> None:
  """Writes the values before and after beside their points, pushed apart where two would cover each other."""
  steps = [step for points in series for step, _ in points]
  for end, outermost, side, shift in ((0, min(steps, default=0), "right", -9), (-1, max(steps, default=0), "left", 9)):
    ends = [(*points[end], color) for points, color in zip(series, _HELD_OUT, strict=False)]
    ends = sorted((value, step, color) for step, value, color in ends if step == outermost)
    height = -1.0
    for value, step, color in ends:
      height = max(value, height + _APART)
      style = {"color": color, "fontsize": 12, "fontweight": "bold", "ha": side, "va": "center"}
      axis.annotate(f"{value:.0%}", (step, height), xytext=(shift, 0), textcoords="offset points", **style)


def smooth(values: Sequence[float]) -> list[float]:
  """Mean over a window of about a tenth of the series around each point, narrower at the ends; points that are NaN drop out."""
  half = max(1, len(values) // 20)
  means = []
  for n in range(len(values)):
    reach = min(half, n, len(values) - 1 - n)
    window = [v for v in values[n - reach : n + reach + 1] if not math.isnan(v)]
    means.append(sum(window) / len(window) if window else math.nan)
  return means


def _series(train: Sequence[Mapping[str, Any]], name: str, first: int) -> tuple[list[int], list[float]]:
  """Steps counted from the first, and one number of each; NaN where it was not finite."""
  found = [(row["step"] - first, math.nan if row[name] is None else row[name]) for row in train if name in row]
  return [step for step, _ in found], [value for _, value in found]


def _evaluations(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
  found: dict[str, list[tuple[int, float]]] = {}
  for row in rows:
    split = {"eval": "validation", "test": "held-out"}.get(row["phase"].partition("_")[0])
    for name, value in row.items():
      manner, _, number = name.rpartition("/")
      if split and number == "pass@1" and value is not None:
        found.setdefault(f"{split} pass@1" + (f", {manner}" if manner else ""), []).append((row["step"], value))
  return dict(sorted(found.items()))  # held-out before validation
