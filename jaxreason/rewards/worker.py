"""Floor 3, rewards: what runs inside a worker process of the pool.

What enters: one JSON argument with the settings (paths, memory limit, parent's pid), then request frames on standard
input. What leaves: one reply frame on standard output for each. The process is started by exec as a script, answers one
question at a time, imports a verifier or an environment when it is first needed, and never imports jax. It ends when its
input ends or when its parent dies. It keeps no clock: the pool kills it.
"""

import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress


def main(argument: str) -> None:
  """Serves requests until the input ends.

  Args:
    argument: JSON with `paths` (for sys.path), `memory_bytes`, `parent` (a pid) and `verifiers` (names to targets).
  """
  settings = json.loads(argument)
  _die_with(settings["parent"])
  for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, settings["memory_bytes"])):
    _limit(limit, value)
  sys.path[:] = settings["paths"]
  from jaxreason.rewards import calls, frames, imports

  calls.know(settings["verifiers"])
  requests, replies = _private_channels()

  def reply(value: dict) -> None:
    frames.write(replies, frames.encode(value), frames.REPLY_BYTES)

  imports.watch(lambda starts: reply({"importing": starts}))
  reply({"ready": True})
  _silence(2)  # from here on nobody reads it, and a full pipe would block
  while (request := frames.read(requests, frames.REQUEST_BYTES)) is not None:
    if "load" in request:
      reply(_load(request["load"]))
    else:
      reply(_answer(request))


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


def _load(target: str) -> dict:
  """Imports `package.module:function`; says why when it cannot."""
  from jaxreason.rewards import calls

  try:
    calls.load(target)
  except Exception as error:
    return {"failed": calls.cut(f"{target}: {type(error).__name__}: {error}")}
  return {"loaded": target}


def _answer(request: dict) -> dict:
  """The reply to one question: its id and attempt, the answer, and what the pool should know about this process."""
  from jaxreason.rewards import calls, frames
  from jaxreason.rewards.kinds import KINDS

  kind = KINDS[request["kind"]]
  begin = time.perf_counter()
  raised, retire = "", False
  try:
    answer = calls.CALLS[kind.name](calls.load(request["target"]), request["fields"]).to_json()
    size = len(frames.encode(answer))
    if size > frames.REPLY_BYTES // 2:
      answer = kind.limit(f"a {kind.name} of {size} bytes").to_json()
  except (MemoryError, RecursionError) as error:
    retire = True  # whatever it left behind may weigh on the next item
    answer = kind.limit(f"the response ran out of {_RESOURCE[type(error)]} in its judge").to_json()
  except BaseException as error:
    raised = calls.cut(f"{type(error).__name__}: {error}")
    answer = kind.fault(calls.cut(f"the {kind.asked} raised {raised}")).to_json()  # its bug, and no zero to train on
  return {
    "id": request["id"],
    "attempt": request["attempt"],
    "answer": {**answer, "seconds": time.perf_counter() - begin},
    "raised": raised,
    "retire": retire,
    "memory_bytes": _memory_bytes(),
  }


_RESOURCE = {MemoryError: "memory", RecursionError: "stack"}


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
