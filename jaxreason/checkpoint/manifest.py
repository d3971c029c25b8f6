"""Floor 3, host room: what a directory held when it was whole, file by file.

What enters: a directory that is written. What leaves: `manifest.json` in it, with the size and the SHA-256 of every file, by
one rename once everything is on disk; and later, whether that is what is there. Orbax restores flipped bytes without a word.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NAME = "manifest.json"
_PIECE = 1 << 22  # bytes read at a time
_THREADS = 8


def write(folder: Path, about: Mapping[str, Any]) -> None:
  """Forces all files below `folder` to disk and writes their manifest, last and at once.

  Args:
    folder: whole, and not changed from here on.
    about: JSON values that are kept beside the list.

  Raises:
    OSError: a file cannot be read or written; there is no manifest then.
  """
  names = _files(folder)
  with ThreadPoolExecutor(_THREADS) as threads:
    sums = list(threads.map(lambda name: _sum(folder / name, sync=True), names))
  listed = {name: [(folder / name).stat().st_size, total] for name, total in zip(names, sums, strict=True)}
  told = {"about": dict(about), "files": listed}
  text = json.dumps(told | {"sha256": _of_text(told)}, sort_keys=True)
  part = folder / f"{NAME}.part"
  with open(part, "w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.rename(part, folder / NAME)
  for directory in {folder, *((folder / name).parent for name in names)}:
    _sync(directory)


def glance(folder: Path, read: Iterable[str] = ()) -> str:
  """What is wrong by the names and sizes of files, and by the content of those in `read`; '' for nothing."""
  try:
    told = json.loads((folder / NAME).read_text())
    listed, total = told["files"], told.pop("sha256")
    if total != _of_text(told):
      return f"{NAME} is not what was written"
  except FileNotFoundError:
    return f"{NAME} is missing"
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    return f"{NAME} cannot be read ({error})"
  there = set(_files(folder))
  for name, (size, total) in listed.items():
    if name not in there:
      return f"{name} is missing"
    if (found := (folder / name).stat().st_size) != size:
      return f"{name} has {found:,} bytes, expected {size:,}"
    if name in read and _sum(folder / name) != total:
      return f"{name} is not what was written"
  return ""


def verify(folder: Path) -> str:
  """As `glance`, with the content of every file."""
  if wrong := glance(folder):
    return wrong
  listed = json.loads((folder / NAME).read_text())["files"]
  with ThreadPoolExecutor(_THREADS) as threads:
    sums = threads.map(lambda name: _read_sum(folder / name), listed)
    changed = [name for name, total in zip(listed, sums, strict=True) if total != listed[name][1]]
  return f"{changed[0]} is not what was written" if changed else ""


def _files(folder: Path) -> list[str]:
  names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
  return sorted(name for name in names if name not in (NAME, f"{NAME}.part"))


def _read_sum(path: Path) -> str:
  try:
    return _sum(path)
  except OSError:
    return ""


def _sum(path: Path, sync: bool = False) -> str:
  found = hashlib.sha256()
  with open(path, "rb") as file:
    while piece := file.read(_PIECE):
      found.update(piece)
    if sync:
      os.fsync(file.fileno())
  return found.hexdigest()


def _of_text(told: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _sync(directory: Path) -> None:
  handle = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
