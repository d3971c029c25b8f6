"""What packing spares: gradients of a policy step and of a supervised step, a row for each sample against packed rows.

    python -m benchmarks.packing

Random tokens at the quickstart's sizes and at lengths as its problems have them. Prints seconds (median of five) and the
columns that are computed; figures of one run count against each other.
"""

import functools
import statistics
import time

import jax
import numpy as np

from jaxreason import packing, update
from jaxreason.model import weights
from jaxreason.model.config import ModelConfig
from jaxreason.objective import SFT, Objective
from jaxreason.records import Batch

CONFIG = ModelConfig(vocab_size=17, embed=128, layers=4, heads=4, kv_heads=4, head_dim=32, mlp=512)


def seconds(call) -> float:
  """Median of five calls, after one that compiles."""
  jax.block_until_ready(call())
  times = []
  for _ in range(5):
    began = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - began)
  return statistics.median(times)


def batch(prompts, written, width: int) -> Batch:
  """Samples of these lengths, `width` completion columns."""
  rows, columns = len(prompts), int(prompts.max()) + width
  tokens = np.random.default_rng(0).integers(1, CONFIG.vocab_size, (rows, columns)).astype(np.int32)
  ones = np.ones((rows, width), np.float32)
  mask = np.arange(width)[None] < written[:, None]
  return Batch(tokens, prompts, prompts + written, mask, behavior_logprobs=-ones, advantages=ones)


def table(name: str, objective: Objective, given: Batch, group: int, choices) -> None:
  params = jax.jit(functools.partial(weights.initialize, CONFIG))(jax.random.key(0))
  print(f"{name}: {len(given.lengths)} samples, {int(given.lengths.sum())} tokens")
  for row_tokens, shared, pieces in choices:
    layout = None
    if row_tokens:
      layout = packing.pack(
        given.prompt_lengths, given.lengths, columns=given.tokens.shape[1], row_tokens=row_tokens, micro_batches=pieces,
        group=group if shared else 1,
      )  # fmt: skip
    gradients = jax.jit(functools.partial(update.value_and_gradients, config=CONFIG, objective=objective, micro_batches=pieces))
    taken = seconds(functools.partial(gradients, params, given.replace(layout=layout), 1.0))
    rows = f"rows of {row_tokens}{', prompt once' if shared else ''}" if row_tokens else "a row for each sample"
    columns = given.tokens.size if layout is None else layout.rows.size
    print(f"  {rows:28} {pieces:2} micro-batches {columns:7} columns {taken:7.3f} s")


def main() -> None:
  generator = np.random.default_rng(0)
  print(f"device {jax.devices()[0].device_kind}, jax {jax.__version__}, {weights.count(CONFIG):,} parameters")
  terms = np.repeat(generator.integers(6, 11, 32), 8)
  written = np.minimum(4 * (terms - 1) + 6 + generator.integers(-2, 3, 256), 48)
  policy = batch((2 * terms).astype(np.int32), written.astype(np.int32), 48)
  table("policy step", Objective(), policy, 8, [(0, False, 8), (192, False, 8), (192, True, 8)])
  terms = generator.integers(6, 11, 64)
  written = np.where(generator.random(64) < 0.45, 4 * (terms - 1) + 5, 4)
  table(
    "supervised step",
    SFT,
    batch((2 * terms).astype(np.int32), written.astype(np.int32), 48),
    1,
    [(0, False, 1), (128, False, 1)],
  )


if __name__ == "__main__":
  main()
