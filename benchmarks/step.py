"""Where the time of a quickstart step goes: rollout and update against the matmul rate of the same run.

    python -m benchmarks.step

Prints, for the quickstart's shapes with random weights, the seconds of each program (least of several repeats) and the share
of the measured matmul rate that its model flops reach: 2 flops per parameter and token forward, 6 with the backward pass.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxreason import build, settings
from jaxreason.model import weights
from jaxreason.records import Batch
from jaxreason.rollout.config import shape_of
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.slots import Slots

REPEATS = 5


def least(call) -> float:
  """Seconds of the fastest of several calls, after one that compiles."""
  jax.block_until_ready(call())
  times = []
  for _ in range(REPEATS):
    began = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - began)
  return min(times)


def matmul_rate(rows: int = 16_384, width: int = 128, out: int = 1024) -> float:
  """Flops a second of a float32 product of the model's own width."""
  x, w = jnp.ones((rows, width)), jnp.ones((width, out))
  product = jax.jit(lambda x, w: x @ w)
  return 2 * rows * width * out / least(lambda: product(x, w))


def main() -> None:
  chosen = settings.RunSettings()
  shape = dataclasses.replace(chosen.rollout, max_new_tokens=64, max_prompt_tokens=32, prompt_bucket=8, cache_bucket=16)
  chosen = dataclasses.replace(chosen, rollout=shape, data=dataclasses.replace(chosen.data, train_rows=100))
  run = build.build(chosen, devices=jax.devices()[:1])
  params, rate = run.initial_params(), matmul_rate()
  size, rows, prompt = weights.count(run.config), shape.prompts * shape.group, 24
  prompts = [[3] * 20] * shape.prompts
  sizes = shape_of(shape, slots=rows, group=shape.group, samples=rows, shards=1, ahead=0)

  def rollout():
    slots = Slots(run.programs.rollout, sizes, Draw(jax.random.key(0), ()))
    for visit, ids in enumerate(prompts):
      slots.admit(visit, ids, range(shape.group))
    prepared, ended = run.programs.rollout.prepare(params), 0
    while ended < rows:
      ended += len(slots.chunk(prepared, 0))
    return ()

  columns = prompt + shape.max_new_tokens
  full = np.ones((rows, shape.max_new_tokens))
  batch = Batch(
    np.full((rows, columns), 3, np.int32), np.full(rows, 20, np.int32), np.full(rows, 84, np.int32), full > 0,
    full.astype(np.float32), full.astype(np.float32),
  )  # fmt: skip
  print(f"device {jax.devices()[0].device_kind}, jax {jax.__version__}, matmul {rate / 1e9:.0f} Gflop/s, {size:,} parameters")
  seconds = least(rollout)
  print(f"rollout {seconds:7.3f} s   {rows * shape.max_new_tokens / seconds:9.0f} tokens/s   "
        f"{2 * size * rows * shape.max_new_tokens / seconds / rate:6.1%} of matmul")  # fmt: skip
  for pieces in (1, 4, 8, 16):
    changed = dataclasses.replace(chosen, train=dataclasses.replace(chosen.train, micro_batches=pieces))
    programs = build.compile_programs(changed, run.config, run.mesh)
    state = programs.start_rl(params)

    def update():
      nonlocal state
      state, stats = programs.update(state, batch, 1.0)  # noqa: B023
      return stats["loss"]

    seconds = least(update)
    print(f"update, {pieces:2} micro-batches {seconds:7.3f} s   {rows * columns / seconds:9.0f} tokens/s   "
          f"{6 * size * rows * columns / seconds / rate:6.1%} of matmul")  # fmt: skip


if __name__ == "__main__":
  main()
