"""jaxreason's side of `benchmarks.peers`, in a process of its own.

    python -m benchmarks.peers_ours TASK.json ANSWER.json

What is timed is all that a training step's rollout does for its tokens: the rollout's copy of the weights, prefill of each
prompt once, decoding, and the tokens on the host. Chunk and cache sizes are `RolloutConfig`'s own.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import jaxreason
from jaxreason import build, sharding
from jaxreason.data import prompts as data
from jaxreason.model import hf
from jaxreason.rollout import engine
from jaxreason.rollout.engine import RolloutConfig
from jaxreason.settings import RunSettings


def ours(params, config, prompts: list[list[int]], group: int, new: int) -> Callable[[int], list[list[int]]]:
  """Makes a function from a seed to sampled completions of `new` tokens each, group after group; nothing ends one early.

  The one place here that knows the engine.
  """
  shape, mesh = RolloutConfig(), sharding.make_mesh(devices=jax.devices()[:1])
  programs = build.compile_programs(RunSettings(), config, mesh).rollout
  longest = -(-max(map(len, prompts)) // shape.prompt_bucket) * shape.prompt_bucket
  wave = engine.Wave(
    data.right_padded(prompts, longest, 0), np.array([len(ids) for ids in prompts], np.int32),
    np.arange(len(prompts), dtype=np.int32), group, new,
  )  # fmt: skip

  def rollout(seed: int) -> list[list[int]]:
    state = engine.run(
      programs, programs.prepare(params), wave, engine.uniform_sampling(len(prompts) * group), root=jax.random.key(seed),
      version=0, stop_ids=(), chunk=shape.chunk, cache_bucket=shape.cache_bucket, on_finished=lambda *_: None,
    )  # fmt: skip
    tokens, lengths = jax.device_get((state.tokens, state.lengths))
    return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]

  return rollout


def measure(task: dict) -> dict:
  params, config = hf.load(task["model"])
  rollout = ours(params, config, task["prompts"], task["group"], task["new"])
  times = []
  for seed in range(task["warm_up"] + task["repeats"]):
    began = time.perf_counter()
    written = [len(completion) for completion in rollout(seed)]
    times.append(time.perf_counter() - began)
    if written != [task["new"]] * len(task["prompts"]) * task["group"]:
      raise SystemExit(f"expected {len(task['prompts'])} x {task['group']} completions of {task['new']} tokens, got {written}")
  return {
    "seconds": times[task["warm_up"] :],
    "warm_up_seconds": times[: task["warm_up"]],
    "dtype": config.compute_dtype,
    "threads": task["threads"],  # XLA takes as many as the process may run on
    "versions": {"jaxreason": jaxreason.__version__, "jax": jax.__version__},
  }


if __name__ == "__main__":
  Path(sys.argv[2]).write_text(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text()))))
