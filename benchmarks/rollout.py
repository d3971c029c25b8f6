"""How near a rollout comes to what the machine can do, and what refill and continuous mode save.

    python -m benchmarks.rollout [--only decode,naive,prefill,tail,continuous] [--model smollm2|qwen] [--json FILE]

Random weights of SmolLM2-135M's shape (or Qwen2.5-1.5B's), float32 on CPU and bfloat16 elsewhere. Limits are measured in the
same run: read bandwidth as the sum of a large array, the matmul rate as one large product in the compute dtype. A decode step
must read every weight and every key and value once, and multiply each weight by each row: its limit is the sum of both times.
Each ratio is printed beside what this project asks of it on two CPU cores.
"""

import argparse
import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxreason import build
from jaxreason.model import cache as caches
from jaxreason.model import decoder, weights
from jaxreason.model.config import ModelConfig
from jaxreason.rollout.config import Shape
from jaxreason.rollout.engine import Draw, Engine, Placing
from jaxreason.rollout.slots import Slots

MODELS = {
  "smollm2": ModelConfig(vocab_size=49_152, embed=576, layers=30, heads=9, kv_heads=3, head_dim=64, mlp=1536),
  "qwen": ModelConfig(vocab_size=151_936, embed=1536, layers=28, heads=12, kv_heads=2, head_dim=128, mlp=8960, qkv_bias=True),
  "tiny": ModelConfig(vocab_size=512, embed=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=128),
}
REPEATS = 6


def seconds(call, repeats: int = REPEATS) -> float:
  """Of the fastest of several calls, after one that compiles."""
  jax.block_until_ready(call())
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - began)
  return min(times)


def limits(dtype) -> tuple[float, float]:
  """(bytes read, flops) a second."""
  large = jnp.ones(2**27 if jax.default_backend() == "cpu" else 2**30, jnp.float32)
  total = jax.jit(jnp.sum)
  side = 3072 if jax.default_backend() == "cpu" else 8192
  x = jnp.ones((side, side), dtype)
  product = jax.jit(lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32))
  return large.nbytes / seconds(lambda: total(large)), 2 * side**3 / seconds(lambda: product(x, x))


def decode_step(programs, params, config: ModelConfig, rows: int, positions: int, lane: int, steps: int = 16) -> float:
  """Seconds of one decode step of `rows` slots whose prompt and own part are `positions` wide together."""
  prefix, own = positions // 4, positions - positions // 4
  width = own if lane > 1 else positions  # a lane's prompt lies apart
  shape = Shape(rows, lane, own, steps, (rows,), (max(1, rows // lane),), prefix, width, ahead=0)
  engine = Engine(programs, shape, Draw(jax.random.key(0), (config.vocab_size,)))
  prompts = engine.prefill(params, [np.full(prefix, 3, np.int32)] * (rows // lane))
  engine.place(params, [Placing(slot, prompts[slot // lane], slot // lane, slot % lane) for slot in range(rows)])

  def chunk():
    if engine.steps + steps > own:
      engine.steps = 0
      engine.place(params, [Placing(slot, prompts[slot // lane], slot // lane, slot % lane) for slot in range(rows)])
      jax.block_until_ready(engine.written())
    began = time.perf_counter()
    engine.decode(params, 0, range(rows))
    engine.read()
    return time.perf_counter() - began

  chunk()
  return min(chunk() for _ in range(2 * REPEATS)) / steps


def decode(programs, params, config: ModelConfig, shapes, asked: dict) -> list[dict]:
  """Share of the limit that decode steps reach; limits are measured again beside each."""
  size = jnp.dtype(config.compute_dtype).itemsize
  read = weights.count(config) * size
  found = []
  for rows, positions, lane in shapes:
    held = 2 * config.layers * config.kv_heads * config.head_dim * size
    # A lane's prompt is read once for its rows.
    cache = held * (rows // lane * (positions // 4) + rows * (positions - positions // 4))
    took = decode_step(programs, params, config, rows, positions, lane)
    bandwidth, rate = limits(jnp.dtype(config.compute_dtype))
    limit = (read + cache) / bandwidth, 2 * weights.count(config) * rows / rate
    found.append({
      "work": f"decode, {rows} slots{f' in lanes of {lane}' if lane > 1 else ''}, {positions} positions",
      "ms": 1e3 * took, "share": sum(limit) / took, "share of bandwidth": limit[0] / took, "asked": asked.get((rows, lane)),
    })  # fmt: skip
  return found


def naive_step(config: ModelConfig, rows: int, positions: int) -> float:
  """Seconds of a decode step as first written: stacked weights, the cache through `scan` and back, a Gumbel a logit."""
  params = weights.initialize(config, jax.random.key(0))
  one = dataclasses.replace(config, layers=1)
  shape = (config.layers, rows, config.kv_heads, positions, config.head_dim)

  def step(params, keys, values, used, token, key):
    x = decoder.embed(params, config, token[:, None])

    def layer(x, part):
      block, k, v = part
      cache = caches.Cache((k,), (v,), used)
      x, cache = decoder._run_with_cache((block,), one, x, used[:, None], cache)
      return x, (cache.keys[0], cache.values[0])

    x, (keys, values) = jax.lax.scan(layer, x, (params.blocks, keys, values))
    logits = decoder.unembed(params, config, decoder.rms_norm(x, params.final_norm, config.norm_eps)[:, 0])
    token = jax.random.categorical(key, logits)
    logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)
    return keys, values, used + 1, token.astype(jnp.int32), logprob

  jitted = jax.jit(step, donate_argnums=(1, 2))
  state = (jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(rows, jnp.int32), jnp.full(rows, 3, jnp.int32))

  def run():
    nonlocal state
    *state, _ = jitted(params, *state, jax.random.key(1))
    return state

  return seconds(run)


def prefill(programs, params, config: ModelConfig) -> dict:
  """Share of the matmul rate that a prefill of 4 x 256 tokens reaches; the output matrix takes no part in it."""
  tokens, lengths = np.full((4, 256), 3, np.int32), np.full(4, 256, np.int32)
  took = seconds(lambda: programs.extend(params, tokens, lengths))
  _, rate = limits(jnp.dtype(config.compute_dtype))
  flops = 2 * (weights.count(config) - config.vocab_size * config.embed) * tokens.size
  return {"work": "prefill, 4 x 256 tokens", "ms": 1e3 * took, "share": flops / took / rate, "asked": 0.60}


def lengths_of(samples: int, seed: int, median: float = 60, sigma: float = 0.9, cap: int = 512) -> np.ndarray:
  """Tokens of long-tailed answers."""
  drawn = np.random.default_rng(seed).lognormal(np.log(median), sigma, samples)
  return np.clip(np.round(drawn), 1, cap).astype(int)


def refill(programs, params, config: ModelConfig, prompts: int, group: int, slots: int, chunk: int, seed: int) -> tuple:
  """(decode steps, ideal steps) of one synchronous batch."""
  shape = Shape(slots, 1, 512, chunk, (max(1, slots // 8), slots), (1, max(1, slots // group)), 16, 64, ahead=0)
  held = Slots(programs, shape, Draw(jax.random.key(0), (config.vocab_size,)))
  lengths = lengths_of(prompts * group, seed).reshape(prompts, group)
  for visit in range(prompts):
    held.admit(visit, np.full(16, 3, np.int32), range(group), budgets=dict(enumerate(lengths[visit].tolist())))
  while held.running or held.waiting:
    for written in held.chunk(params, 0):
      held.release(written.name)
  return held.steps, int(lengths.sum()) / slots


def show(row: dict) -> None:
  asked = "" if row.get("asked") is None else f"   asked {row['asked']:g}"
  numbers = "   ".join(f"{name} {value:.3g}" for name, value in row.items() if name not in ("work", "asked"))
  print(f"{row['work']:58} {numbers}{asked}", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", default="decode,naive,prefill,tail,continuous")
  parser.add_argument("--model", default="smollm2", choices=MODELS)
  arguments = parser.parse_args()
  parts, on_cpu = arguments.only.split(","), jax.default_backend() == "cpu"
  config = dataclasses.replace(MODELS[arguments.model], compute_dtype="float32" if on_cpu else "bfloat16")
  programs = build.rollout_programs(config)
  params = programs.prepare(jax.jit(functools.partial(weights.initialize, config))(jax.random.key(0)))
  bandwidth, rate = limits(jnp.dtype(config.compute_dtype))
  print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {config.compute_dtype}: reads {bandwidth / 1e9:.1f} GB/s, "
        f"multiplies {rate / 1e9:.0f} Gflop/s; {arguments.model} shape, {weights.count(config):,} parameters")  # fmt: skip
  shapes = [(1, 256, 1), (8, 256, 1), (32, 256, 1), (32, 256, 8)] if on_cpu else [(256, 512, 1), (256, 512, 8), (128, 1024, 1)]
  asked = {(1, 1): 0.65, (8, 1): 0.50, (32, 1): 0.55} if on_cpu else {}
  found = []
  if "decode" in parts:
    found += decode(programs, params, config, shapes, asked)
    for row in found:
      show(row)
  if "naive" in parts:
    ours = decode_step(programs, params, config, 32, 256, 1)
    theirs = naive_step(config, 32, 256)
    show({"work": "decode 32 slots, over scan and categorical", "ratio": theirs / ours, "asked": 3.5})
  if "prefill" in parts:
    show(prefill(programs, params, config))
  if "tail" in parts:
    little = MODELS["tiny"]
    made = build.rollout_programs(little)
    tiny = made.prepare(weights.initialize(little, jax.random.key(0)))
    ratios = [steps / ideal for steps, ideal in (refill(made, tiny, little, 16, 8, 32, 8, seed) for seed in range(20))]
    told = {"mean": float(np.mean(ratios)), "most": max(ratios), "asked": 1.9}
    show({"work": "steps over ideal, refill, 16 x 8 in 32 slots"} | told)


if __name__ == "__main__":
  main()
