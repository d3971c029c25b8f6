"""Floor 4: what a compiled program needs of its chip.

What enters: an executable of `jax.stages.Compiled`. What leaves: bytes per device, and its collectives by kind with the bytes
that each device receives, as often as the loops around them run.
"""

import collections
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_COLLECTIVE = re.compile(rf"= (.+?) ({'|'.join(_KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|[subf]\d+|bf16|f8\w+)\[([\d,]*)\]")
_WHILE = re.compile(r" while\(.*?condition=%?([\w.-]+), body=%?([\w.-]+)")
_CONSTANT = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")
_CALLED = re.compile(r"(?:calls|to_apply|branch_computations|async_execution_thread.*?calls)=\{?%?([\w.-]+)")
_TRIPS = re.compile(r'known_trip_count"?:\s?\{"?n"?:\s?"?(\d+)')
_GROUPS = re.compile(
  r"replica_groups=(\{\{.*?\}\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?|mesh\[[^\]]*\](?:,? ?device_ids=\([^)]*\))? ?\{[^}]*\})"
)


class Needs(NamedTuple):
  """Of one device, in bytes."""

  arguments: int
  outputs: int  # that are not arguments, given back
  temporary: int
  host: int  # temporary, in the host's memory
  code: int

  @property
  def total(self) -> int:
    return self.arguments + self.outputs + self.temporary + self.code


def needs(program) -> Needs:
  """What the executable says of its memory."""
  found = program.memory_analysis()
  return Needs(
    found.argument_size_in_bytes, found.output_size_in_bytes - found.alias_size_in_bytes, found.temp_size_in_bytes,
    found.host_temp_size_in_bytes, found.generated_code_size_in_bytes,
  )  # fmt: skip


def collectives(text: str, slice_of: Sequence[int]) -> dict[str, dict[str, int]]:
  """Collectives of a program, by kind: how often, and bytes a device receives within its slice and from other slices.

  Args:
    text: `Compiled.as_text()`.
    slice_of: of each device, in the order of the mesh, the slice or host that it is in.
  """
  bodies, entry = _computations(text)
  times = _times(bodies, entry)
  found: dict[str, dict[str, int]] = collections.defaultdict(lambda: {"count": 0, "inside": 0, "between": 0})
  for name, lines in bodies.items():
    for line in lines:
      if (one := _COLLECTIVE.search(line)) and times.get(name):
        size = max(map(_bytes, _ARRAY.findall(one[1])), default=0) * (2 if one[2] == "all-reduce" else 1)
        place = "between" if _crosses(line, slice_of) else "inside"
        found[one[2]]["count"] += times[name]
        found[one[2]][place] += times[name] * size
  return dict(found)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  bodies: dict[str, list[str]] = {}
  name = entry = ""
  for line in text.splitlines():
    if begins := _COMPUTATION.match(line):
      name = begins[1]
      bodies[name] = []
      entry = name if line.startswith("ENTRY") else entry
    elif name:
      bodies[name].append(line)
  return bodies, entry


def _times(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
  """How often each computation runs; a loop of unknown length counts once."""
  times: dict[str, int] = collections.defaultdict(int)

  def visit(name: str, count: int, depth: int) -> None:
    if name not in bodies or depth > 40:
      return
    times[name] += count
    for line in bodies[name]:
      if loop := _WHILE.search(line):
        visit(loop[2], count * _trips(line, bodies.get(loop[1], [])), depth + 1)
      elif called := _CALLED.search(line):
        visit(called[1], count, depth + 1)

  visit(entry, 1, 0)
  return times


def _trips(line: str, condition: list[str]) -> int:
  """How often a loop runs: as it is annotated, or what its condition compares its counter with."""
  if known := _TRIPS.search(line):
    return int(known[1])
  constants = [int(found[1]) for one in condition if (found := _CONSTANT.search(one))]
  return constants[0] if len(constants) == 1 else 1


def _bytes(array: tuple[str, str]) -> int:
  kind, sides = array
  bits = 8 if kind == "pred" or kind.startswith("f8") else int(re.search(r"\d+", kind)[0])
  return math.prod(map(int, filter(None, sides.split(",")))) * bits // 8


def _crosses(line: str, slice_of: Sequence[int]) -> bool:
  """Whether a group of the collective has devices of more than one slice."""
  found = _GROUPS.search(line)
  if len(set(slice_of)) < 2 or found is None:
    return False
  groups = found[1]
  if groups.startswith("mesh"):
    listed = _of_axes(groups)
  elif groups.startswith("{"):
    listed = [[int(one) for one in group.split(",") if one] for group in re.findall(r"\{([\d,]*)\}", groups)]
  else:
    shape, dims, order = re.fullmatch(r"\[(.*)\]<=\[(.*?)\](?:T\((.*)\))?", groups).groups()
    numbers = lambda text: [int(one) for one in text.split(",")]
    ids = np.arange(math.prod(numbers(dims))).reshape(numbers(dims))
    listed = (ids.transpose(numbers(order)) if order else ids).reshape(numbers(shape)).tolist()
  return any(len({slice_of[one] for one in group if one < len(slice_of)}) > 1 for group in listed)


def _of_axes(groups: str) -> list[list[int]]:
  """Of `mesh['a'=2,'b'=4] {'b'}`: those that differ along the named axes alone."""
  sides = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", groups)}
  over = re.findall(r"'([^']+)'", groups[groups.rindex("{") :])
  ids = np.arange(math.prod(sides.values())).reshape(list(sides.values()))
  places = [place for place, name in enumerate(sides) if name in over]
  moved = np.moveaxis(ids, places, range(-len(places), 0))
  return moved.reshape(-1, math.prod(sides[name] for name in over)).tolist()
