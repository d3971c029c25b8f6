"""How near an update comes to what the machine can do, and what packing and chunked log-probabilities save.

    python -m benchmarks.update [--only share,packed,head,prefix,quickstart] [--model smollm2|tiny] [--repeats 2]
    python -m benchmarks.update --only mfu [--model smollm2|qwen]       # on an accelerator

Random weights of SmolLM2-135M's shape; a whole update is timed, AdamW and clipping included. `share` is of the rate of one
large product, measured before and after, at 6 flops per parameter and token, which counts the output matrix at prompts too;
`at what is computed` counts it at completions only. Each ratio's two sides take turns and the fastest turn of each counts.
Memory of the loss head is what the compiler plans for temporaries and results. The last rows are the quickstart's own shapes.
Each figure is printed beside what this project asks of it on two CPU cores.
"""

import argparse
import dataclasses
import functools
import statistics
import types

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import losses
from benchmarks.measuring import MODELS, by_turns, matmul_rate, show
from jaxreason import optimizer, packing, update
from jaxreason.model import training_attention, weights
from jaxreason.model.config import ModelConfig
from jaxreason.objective import Objective
from jaxreason.optimizer import OptimizerConfig
from jaxreason.plan import chips
from jaxreason.records import Batch

CHUNK_TOKENS = 512  # positions whose logits are in memory at once, in all rows
QUICKSTART = ModelConfig(vocab_size=17, embed=128, layers=4, heads=4, kv_heads=4, head_dim=32, mlp=512)


def batch(prompts, totals, vocab: int, width: int | None = None) -> Batch:
  """Random tokens in samples of these lengths; `width` completion columns, or as many as the longest has."""
  prompts, totals = np.asarray(prompts, np.int32), np.asarray(totals, np.int32)
  width = width or int((totals - prompts).max())
  shape = (len(totals), width)
  generator = np.random.default_rng(0)
  tokens = generator.integers(1, vocab, (len(totals), int(prompts.max()) + width)).astype(np.int32)
  mask = np.arange(width)[None] < (totals - prompts)[:, None]
  behavior = np.full(shape, -np.log(vocab), np.float32)
  advantages = generator.standard_normal(shape).astype(np.float32)
  return Batch(tokens, prompts, totals, mask, behavior_logprobs=behavior, advantages=advantages)


def packed(given: Batch, row_tokens: int, micro_batches: int, group: int = 1) -> Batch:
  """The batch with a layout; `group` samples share their prompt."""
  columns = given.tokens.shape[1]
  sizes = dict(columns=columns, row_tokens=row_tokens, micro_batches=micro_batches, group=group, blocks=True)
  return given.replace(layout=packing.pack(given.prompt_lengths, given.lengths, **sizes))


class Update:
  """One compiled update and the state that it goes on from: `run()` makes a step and gives its loss."""

  def __init__(self, config: ModelConfig, given: Batch, micro_batches: int, chunk_tokens: int = CHUNK_TOKENS):
    transformation = optimizer.transformation(OptimizerConfig(), 10, weights.roles(config))
    step = functools.partial(
      update.update, config=config, objective=Objective(), transformation=transformation,
      micro_batches=micro_batches, chunk_tokens=chunk_tokens,
    )  # fmt: skip
    start = functools.partial(update.initialize, transformation=transformation)
    self._state = jax.jit(lambda key: start(weights.initialize(config, key)))(jax.random.key(0))
    self._batch = jax.device_put(given)
    self.compiled = jax.jit(step, donate_argnums=0).lower(self._state, self._batch, 1.0).compile()

  def run(self):
    self._state, stats = self.compiled(self._state, self._batch, 1.0)
    return stats["loss"]

  @property
  def temporaries(self) -> int:
    """Bytes beside state and batch, as the compiler plans them."""
    return self.compiled.memory_analysis().temp_size_in_bytes


def share(config: ModelConfig, dtype: str, asked: float, repeats: int) -> dict:
  """Share of the matmul rate: 32 samples of 46 + 64 tokens in 4 micro-batches."""
  config, dtype_ = dataclasses.replace(config, compute_dtype=dtype), jnp.dtype(dtype)
  given = batch(np.full(32, 46), np.full(32, 110), config.vocab_size)
  rate = matmul_rate(dtype_)
  step = Update(config, given, 4)
  (took,) = by_turns([step.run], repeats)
  rate, size, head = max(rate, matmul_rate(dtype_)), weights.count(config), config.vocab_size * config.embed
  tokens, completion = int(given.lengths.sum()), int(given.mask.sum())
  computed = 6 * ((size - head) * tokens + head * completion)
  return {
    "work": f"update, {dtype}, 32 samples of 46 + 64 tokens",
    "s": took, "tokens/s": tokens / took, "Gflop/s at most": rate / 1e9,
    "at what is computed": computed / took / rate, "share": 6 * size * tokens / took / rate, "asked": asked,
  }  # fmt: skip


def mfu(config: ModelConfig, asked: float, repeats: int) -> list[dict]:
  """Share of the chip's stated bfloat16 rate, 6 flops per parameter and token: 32 samples of 256 + 768 tokens, by what is kept
  for the backward pass and by micro-batches; attention's products and what is computed twice count nothing."""
  device = jax.devices()[0]
  kernel, why = training_attention.choose(
    device.platform, heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim
  )
  peak = chips.CHIPS["h100"].flops if "H100" in device.device_kind or "H200" in device.device_kind else float("nan")
  print(f"training attention: {why}; one large bfloat16 product reaches "
        f"{matmul_rate(jnp.dtype('bfloat16')) / 1e12:.0f} Tflop/s, stated are {peak / 1e12:.0f}")  # fmt: skip
  given, found = batch(np.full(32, 256), np.full(32, 1024), config.vocab_size), []
  tokens = int(given.lengths.sum())
  for remat, micro_batches, kernel_ in (
    ("none", 8, kernel), ("attention", 4, kernel), ("attention", 2, kernel), ("block", 4, kernel), ("block", 2, kernel)
  ):  # fmt: skip
    one = dataclasses.replace(config, compute_dtype="bfloat16", attention=kernel_, remat=remat)
    name = f"update, bfloat16, 32 of 256 + 768, {kernel_}, remat {remat}, {micro_batches} micro-batches"
    try:
      step = Update(one, given, micro_batches, chunk_tokens=2048)
      (took,) = by_turns([step.run], repeats)
    except jax.errors.JaxRuntimeError as error:
      print(f"{name}: {str(error).splitlines()[0][:150]}", flush=True)
      continue
    planned = step.temporaries / 1e9
    del step
    share = 6 * weights.count(config) * tokens / took / peak
    found.append({"work": name, "s": took, "tokens/s": tokens / took, "temporary GB": planned, "mfu": share, "asked": asked})
    show(found[-1])
  return found


def long_tailed(samples: int, longest: int, ratio: float = 0.3) -> np.ndarray:
  """Lengths at the middles of a lognormal law's equal parts, with this mean over the longest, in an order drawn at random."""
  normal = statistics.NormalDist()
  z = np.array([normal.inv_cdf((i + 0.5) / samples) for i in range(samples)])
  shapes = [np.exp(sigma * (z - z[-1])) for sigma in np.linspace(0.01, 2, 400)]
  nearest = min(shapes, key=lambda shape: abs(shape.mean() - ratio))
  return np.random.default_rng(0).permutation(np.maximum(np.round(longest * nearest), 10)).astype(np.int32)


def over(name: str, config: ModelConfig, sides, asked: float | None, repeats: int) -> dict:
  """Tokens a second of the second side over the first; both are (batch, micro-batches) of the same samples."""
  slow, fast = by_turns([Update(config, *side).run for side in sides], repeats, warm_up=0)
  columns = [given.tokens.size if given.layout is None else given.layout.rows.size for given, _ in sides]
  return {
    "work": name, "tokens": int(sides[0][0].lengths.sum()), "columns": columns[0], "and": columns[1],
    "s": slow, "and s": fast, "ratio": slow / fast, "asked": asked,
  }  # fmt: skip


def packed_over_padded(config: ModelConfig, repeats: int) -> dict:
  """A row for each sample, as long as the longest, against packed rows; nothing is shared."""
  totals = long_tailed(32, 192)
  given = batch(np.full(32, 8), totals, config.vocab_size)
  name = f"packed over padded, lognormal, mean/max {totals.mean() / totals.max():.2f}"
  return over(name, config, [(given, 2), (packed(given, 256, 2), 2)], 2.5, repeats)


def shared_prefix(config: ModelConfig, repeats: int) -> dict:
  """4 prompts of 64 tokens x 8 answers of 64: a row for each sample, without any padding, against a row for each group;
  each side in the micro-batches that were fastest for it."""
  given = batch(np.full(32, 64), np.full(32, 128), config.vocab_size)
  sides = [(given, 4), (packed(given, 64 + 8 * 64, 2, group=8), 2)]
  return over("prompt once for its 8 samples, 64 + 64 tokens", config, sides, 1.5, repeats)


def head(vocab: int, embed: int) -> dict:
  """Planned memory of the loss head, chunked against all logits: 32 x 64 completion tokens, log-probability and entropy."""
  given = types.SimpleNamespace(tokens=32 * 64, rows=32, embed=embed, vocab=vocab, chunk=CHUNK_TOKENS // 4, dtype="float32")
  plain, chunked = (losses.planned(losses.program(given, name, 2)) for name in ("plain", "chunked"))
  return {
    "work": f"loss head, V={vocab:,}, chunks of {given.chunk} of {given.tokens}", "all logits GB": 4e-9 * given.tokens * vocab,
    "plain GB": plain / 1e9, "chunked GB": chunked / 1e9, "ratio": chunked / plain, "asked": 0.25,
  }  # fmt: skip


def quickstart(repeats: int) -> list[dict]:
  """The quickstart's steps, lengths as its problems have them: a row for each sample against packed rows."""
  generator = np.random.default_rng(0)
  terms = np.repeat(generator.integers(6, 11, 32), 8)
  written = np.minimum(4 * (terms - 1) + 6 + generator.integers(-2, 3, 256), 48)
  policy = batch(2 * terms, 2 * terms + written, QUICKSTART.vocab_size, 48)
  terms = generator.integers(6, 11, 64)
  written = np.where(generator.random(64) < 0.45, 4 * (terms - 1) + 5, 4)
  supervised = batch(2 * terms, 2 * terms + written, QUICKSTART.vocab_size, 48)
  policies = [(policy, 8), (packed(policy, 192, 8, group=8), 8)]
  demonstrations = [(supervised, 1), (packed(supervised, 128, 1), 1)]
  return [
    over("quickstart, rows of 192, prompt once, over padded", QUICKSTART, policies, None, repeats),
    over("quickstart, supervised, rows of 128, over padded", QUICKSTART, demonstrations, None, repeats),
  ]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", default="share,packed,head,prefix,quickstart")
  parser.add_argument("--model", default="smollm2", choices=MODELS)
  parser.add_argument("--repeats", type=int, default=2)
  given = parser.parse_args()
  parts, config = given.only.split(","), MODELS[given.model]
  print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {given.model} shape, {weights.count(config):,} parameters")
  if "share" in parts:
    show(share(config, "float32", 0.50, given.repeats))
    show(share(config, "bfloat16", 0.38, given.repeats))
  if "mfu" in parts:
    mfu(config, {"smollm2": 0.15, "qwen": 0.35}.get(given.model), given.repeats)
  if "packed" in parts:
    show(packed_over_padded(config, given.repeats))
  if "prefix" in parts:
    show(shared_prefix(config, given.repeats))
  if "head" in parts:
    show(head(49_152, config.embed))
    show(head(151_936, config.embed))
  if "quickstart" in parts:
    for row in quickstart(given.repeats):
      show(row)


if __name__ == "__main__":
  main()
