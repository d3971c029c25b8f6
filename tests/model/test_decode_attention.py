"""Laws of a decode step's attention: every kernel gives the sentence's numbers, and what lies beyond a length is not there."""

import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason import sharding
from jaxreason.errors import UserError
from jaxreason.model import attention, cache
from jaxreason.model.decode_attention import attend_decode, choose, write_decode
from jaxreason.sharding import MeshSizes

KERNELS = ("einsum", "pallas_gpu", "pallas_tpu")
kernels = pytest.mark.parametrize("kernel", KERNELS)
close = pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)], ids=["f32", "bf16"])

# (heads, kv heads, head dim), prompts, rows of each: SmolLM2-135M's, Qwen2.5-1.5B's, one kv head, as many as heads.
SHAPES = {"9on3": ((9, 3, 64), 3, 2), "12on2": ((12, 2, 128), 2, 8), "8on1": ((8, 1, 16), 4, 1), "4on4": ((4, 4, 32), 2, 2)}


def sentence(q, keys, values, lengths, prefix_keys=None, prefix_values=None, prefix_lengths=None, window=0, cap=0.0):
  """A row's softmax attention, head by head, over what is valid and nothing else, in float64."""
  out = np.zeros(q.shape)
  for b in range(q.shape[0]):
    for n in range(q.shape[1]):
      head = n // (q.shape[1] // keys.shape[1])
      k, v = keys[b, head, : lengths[b]], values[b, head, : lengths[b]]
      if prefix_keys is not None:
        p = b // (q.shape[0] // len(prefix_keys))
        k = np.concatenate([prefix_keys[p, head, : prefix_lengths[p]], k])
        v = np.concatenate([prefix_values[p, head, : prefix_lengths[p]], v])
      k, v = k[-window:], v[-window:]
      scores = k @ q[b, n] / np.sqrt(q.shape[2])
      scores = cap * np.tanh(scores / cap) if cap else scores
      weights = np.exp(scores - scores.max())
      out[b, n] = weights / weights.sum() @ v
  return out


def case(heads=(9, 3, 64), prompts=3, group=2, slots=48, prefix_slots=32, dtype=jnp.float32, garbage=None, seed=0):
  """(arrays of `attend_decode`, the same in float64): lengths of one, full and between, of the prefix also zero."""
  draw = np.random.default_rng(seed)
  (N, K, H), B = heads, prompts * group
  lengths = draw.integers(1, slots + 1, B).astype(np.int32)
  lengths[0], lengths[-1] = 1, slots
  prefix_lengths = draw.integers(0, prefix_slots + 1, prompts).astype(np.int32)
  prefix_lengths[0], prefix_lengths[-1] = 0, prefix_slots
  shapes = [(B, N, H), (B, K, slots, H), (B, K, slots, H), (prompts, K, prefix_slots, H), (prompts, K, prefix_slots, H)]
  q, *caches = (np.array(jnp.asarray(draw.normal(size=shape), dtype).astype(jnp.float32)) for shape in shapes)
  if garbage is not None:
    for array, last, filler in zip(caches, (lengths, lengths, prefix_lengths, prefix_lengths), garbage * 2, strict=True):
      beyond = np.arange(array.shape[2])[None] >= last[:, None]
      array[np.broadcast_to(beyond[:, None, :, None], array.shape)] = filler
  keys, values, prefix_keys, prefix_values = caches
  arrays = (q, keys, values, lengths, prefix_keys, prefix_values, prefix_lengths)
  wide = [x.astype(np.float64) if x.ndim > 1 else x for x in arrays]
  return tuple(jnp.asarray(x, dtype if x.ndim > 1 else jnp.int32) for x in arrays), wide


@functools.partial(jax.jit, static_argnames=("kernel", "window", "cap"))
def run(*arrays, kernel, **sees):
  return attend_decode(*arrays, kernel=kernel, interpret=True, **sees)


def check(arrays, wide, kernel, tolerance, **sees):
  got = run(*arrays, kernel=kernel, **sees)
  assert got.dtype == arrays[0].dtype
  np.testing.assert_allclose(np.asarray(got, np.float64), sentence(*wide, **sees), atol=tolerance, rtol=tolerance)


@kernels
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_kernel_is_the_sentence(kernel, shape):
  check(*case(*shape), kernel, 1e-5)


@kernels
def test_in_bfloat16_too(kernel):
  check(*case(dtype=jnp.bfloat16), kernel, 2e-2)


@kernels
def test_without_a_prefix(kernel):
  arrays, wide = case()
  check(arrays[:4], wide[:4], kernel, 1e-5)


@kernels
def test_over_several_blocks_and_the_end_of_the_last(kernel):
  """1,040 slots are two blocks and a bit for the TPU kernel, and neither number divides into large blocks for the other."""
  check(*case((4, 2, 16), 2, 2, slots=1040, prefix_slots=400), kernel, 1e-5)


@kernels
@pytest.mark.parametrize("sees", [{"window": 1}, {"window": 20, "cap": 2.0}, {"window": 700}, {"cap": 3.0}], ids=str)
def test_windows_and_capped_scores(kernel, sees):
  """A window ends in a row's own part, in its prompt, beyond both; rows of one lane begin theirs at different slots."""
  arrays, wide = case((4, 2, 16), 2, 3, slots=1040, prefix_slots=400)
  check(arrays, wide, kernel, 1e-5, **sees)
  check(arrays[:4], wide[:4], kernel, 1e-5, **sees)


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_what_lies_before_a_window_is_not_seen_either(kernel):
  """To the bit: what is masked weighs nothing, whatever it holds."""
  arrays, _ = case((4, 2, 16), 2, 3, slots=96, prefix_slots=32)
  q, keys, values, lengths, prefix_keys, prefix_values, prefix_lengths = arrays
  before = np.arange(96)[None] < np.asarray(lengths)[:, None] - 8
  drowned = [jnp.where(before[:, None, :, None], 1e3, x) for x in (keys, values)]
  others = [jnp.full_like(x, 1e3) for x in (prefix_keys, prefix_values)]
  lengths = jnp.maximum(lengths, 8)
  expected = run(q, keys, values, lengths, prefix_keys, prefix_values, prefix_lengths, kernel=kernel, window=8)
  got = run(q, *drowned, lengths, *others, prefix_lengths, kernel=kernel, window=8)
  np.testing.assert_array_equal(got, expected)


def test_pieces_of_a_row_are_put_together():
  """Few rows leave a GPU idle, so its kernel cuts the slots in pieces: of these, nine."""
  kernels = pytest.importorskip("jaxreason.model.decode_attention_gpu")
  (q, keys, values, lengths, *_), _ = case((4, 2, 16), 1, 2, slots=9 * 16)
  o, m, _ = kernels.attend_part(q.reshape(2, 2, 2, 16), keys, values, lengths, interpret=True)
  assert o.shape == (2, 2, 9, 2, 16) and (m[0, :, 1:] == attention.MASKED).all()


@pytest.mark.parametrize("kernel", KERNELS[1:])
@close
def test_nan_beyond_a_length_does_not_come_through_a_kernel(kernel, dtype, tolerance):
  for filler in (np.nan, np.inf):
    check(*case(dtype=dtype, garbage=(filler, filler)), kernel, tolerance)


@close
def test_nor_through_einsum_from_what_a_model_may_have_left_there(dtype, tolerance):
  """To the bit: a masked slot's weight is zero, not little."""
  for filler in ((1e4, 1e9), (-1e4, -1e9)):
    arrays, wide = case(dtype=dtype, garbage=filler)
    check(arrays, wide, "einsum", tolerance)
    clean, _ = case(dtype=dtype, garbage=(0.0, 0.0))
    np.testing.assert_array_equal(run(*arrays, kernel="einsum"), run(*clean, kernel="einsum"))


@close
def test_einsum_without_a_prefix_is_the_attention_of_any_step(dtype, tolerance):
  del tolerance
  (q, keys, values, lengths, *_), _ = case(dtype=dtype)
  mask = (jnp.arange(keys.shape[2])[None] < lengths[:, None])[:, None, None]
  whole = jax.jit(attention.attend)(q[:, None], keys, values, mask)[:, 0]
  np.testing.assert_array_equal(run(q, keys, values, lengths, kernel="einsum"), whole)


@kernels
@pytest.mark.parametrize("sizes", [MeshSizes(2, 2, 2), MeshSizes(8, 1, 1)], ids=["2x2x2", "8x1x1"])
def test_sharded_is_unsharded(kernel, sizes):
  """Rows over data and fsdp, kv heads over tensor; each device runs a kernel on what it holds and asks no other."""
  arrays, wide = case((4, 2, 16), prompts=8, group=2, slots=32, prefix_slots=16)
  mesh = sharding.make_mesh(sizes)
  cache = ("batch", "kv_heads", None, None)
  axes = (("batch", "heads", None), cache, cache, ("batch",), cache, cache, ("batch",))
  placed = [jax.device_put(x, sharding.sharding(mesh, names)) for x, names in zip(arrays, axes, strict=True)]
  with jax.set_mesh(mesh):
    program = run.lower(*placed, kernel=kernel).compile()
    got = program(*placed)
  np.testing.assert_allclose(got, sentence(*wide), atol=1e-5, rtol=1e-5)
  assert got.sharding.is_equivalent_to(sharding.sharding(mesh, axes[0]), 3)
  moved = ("all-gather", "all-to-all", "all-reduce", "collective-permute")
  assert [name for name in moved if f"{name}(" in program.as_text()] == []


@pytest.mark.parametrize(
  ("kernel", "head_dim", "slots"),
  [("einsum", 64, 24), *(("pallas_tpu", head_dim, slots) for head_dim in (64, 128) for slots in (24, 144))],
)
def test_what_is_written_is_what_the_cache_writes(kernel, head_dim, slots):
  """Where heads do not fill the lanes, and where they do; 144 slots are a block and a bit."""
  draw = np.random.default_rng(0)
  keys, values = (jnp.asarray(draw.normal(size=(4, 2, slots, head_dim)), jnp.bfloat16) for _ in range(2))
  new_keys, new_values = (jnp.asarray(draw.normal(size=(4, 2, head_dim)), jnp.float32) for _ in range(2))
  at = jnp.asarray([0, slots - 1, 17, 16], jnp.int32)
  got = jax.jit(functools.partial(write_decode, kernel=kernel, interpret=True))(keys, values, new_keys, new_values, at)
  np.testing.assert_array_equal(got[0], cache.write(keys, new_keys[:, None], at))
  np.testing.assert_array_equal(got[1], cache.write(values, new_values[:, None], at))


def test_a_sharded_write_is_an_unsharded_one():
  draw = np.random.default_rng(0)
  arrays = [jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in [(8, 2, 24, 16)] * 2 + [(8, 2, 16)] * 2]
  arrays.append(jnp.arange(8, dtype=jnp.int32))
  run_write = jax.jit(functools.partial(write_decode, kernel="pallas_tpu", interpret=True))
  with jax.set_mesh(sharding.make_mesh(MeshSizes(4, 1, 2))):
    got = run_write(*arrays)
  for sharded, whole in zip(got, run_write(*arrays), strict=True):
    np.testing.assert_array_equal(sharded, whole)


def test_what_the_gpu_kernel_is_made_of_is_where_it_was():
  """Pallas for Triton is to leave JAX one day; until then a failure here says which name moved."""
  importlib.import_module("jax.experimental.pallas")
  triton = importlib.import_module("jax.experimental.pallas.triton")
  assert [name for name in ("load", "store", "dot", "CompilerParams") if not hasattr(triton, name)] == []


QWEN = {"heads": 12, "kv_heads": 2, "head_dim": 128, "rows": 128, "slots": 64, "prompts": 16, "prefix_slots": 16}


def test_a_platform_gets_its_kernel_and_a_line_that_says_why():
  for platform, kernel in {"cpu": "einsum", "gpu": "pallas_gpu", "cuda": "pallas_gpu", "tpu": "pallas_tpu"}.items():
    got, reason = choose(platform, **QWEN)
    assert got == kernel and reason and "\n" not in reason


@pytest.mark.parametrize(
  ("platform", "changed", "word"),
  [
    ("gpu", {"head_dim": 80}, "80"),
    ("gpu", {"slots": 24}, "24"),
    ("gpu", {"prefix_slots": 8}, "prefix slots"),
    ("tpu", {"head_dim": 20}, "20"),
    ("rocm", {}, "rocm"),
  ],
)
def test_a_shape_that_does_not_fit_gets_einsum_and_the_reason(platform, changed, word):
  kernel, reason = choose(platform, **(QWEN | changed))
  assert kernel == "einsum" and word in reason


def test_so_does_a_jax_without_pallas_for_triton(monkeypatch):
  assert choose("gpu", **QWEN)[0] == "pallas_gpu"
  for package, module in (("jaxreason.model", "decode_attention_gpu"), ("jax.experimental.pallas", "triton")):
    monkeypatch.delattr(f"{package}.{module}")
    monkeypatch.setitem(sys.modules, f"{package}.{module}", None)
  kernel, reason = choose("gpu", **QWEN)
  assert kernel == "einsum" and "Triton" in reason


def test_so_do_rows_prompts_and_heads_that_do_not_divide():
  mesh = sharding.make_mesh(MeshSizes(4, 1, 2))
  assert choose("tpu", **QWEN, mesh=mesh)[0] == "pallas_tpu"
  for changed in ({"rows": 126}, {"prompts": 2}, {"kv_heads": 3}):
    kernel, reason = choose("tpu", **(QWEN | changed), mesh=mesh)
    assert kernel == "einsum" and "does not divide" in reason


def test_half_a_prefix_a_lane_too_short_and_an_unknown_kernel_are_refused():
  arrays, _ = case()
  with pytest.raises(UserError, match="prefix"):
    attend_decode(*arrays[:5])
  with pytest.raises(UserError, match="5 rows do not divide over 3 prompts"):
    attend_decode(arrays[0][:5], arrays[1][:5], arrays[2][:5], arrays[3][:5], *arrays[4:])
  with pytest.raises(UserError, match="pallas_tpu"):
    attend_decode(*arrays, kernel="triton")
