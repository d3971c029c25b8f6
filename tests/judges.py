"""Verifiers and an environment for tests of collecting. They run in worker processes only."""

import os
import time
import zlib

from jaxreason.rewards import chain_verifier
from jaxreason.rewards.verdict import Verdict

VERIFIERS = {name: f"judges:{name}" for name in ("sleepy", "by_row", "stamped")}
WORDS = "+="  # what the environment says after a wrong try, in the characters of running sums


def sleepy(response, answer, finished=True):
  """The chain verifier, now or some time later."""
  time.sleep(int.from_bytes(os.urandom(1), "big") / 4000)
  return chain_verifier.grade(response, answer, finished)


def by_row(response, answer):
  """Of three rows one is always right, one always wrong, and one depends on the response."""
  right = {0: True, 1: False}.get(int(answer) % 3, zlib.crc32(response.encode()) % 2 == 0)
  return Verdict(float(right), "correct" if right else "wrong")


def stamped(response, answer):
  """By the response, now or some time later; no two verdicts are the same."""
  stamp = os.urandom(8)
  time.sleep(stamp[0] / 4000)
  right = zlib.crc32(response.encode()) % 2
  return Verdict(float(right), "correct" if right else "wrong", detail=stamp.hex())


def reset(row):
  if row.get("do") == "no reset":
    raise KeyError("no such row")
  return {"do": row.get("do", ""), "tried": 0, "texts": []}


def step(state, text, finished=True):
  """Three tries of which a response earns 1/4, 1/2 or 1 by chance; what the row says goes wrong at the second."""
  state = {**state, "tried": state["tried"] + 1, "texts": [*state["texts"], text]}
  if state["tried"] == 2:
    if state["do"] == "raise":
      raise KeyError("no such turn")
    if state["do"] == "hang":
      time.sleep(3600)
    if state["do"] == "unjudged":
      return state, "", None, True
  reward = (0.0, 0.25, 0.5, 1.0)[zlib.crc32(text.encode()) % 4]
  done = state["tried"] == 3
  words = "" if done or state["do"] == "silent" else WORDS
  return state, words, reward, done
