"""Floor 3, host room `data`: where records come from: JSON lines, JSON, Parquet, a directory of those, or a hub data set.

A path or a hub id enters; records leave one by one, each with an id that does not depend on where the file lies. A record that
cannot be read leaves as a fault with its id and is for the caller to count: one bad line must not cost the other thousands.
"""

import gzip
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxreason.errors import UserError

_LINES = (".jsonl", ".jsonl.gz")
_SUFFIXES = (*_LINES, ".json", ".json.gz", ".parquet")
_KINDS = ".jsonl, .jsonl.gz, .json or .parquet"
# owner/name of a hub data set, and perhaps a folder inside it.
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/([\w.-]+(?:/[\w.-]+)*))?")
_TIMEOUT_S = 10.0
_SHARD = re.compile(r"(?:^|[-_.])\d+(?:-of-\d+)?$")


class Record(NamedTuple):
  """One element of a data set: its fields, or None and why they could not be read."""

  id: str
  fields: dict | None
  fault: str = ""


def records(source: str | os.PathLike, split: str | None = None) -> Iterator[Record]:
  """All records of a source, in order.

  Args:
    source: a data file, a directory of them, or a hub id 'owner/name' or 'owner/name/folder'.
    split: which part: chosen by the names of a directory's or hub's files, or by the key of a JSON object of lists.

  Raises:
    UserError: nothing there, the hub does not answer, a file that is not what its name says, or a choice of splits or folders
      that is left open.
  """
  for path, name in _files(source, split):
    reader = _parquet if path.suffix == ".parquet" else _json_lines if name.endswith(_LINES) else _json
    try:
      for number, (fields, fault) in enumerate(reader(path, split), 1):
        yield Record(f"{name}:{number}", fields, fault)
    except (OSError, EOFError, zlib.error) as error:
      raise UserError(f"expected to read {path}, got {error}; is the file whole?") from error


def _files(source: str | os.PathLike, split: str | None) -> list[tuple[pathlib.Path, str]]:
  """(path, name for ids) of the files of a source."""
  path = pathlib.Path(source).expanduser()
  if path.is_dir():
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    return [(path / name, name) for name in _select(names, split, str(source))]
  if path.exists():
    if not path.name.endswith(_SUFFIXES):
      raise UserError(f"expected a data file ({_KINDS}), got {source}")
    if split and not path.name.endswith((".json", ".json.gz")):
      raise UserError(f"expected no split for the single file {source}, got {split!r}; leave the split out")
    return [(path, path.name)]
  hub = _HUB_ID.fullmatch(str(source))
  if hub is None or str(source).endswith(_SUFFIXES):
    raise UserError(f"expected a data file, a directory or a hub id, got {str(source)!r}, which does not exist; check the path")
  folder = _from_hub(hub[1], hub[2], split)
  return [(path, f"{hub[1]}/{name}") for path, name in folder]


def _select(names: Iterable[str], split: str | None, source: str) -> list[str]:
  """The data files of one split among `names`, in order; shards of one file belong together, anything else is a choice."""
  found = sorted(name for name in names if name.endswith(_SUFFIXES) and not name.startswith("."))
  if not found:
    raise UserError(f"expected data files ({_KINDS}) in {source}, got none")
  if split:
    word = re.compile(rf"(?:^|[-_./]){re.escape(split)}(?=[-_./])")
    chosen = [name for name in found if word.search(name)]
    if not chosen:
      raise UserError(f"expected files of split {split!r} in {source}, got {_listed(found)}; choose another split")
    found = chosen
  wholes = sorted({_whole(name) for name in found})
  if len(wholes) > 1:
    raise UserError(f"expected one data set in {source}, got {_listed(wholes)}; name the split, the folder or the file")
  return found


def _whole(name: str) -> str:
  """The name of the data set that a file is all of or a shard of: 'main/train-00000-of-00002.parquet' -> 'main/train'."""
  suffix = next(suffix for suffix in sorted(_SUFFIXES, key=len, reverse=True) if name.endswith(suffix))
  folder, _, stem = name.removesuffix(suffix).rpartition("/")
  return f"{folder}/{_SHARD.sub('', stem)}".strip("/") + ("" if suffix == ".parquet" else suffix)


def _listed(names: list[str]) -> str:
  return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _from_hub(repo: str, folder: str | None, split: str | None) -> list[tuple[pathlib.Path, str]]:
  """Downloads one split of a hub data set; without a network, what an earlier download left in the cache."""
  import huggingface_hub  # a second to import, for this one use

  inside = "" if folder is None else f"{folder}/"

  def chosen(names: Iterable[str]) -> list[str]:
    return _select([name for name in names if name.startswith(inside)], split, f"{repo}/{inside}".rstrip("/"))

  def downloaded(patterns: list[str], local: bool) -> pathlib.Path:
    options = {"repo_type": "dataset", "allow_patterns": patterns, "local_files_only": local}
    return pathlib.Path(huggingface_hub.snapshot_download(repo, **options))

  # The client raises errors of its own, of its transport and of the system alike, hence the two wide nets.
  try:
    listed = huggingface_hub.HfApi().dataset_info(repo, timeout=_TIMEOUT_S).siblings or ()
  except Exception as error:
    try:
      root = downloaded([f"{inside}*{split or ''}*{suffix}" for suffix in _SUFFIXES], local=True)
    except Exception:
      raise _unreachable(f"{repo}/{inside}".rstrip("/"), error) from error
    names = chosen(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    return [(root / name, name) for name in names]
  names = chosen(file.rfilename for file in listed)
  try:
    root = downloaded(names, local=False)
  except Exception as error:
    raise _unreachable(f"{repo}/{inside}".rstrip("/"), error) from error
  return [(root / name, name) for name in names]


def _unreachable(source: str, error: Exception) -> UserError:
  reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
  return UserError(f"expected a path or a reachable hub data set, got {source!r}: no such path, and the hub: {reason}")


Read = Iterator[tuple[dict | None, str]]


def _opened(path: pathlib.Path):
  return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _json_lines(path: pathlib.Path, split: str | None) -> Read:
  """One record a line; blank lines keep their number as faults."""
  with _opened(path) as file:
    for line in file:
      try:
        fields = json.loads(line.decode("utf-8-sig")) if line.strip() else None
        yield (fields, "") if isinstance(fields, dict) else (None, "not an object" if line.strip() else "empty line")
      except UnicodeDecodeError:
        yield None, "bad UTF-8"
      except (ValueError, RecursionError):
        yield None, "not JSON"


def _json(path: pathlib.Path, split: str | None) -> Read:
  """A list of records, an object of such lists by split, or, as some tools name them, JSON lines."""
  with _opened(path) as file:
    # Bytes that are not UTF-8 become surrogates, so that they cost their own record and not the file.
    text = file.read().decode("utf-8-sig", "surrogateescape")
  try:
    data = json.loads(text)
  except json.JSONDecodeError as error:
    if error.msg != "Extra data":
      raise UserError(f"expected JSON in {path}, got something else at line {error.lineno}: {error.msg}") from error
    yield from _json_lines(path, split)
    return
  except (ValueError, RecursionError) as error:
    raise UserError(f"expected JSON in {path}, got something else: {error}") from error
  lists = {key: value for key, value in data.items() if _is_records(value)} if isinstance(data, dict) else {}
  if split and split not in lists:
    raise UserError(f"expected records of split {split!r} in {path}, got {_listed(list(lists)) or 'no splits'}; choose another")
  if len(lists) > 1 and not split:
    raise UserError(f"expected one list of records in {path}, got {_listed(list(lists))}; name one as the split")
  if lists:
    data = lists[split] if split else next(iter(lists.values()))
  for fields in data if isinstance(data, list) else [data]:
    yield (fields, "") if isinstance(fields, dict) else (None, "not an object")


def _is_records(value: object) -> bool:
  return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _parquet(path: pathlib.Path, split: str | None) -> Read:
  """The rows of a Parquet file, batch by batch."""
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError as error:
    raise UserError(f"expected pyarrow to read {path.name}, got none; pip install 'jaxreason[parquet]'") from error
  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      for batch in file.iter_batches(batch_size=1024):
        for index in range(batch.num_rows):
          try:
            yield batch.slice(index, 1).to_pylist()[0], ""
          except UnicodeDecodeError:
            yield None, "bad UTF-8"
  except pyarrow.ArrowInvalid as error:
    raise UserError(f"expected a Parquet file at {path}, got something else: {str(error).splitlines()[0]}") from error
