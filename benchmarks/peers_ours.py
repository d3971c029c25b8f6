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

import jaxreason
from jaxreason import rollout_plan
from jaxreason.model import hf
from jaxreason.rollout.config import RolloutConfig, shape_of
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.slots import Slots


def ours(params, config, prompts: list[list[int]], group: int, new: int) -> Callable[[int], list[list[int]]]:
  """Makes a function from a seed to sampled completions of `new` tokens each, group after group; nothing ends one early."""
  chosen = RolloutConfig(prompts=len(prompts), group=group, max_new_tokens=new)
  samples = len(prompts) * group
  shape = shape_of(chosen, slots=samples, group=group, samples=samples, shards=1, ahead=0)
  programs = rollout_plan.rollout_programs(config)

  def rollout(seed: int) -> list[list[int]]:
    slots, found = Slots(programs, shape, Draw(jax.random.key(seed), ())), {}
    for visit, prompt in enumerate(prompts):
      slots.admit(visit, prompt, range(group))
    prepared = programs.prepare(params)
    while len(found) < samples:
      found |= {written.name: written.record.tokens.tolist() for written in slots.chunk(prepared, 0)}
    return [found[name] for name in sorted(found)]

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
