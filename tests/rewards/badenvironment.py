"""An environment that does what it is told, well or badly. It runs in worker processes only."""

import ctypes
import os
import sys
import time
from pathlib import Path


def reset(row):
  if row.get("do") == "hang":
    time.sleep(3600)
  if row.get("do") == "raise":
    raise KeyError("no such row")
  if row.get("do") == "list":
    return [1, 2]
  if row.get("do") == "large":
    return {"all": "x" * 10**6}
  return {"count": 0, "row": row, "pid": os.getpid()}


def step(state, text, finished=True):
  """Does what the text says; else says it back, counting."""
  state = {**state, "count": state.get("count", 0) + 1, "finished": finished, "pid": os.getpid()}
  if text in ("hang", "exit", "segfault", "raise", "memory", "recursion", "print", "crash once"):
    misbehave(text, state)
  replies = {
    "three": (state, "", 1.0),
    "nothing": None,
    "text": (state, 3, 0.0, False),
    "more than one": (state, "", 1.5, True),
    "bool reward": (state, "", True, True),
    "nan": (state, "", float("nan"), True),
    "done": (state, "", 1.0, "yes"),
    "last words": (state, "and now?", 1.0, True),
    "set": ({"values": {1, 2}}, "", 1.0, True),
    "nan in state": ({"value": float("nan")}, "", 1.0, True),
    "listed": ([1], "", 1.0, True),
    "large state": ({"all": "x" * 2**18}, "", 1.0, True),
    "large text": (state, "x" * 2**18, 0.0, False),
    "unjudged": (state, "", None, True),
    "right": (state, "", 1.0, True),
    "half": (state, "go on", 0.5, False),
    "modules": (state, " ".join(sorted({"jax", "numpy", "jaxreason.environments"} & set(sys.modules))), 0.0, False),
  }
  return replies.get(text, (state, text, 0.0, False))


def misbehave(text, state):
  if text == "hang":
    while True:
      pass
  if text == "exit":
    os._exit(3)
  if text == "crash once" and not Path(state["path"]).exists():
    Path(state["path"]).write_text("done")
    os._exit(3)
  if text == "segfault":
    ctypes.string_at(0)
  if text == "raise":
    raise KeyError("no such turn")
  if text == "memory":
    "x" * 10**10
  if text == "recursion":
    misbehave(text, state)
  if text == "print":
    print("noise" * 100_000, flush=True)
    os.write(1, b"\xff" * 1000)
