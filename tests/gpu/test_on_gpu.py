"""Laws of what runs on a GPU alone: its kernels, compiled and not interpreted, give plain XLA's numbers, and what a rollout
records is what the update's program computes.

    make test-gpu
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.measuring import MODELS
from benchmarks.whole import WholeStep
from jaxreason import build, policy, settings
from jaxreason.model import weights
from jaxreason.model.decode_attention import attend_decode, choose
from jaxreason.model.training_attention import attend_rows
from jaxreason.sharding import MeshSizes, make_mesh

pytestmark = pytest.mark.gpu

# (heads, kv heads, head dim), dtype
SHAPES = [((9, 3, 64), "bfloat16"), ((12, 2, 128), "bfloat16"), ((12, 2, 128), "float32"), ((4, 1, 256), "bfloat16")]
shapes = pytest.mark.parametrize(("shape", "dtype"), SHAPES, ids=str)
sees = pytest.mark.parametrize("sees", [{}, {"window": 37, "cap": 2.0}], ids=str)
# By dtype: of float32 Triton's products are tf32, 10 bits of mantissa.
CLOSE = {"float32": 5e-3, "bfloat16": 3e-2}


@pytest.fixture(autouse=True)
def exact_products():
  assert jax.default_backend() == "gpu", f"expected a GPU, got {jax.default_backend()}"
  with jax.default_matmul_precision("highest"):
    yield


def near(got, expected, dtype):
  """By norm, and no element far off."""
  got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
  assert np.isfinite(got).all()
  assert np.linalg.norm(got - expected) <= CLOSE[dtype] * np.linalg.norm(expected)


@shapes
@sees
def test_decode_attention_is_plain_xlas(shape, sees, dtype):
  (N, K, H), prompts, group, slots, prefix = shape, 4, 8, 256, 64
  draw = np.random.default_rng(0)
  made = lambda *size: jnp.asarray(draw.normal(size=size), dtype)
  rows = prompts * group
  lengths = jnp.asarray(draw.integers(1, slots + 1, rows), jnp.int32).at[0].set(1).at[-1].set(slots)
  held = jnp.asarray(draw.integers(0, prefix + 1, prompts), jnp.int32).at[0].set(0)
  arrays = (made(rows, N, H), made(rows, K, slots, H), made(rows, K, slots, H), lengths)
  arrays += (made(prompts, K, prefix, H), made(prompts, K, prefix, H), held)
  for given in (arrays, arrays[:4]):
    wide = [x if x.dtype == jnp.int32 else x.astype(jnp.float32) for x in given]
    got = jax.jit(lambda *x: attend_decode(*x, kernel="pallas_gpu", **sees))(*given)
    near(got, attend_decode(*wide, kernel="einsum", **sees), dtype)


@shapes
@sees
def test_training_attention_and_its_gradients_are_plain_xlas(shape, sees, dtype):
  (N, K, H), B, T = shape, 2, 640
  draw = np.random.default_rng(0)
  q, k, v, weigh = (jnp.asarray(draw.normal(size=(B, T, heads, H)), dtype) for heads in (N, K, K, N))
  lengths = [[200, 300, 100], [37, 500, 103]]
  groups = np.stack([np.pad(np.repeat([1, 2, 3], row), (0, T - sum(row))) for row in lengths]).astype(np.int32)
  # Two responses behind the prompt of the second group.
  responses = np.where(groups == 2, np.maximum(np.cumsum(groups == 2, axis=1) - 50, 0) // 100, 0).astype(np.int32)
  positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))

  def gradients(kernel, *arrays):
    def total(q, k, v):
      out = attend_rows(kernel, (jnp.asarray(groups), jnp.asarray(responses)), B, T, positions=positions, **sees)(q, k, v)
      return jnp.sum(out.astype(jnp.float32) * weigh.astype(jnp.float32)), out

    return jax.tree.leaves(jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*arrays))

  wide = [x.astype(jnp.float32) for x in (q, k, v)]
  for got, expected in zip(gradients("pallas_gpu", q, k, v), gradients("einsum", *wide), strict=True):
    near(got, expected, dtype)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 0.25)])
def test_a_rollout_records_what_the_update_computes(dtype, most):
  """By the kernels that a GPU is given, on SmolLM2-135M's shape: nats at the worst of 2,048 tokens."""
  config = dataclasses.replace(MODELS["smollm2"], compute_dtype=dtype, layers=8)
  kernel, _ = choose("gpu", heads=9, kv_heads=3, head_dim=64, rows=32, slots=128, prompts=4, prefix_slots=64)
  assert kernel == "pallas_gpu"
  chosen = settings.RunSettings()
  rollout = dataclasses.replace(chosen.rollout, prompts=4, group=8, max_new_tokens=64, max_prompt_tokens=64)
  chosen = dataclasses.replace(chosen, rollout=rollout, model=dataclasses.replace(chosen.model, compute_dtype=dtype))
  config = build.settled(config, chosen, make_mesh(MeshSizes(), jax.devices()[:1]))
  assert (config.attention, config.compute_dtype) == ("pallas_gpu", dtype)
  params = jax.jit(lambda key: weights.initialize(config, key))(jax.random.key(0))
  prompts = np.random.default_rng(0).integers(3, config.vocab_size, (4, 46)).tolist()
  step = WholeStep(chosen, config, params, prompts, lambda samples: [sum(tokens) % 7 / 7 for tokens in samples])
  batch = step.batch(*step.rollout())
  read, *_ = jax.jit(policy.completion_logprobs, static_argnums=(1, 5))(
    step.state.params, config, batch.tokens, batch.prompt_lengths, batch.lengths, batch.mask.shape[1], temperature=1.0
  )
  far = np.abs(np.asarray(read) - np.asarray(batch.behavior_logprobs))[np.asarray(batch.mask)]
  print(f"{dtype}: mean {far.mean():.2e}, most {far.max():.2e} nats of {far.size} tokens")
  assert far.max() <= most and far.mean() <= most / 10
  before = jax.tree.leaves(step.state.params)[0].copy()
  stats = step()
  assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(stats))
  assert (np.asarray(before) != np.asarray(jax.tree.leaves(step.state.params)[0])).any()
