"""Floor 4: how memory and collectives grow with chips.

What enters: reports of one config on several topologies. What leaves: a picture, bytes of a chip over the number of chips.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from jaxreason.errors import UserError
from jaxreason.plan.chips import GIB

_SHOWN = ("decode", "update")


def draw(reports: Sequence[dict], path: str | os.PathLike) -> Path:
  """Memory of decoding and of an update, and the bytes that a chip receives in them, against chips; PNG or SVG by the name.

  Raises:
    UserError: fewer than two topologies with programs that compiled, or a path that cannot be written.
  """
  whole = sorted((report for report in reports if all("total" in one for one in report["programs"])), key=lambda r: r["chips"])
  if len({report["chips"] for report in whole}) < 2:
    raise UserError(f"--plot expected two or more topologies, got {len(whole)}; give --topology=v5e:2x2,v5e:2x4,...")
  from matplotlib.figure import Figure  # heavy, and most plans do without it

  figure = Figure(figsize=(11, 4.5), dpi=100, layout="constrained")
  memory, received = figure.subplots(1, 2)
  chips = [report["chips"] for report in whole]
  for name in _SHOWN:
    found = [next(one for one in report["programs"] if one["name"] == name) for report in whole]
    memory.plot(chips, [one["total"] / GIB for one in found], marker="o", label=name)
    moved = [sum(kind["inside"] + kind["between"] for kind in one["collectives"].values()) / GIB for one in found]
    received.plot(chips, moved, marker="o", label=name)
  memory.axhline(whole[0]["programs"][0]["allowed"] / GIB, color="gray", linestyle=":", label="what a chip has")
  for axis, title in ((memory, "memory of a chip (GiB)"), (received, "received by a chip in collectives (GiB)")):
    axis.set_xscale("log", base=2)
    axis.set_xticks(chips, [report["topology"] for report in whole], rotation=20)
    axis.set_ylim(bottom=0)
    axis.set_title(title)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
  figure.suptitle(f"{whole[0]['config']}: the same batch on more chips")
  try:
    figure.savefig(path)
  except (OSError, ValueError) as error:
    raise UserError(f"--plot expected a .png or .svg that can be written, got {path} ({error}); give another path") from error
  return Path(path)
