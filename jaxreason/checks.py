"""Floor 4: what does not fit together in a run, found before its first step.

What enters: settings, rows, tokenizer, the checkpoint's positions, the mesh. What leaves: nothing, or a UserError of one line.
"""

import heapq
import importlib.machinery
import importlib.util
import itertools
import math
import string

from jaxreason import processes, sharding
from jaxreason.data.tokenizer import Tokenizer
from jaxreason.environments import ENVIRONMENTS, python, retry
from jaxreason.errors import UserError, nearest
from jaxreason.groups import ROW
from jaxreason.rewards import code_verifier, length_verifier
from jaxreason.rewards.calls import COORDINATED, VERIFIERS
from jaxreason.settings import RunSettings
from jaxreason.tasks import Rows

# Of so many rows, those of the most bytes, lengths are looked at before a run starts; the others when they are drawn.
LONGEST_ROWS = 500
# What environments say; a program may print anything, and at least what can be typed.
_WORDS = {"retry": (retry.NOT_FOUND, retry.NOT_RIGHT), "python": (string.printable + python.LAST,)}


_NO_JUDGE = "expected config.rewards.judge.url, such as http://localhost:8000/v1, and config.rewards.judge.model, got no url"


def check_rows(settings: RunSettings, rows: Rows) -> None:
  """Raises UserError for rows that nobody can judge, or that supervised steps cannot imitate. Pairs are judged already."""
  known, parts = [*VERIFIERS, *COORDINATED, *(["judge"] if settings.rewards.judge.url else [])], settings.rewards.parts
  for row in itertools.chain(*rows) if settings.stage == "train" else ():
    if row["verifier"] == "judge" not in known:
      raise UserError(f"row {row['id']!r} of verifier judge {_NO_JUDGE}")
    if row["verifier"] not in known:
      raise UserError(
        f"row {row['id']!r} expected a verifier among {', '.join(known)}, got {row['verifier']!r}"
        f"{nearest(row['verifier'], known)}; for files, set config.data.files.verifier"
      )
    if row["verifier"] == "code" and (why := code_verifier.malformed(row.get("fields", {}))):
      raise UserError(f"row {row['id']!r}: {why}; set config.data.files.fields and constants, see docs/code.md")
    for part in ({"verifier": row["verifier"]}, *parts):
      if part["verifier"] == "length" and (why := length_verifier.malformed({**row.get("fields", {}), **part})):
        raise UserError(f"row {row['id']!r} of verifier length: {why}; set config.rewards.compose or data.files.constants")
    if row["verifier"] == "compose" and any(part["verifier"] == ROW for part in parts):
      raise UserError(f"config.rewards.compose expected rows with one verifier each for its part 'row', got row {row['id']!r}")
  for part in parts:
    if part["verifier"] == "judge" not in known:
      raise UserError(f"config.rewards.compose's part judge {_NO_JUDGE}")
    if part["verifier"] not in (*known, ROW):
      raise UserError(
        f"config.rewards.compose expected verifiers among row, {', '.join(known)}, got {part['verifier']!r}"
        f"{nearest(part['verifier'], known)}"
      )
  if settings.sft.steps and not all(row.get("demonstration") for row in rows.train[: settings.sft.rows or None]):
    raise UserError("config.sft.steps expected rows with demonstrations, got rows without; set config.sft.steps=0")


def check_environment(settings: RunSettings, tokenizer: Tokenizer) -> None:
  """Raises UserError for an environment that is not there, or whose words the tokenizer cannot write. It is not imported."""
  name = settings.rollout.environment
  if name and name not in ENVIRONMENTS and not _is_module(name):
    raise UserError(
      f"config.rollout.environment expected empty, {', '.join(ENVIRONMENTS)} or a module that can be imported, such as "
      f"package.module on PYTHONPATH, got {name!r}{nearest(name, ENVIRONMENTS)}"
    )
  try:
    for text in _WORDS.get(name, ()):
      tokenizer.reply(text)
  except UserError as error:
    raise UserError(
      f"config.rollout.environment expected one that speaks in the tokenizer's characters, got {name!r}: {error}; give a model "
      "(config.model.source), or an environment of your own"
    ) from error


def _is_module(name: str) -> bool:
  """Whether a module can be imported, as far as can be told without running any of its package."""
  first, *rest = name.split(".")
  try:
    found = importlib.util.find_spec(first) if first else None
    for length in range(len(rest)):
      where = found and found.submodule_search_locations
      found = where and importlib.machinery.PathFinder.find_spec(".".join([first, *rest[: length + 1]]), where)
  except (ImportError, ValueError):
    return False
  return bool(found)


def check_lengths(settings: RunSettings, rows: Rows, tokenizer: Tokenizer) -> None:
  """Raises UserError for a prompt or a demonstration that is longer than the settings allow."""
  most, budget = settings.rollout.max_prompt_tokens, settings.sft.max_tokens
  if settings.rollout.long_prompts == "error" and settings.stage == "train":
    for row in itertools.chain.from_iterable(_of_most_bytes(split, "prompt") for split in rows):
      if (length := len(tokenizer.render(row["prompt"]))) > most:
        raise UserError(
          f"config.rollout.max_prompt_tokens expected at least {length}, the prompt of row {row['id']!r}, got {most}; "
          "raise it, or set config.rollout.long_prompts to drop or truncate_left"
        )
  if settings.sft.steps:
    for row in _of_most_bytes(rows.train[: settings.sft.rows or None], "demonstration"):
      length = len(tokenizer.render(row["prompt"])) + len(tokenizer.encode(row["demonstration"])) + 1
      if length > budget:
        raise UserError(
          f"config.sft.max_tokens expected at least {length}, the prompt and demonstration of row {row['id']!r}, got {budget}"
        )


def fitting_pairs(settings: RunSettings, rows: Rows, tokenizer: Tokenizer) -> Rows:
  """The rows whose answers are both short enough. Raises UserError where that is not all of them and none may be dropped."""
  chosen = settings.preference

  def length(row: dict) -> int:
    answers = [len(tokenizer.encode(row[which])) for which in ("chosen", "rejected")]
    return len(tokenizer.render(row["prompt"])) + max(answers) + 1

  if chosen.long_pairs == "drop":
    kept = Rows(*([row for row in split if length(row) <= chosen.max_tokens] for split in rows))
    if not all(kept):
      raise UserError(f"config.preference.max_tokens expected to hold pairs of each split, got {chosen.max_tokens}; raise it")
    return kept
  for name in ("chosen", "rejected"):
    for row in itertools.chain.from_iterable(_of_most_bytes(split, name) for split in rows):
      if (needed := length(row)) > chosen.max_tokens:
        raise UserError(
          f"config.preference.max_tokens expected at least {needed}, the prompt and the longer answer of row {row['id']!r}, "
          f"got {chosen.max_tokens}; raise it, or set config.preference.long_pairs=drop"
        )
  return rows


def _of_most_bytes(rows: list[dict], name: str) -> list[dict]:
  return heapq.nlargest(LONGEST_ROWS, rows, key=lambda row: len(str(row[name]).encode()))


def check_positions(settings: RunSettings, held: int) -> None:
  """Raises UserError for sequences longer than the `held` positions of a checkpoint."""
  shape = settings.rollout
  if settings.stage == "train" and shape.max_prompt_tokens + shape.max_new_tokens > held:
    raise UserError(
      f"config.rollout.max_prompt_tokens={shape.max_prompt_tokens} and max_new_tokens={shape.max_new_tokens} expected to fit "
      f"into the {held} positions of {settings.model.source}; lower one of them"
    )
  for name, given in (("sft", settings.sft), ("preference", settings.preference)):
    if given.steps and given.max_tokens > held:
      raise UserError(
        f"config.{name}.max_tokens={given.max_tokens} expected to fit into the {held} positions of {settings.model.source}; "
        "lower it"
      )


def check_memory(settings: RunSettings, mesh) -> None:
  """Raises UserError where arrays are to be kept on the host and the devices have no memory for that."""
  has = {memory.kind for memory in mesh.devices.flat[0].addressable_memories()}
  for name, chosen in (("train.moments", settings.train.moments), ("reference.memory", settings.reference.memory)):
    if chosen == "host" and sharding.HOST not in has:
      raise UserError(f"config.{name} expected device, for {mesh.devices.flat[0]} has no {sharding.HOST} memory, got 'host'")


def check_processes(settings: RunSettings) -> None:
  """Raises UserError for what only one process can do: there the time that an answer takes decides what is decoded next."""
  if processes.count() > 1 and settings.rollout.environment:
    raise UserError(
      f"config.rollout.environment expected none where {processes.count()} processes train together, got "
      f"{settings.rollout.environment!r}; use one process"
    )


def check_batches(settings: RunSettings, mesh) -> None:
  """Raises UserError unless each micro-batch divides over the mesh's data and fsdp devices, and packed rows over sequence."""
  shards, shape = sharding.parts("batch", mesh), settings.rollout
  pieces = settings.train.minibatches * settings.train.micro_batches
  rl, sft = pieces * shards, settings.sft.micro_batches * shards
  over = f"does not divide over {shards} data devices"
  if settings.train.steps and (shape.prompts * shape.group) % rl:
    parts = f" in {pieces} micro-batches" if pieces > 1 else ""
    raise UserError(
      f"batch of {shape.prompts * shape.group} sequences (prompts={shape.prompts} x group={shape.group}){parts} {over}; "
      f"make config.rollout.prompts a multiple of {rl // math.gcd(rl, shape.group)}"
    )
  if settings.sft.steps and settings.sft.batch % sft:
    parts = f" in {settings.sft.micro_batches} micro-batches" if settings.sft.micro_batches > 1 else ""
    raise UserError(f"batch of {settings.sft.batch} demonstrations{parts} {over}; make config.sft.batch a multiple of {sft}")
  pairs = settings.preference.micro_batches * shards  # whole pairs on each device
  if settings.preference.steps and settings.preference.batch % pairs:
    parts = f" in {settings.preference.micro_batches} micro-batches" if settings.preference.micro_batches > 1 else ""
    raise UserError(
      f"batch of {settings.preference.batch} pairs{parts} {over}; make config.preference.batch a multiple of {pairs}"
    )
  parts = sharding.parts("length", mesh)
  for name, chosen in (("train", settings.train), ("sft", settings.sft), ("preference", settings.preference)):
    if chosen.row_tokens % parts:
      raise UserError(
        f"config.{name}.row_tokens of {chosen.row_tokens} does not divide over {parts} sequence devices; make it a multiple of "
        f"{parts}"
      )
