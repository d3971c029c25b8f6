"""Floor 3, rewards: what runs inside a worker process of the pool.

What enters: one JSON argument with the settings (paths, memory limit, parent's pid), then request frames on standard
input. What leaves: one reply frame on standard output for each. The process is started by exec as a script, judges one
item at a time, imports a verifier when it is first needed, and never imports jax. It ends when its input ends or when
its parent dies. It keeps no clock: the pool kills it.
"""

import importlib
import inspect
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress

_DETAIL_CHARACTERS = 500
_EXTRACTED_CHARACTERS = 4096


def main(argument: str) -> None:
  """Serves requests until the input ends.

  Args:
    argument: JSON with `paths` (for sys.path), `memory_bytes` and `parent` (a pid).
  """
  settings = json.loads(argument)
  _die_with(settings["parent"])
  for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, settings["memory_bytes"])):
    _limit(limit, value)
  sys.path[:] = settings["paths"]
  from jaxreason.rewards import frames, imports

  requests, replies = _private_channels()

  def reply(value: dict) -> None:
    frames.write(replies, frames.encode(value), frames.REPLY_BYTES)

  imports.watch(lambda starts: reply({"importing": starts}))
  reply({"ready": True})
  _silence(2)  # from here on nobody reads it, and a full pipe would block
  verifiers = {}
  while (request := frames.read(requests, frames.REQUEST_BYTES)) is not None:
    if "load" in request:
      reply(_load(verifiers, request["load"], request["target"]))
    else:
      reply(_judge(verifiers[request["verifier"]], request))


def _die_with(parent: int) -> None:
  """Asks the kernel (Linux) to kill this process when the thread that started it dies."""
  if sys.platform == "linux":
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
  if os.getppid() != parent:  # it died before we asked
    os._exit(0)


def _limit(which: int, value: int) -> None:
  with suppress(ValueError, OSError):  # macOS refuses an address-space limit; a lower hard limit stands as it is
    resource.setrlimit(which, (value, value))


def _private_channels() -> tuple[int, int]:
  """Moves the frames away from descriptors 0 and 1, so that a verifier that prints or reads cannot disturb them."""
  requests, replies = os.dup(0), os.dup(1)
  _silence(0, 1)
  return requests, replies


def _silence(*descriptors: int) -> None:
  nothing = os.open(os.devnull, os.O_RDWR)
  for descriptor in descriptors:
    os.dup2(nothing, descriptor)
  os.close(nothing)


def _load(verifiers: dict, name: str, target: str) -> dict:
  """Imports `package.module:function` under `name`; says why when it cannot."""
  module, _, function = target.partition(":")
  try:
    found = getattr(importlib.import_module(module), function)
    verifiers[name] = (found, inspect.signature(found).parameters)
  except Exception as error:
    return {"failed": _cut(f"{target}: {type(error).__name__}: {error}", _DETAIL_CHARACTERS)}
  return {"loaded": name}


def _judge(verifier, request: dict) -> dict:
  """The reply to one item: its id and attempt, the verdict, and what the pool should know about this process."""
  from jaxreason.rewards import frames
  from jaxreason.rewards.verdict import Verdict

  function, parameters = verifier
  begin = time.perf_counter()
  raised, retire = "", False
  try:
    verdict = _called(function, parameters, request["fields"])
    size = len(frames.encode(verdict))
    if size > frames.REPLY_BYTES // 2:
      verdict = Verdict(0.0, "limit", detail=f"a verdict of {size} bytes").to_json()
  except (MemoryError, RecursionError) as error:
    retire = True  # whatever it left behind may weigh on the next item
    verdict = Verdict(0.0, "limit", detail=f"the response ran out of {_RESOURCE[type(error)]} in its judge").to_json()
  except BaseException as error:
    raised = _cut(f"{type(error).__name__}: {error}", _DETAIL_CHARACTERS)
    detail = _cut(f"the verifier raised {raised}", _DETAIL_CHARACTERS)  # its bug, and no zero to train on
    verdict = Verdict(None, "infra_error", detail=detail).to_json()
  return {
    "id": request["id"],
    "attempt": request["attempt"],
    "verdict": {**verdict, "seconds": time.perf_counter() - begin},
    "raised": raised,
    "retire": retire,
    "memory_bytes": _memory_bytes(),
  }


_RESOURCE = {MemoryError: "memory", RecursionError: "stack"}


def _called(function, parameters, fields: dict) -> dict:
  """Calls the verifier with the item's fields that it takes; a verdict in JSON form."""
  from jaxreason.rewards.imports import NotInstalled
  from jaxreason.rewards.verdict import Verdict

  takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
  given = {name: value for name, value in fields.items() if takes_all or name in parameters}
  missing = [
    name
    for name, parameter in parameters.items()
    if name not in given
    and parameter.default is parameter.empty
    and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
  ]
  if missing:
    return Verdict(None, "infra_error", detail=f"the item lacks the fields that its verifier needs: {missing}").to_json()
  try:
    verdict = function(**given)
  except NotInstalled as error:
    return Verdict(None, "infra_error", detail=_cut(str(error), _DETAIL_CHARACTERS)).to_json()
  if not isinstance(verdict, Verdict):
    return Verdict(
      None, "infra_error", detail=f"expected the verifier to return a Verdict, got {type(verdict).__name__}"
    ).to_json()
  data = verdict.to_json()
  data["detail"] = _cut(verdict.detail, _DETAIL_CHARACTERS)
  data["extracted"] = None if verdict.extracted is None else _cut(verdict.extracted, _EXTRACTED_CHARACTERS)
  return data


def _cut(text: str, length: int) -> str:
  return text if len(text) <= length else text[:length] + "..."


def _memory_bytes() -> int:
  """Resident memory now. Not ru_maxrss: exec hands on the peak of the process it came from, and a trainer's is gigabytes."""
  try:
    with open("/proc/self/statm") as file:
      return int(file.read().split()[1]) * resource.getpagesize()
  except OSError:  # no /proc: the peak, in bytes on macOS and in KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
  main(sys.argv[1])
