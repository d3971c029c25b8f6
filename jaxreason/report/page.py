"""Floor 4, report: runs as one HTML page that needs no network.

What enters: working directories. What leaves: a page with their numbers and completions inside, compressed; or the same data
alone, for a page that follows a run. Text of a model enters the page as data and is shown as text: it is never markup.
"""

import base64
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

from jaxreason import completions, metrics
from jaxreason.errors import UserError

MOST = 50_000  # completions of a run
DETAILED = 2_000  # of them with their tokens
_PLACE = "@DATA@"


def page(workdirs: Sequence[str | os.PathLike]) -> str:
  """The page of one run, or of several over one another.

  Raises:
    UserError: a directory without a run.
  """
  return template().replace(_PLACE, data(workdirs))


def template() -> str:
  """The page without data: it asks its server for them."""
  return (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


def following() -> str:
  """The page of a run that is followed."""
  return template().replace(_PLACE, "")


def data(workdirs: Sequence[str | os.PathLike]) -> str:
  """What the page shows, as base64 of gzipped JSON."""
  runs = [_run(Path(workdir)) for workdir in workdirs]
  text = json.dumps(runs, ensure_ascii=False, separators=(",", ":"))
  return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6)).decode()


def _run(workdir: Path) -> dict:
  if not (workdir / metrics.FILE).is_file():
    raise UserError(f"--workdir expected the directory of a run, with {metrics.FILE}, got {workdir}; train first")
  found = completions.read(workdir)
  kept = _spread(found, MOST)
  detailed = [one for one in kept if "pieces" in one]
  with_tokens = {id(one) for one in _spread(detailed, DETAILED)}
  for one in detailed:
    if id(one) not in with_tokens:
      del one["pieces"], one["logprobs"]
  results = workdir / "results.json"
  return {
    "name": workdir.name or str(workdir), "rows": metrics.read(workdir), "samples": kept,
    "left_out": len(found) - len(kept), "results": json.loads(results.read_text()) if results.is_file() else None,
  }  # fmt: skip


def _spread(found: list, most: int) -> list:
  """At most so many, evenly over all."""
  if len(found) <= most:
    return found
  return [found[place * len(found) // most] for place in range(most)]
