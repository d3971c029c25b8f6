"""Laws of attention over whole rows: every kernel gives plain XLA's numbers and gradients, and none looks across segments."""

import dataclasses
import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxreason import build, packing, policy, settings, sharding
from jaxreason.errors import UserError
from jaxreason.model import decoder, training_attention
from jaxreason.model.training_attention import attend_rows, choose
from jaxreason.sharding import MeshSizes

KERNELS = training_attention.KERNELS[1:]
kernels = pytest.mark.parametrize("kernel", KERNELS)
B, T, N, K, H = 2, 300, 4, 2, 16


def marked(*pieces):
  """[T] int32 of (number, how many) pieces, 0 behind them."""
  row = np.concatenate([np.full(count, number, np.int32) for number, count in pieces])
  return np.pad(row, (0, T - len(row)))


# Three samples and padding; one long sample behind a short one, and a number that comes again in another piece.
SEGMENTS = np.stack([marked((1, 140), (2, 70), (7, 60)), marked((5, 20), (3, 200), (5, 80))])
# Responses behind the prompts of the same rows: one prompt has three of them, one none.
RESPONSES = np.stack([marked((0, 40), (1, 30), (2, 30), (3, 40), (0, 80), (4, 50)), marked((0, 60), (8, 160), (9, 20))])
ROWS = {"segments": SEGMENTS, "shared prompts": (SEGMENTS, RESPONSES)}
rows = pytest.mark.parametrize("segments", ROWS.values(), ids=ROWS)


def positions_of(segments):
  """[B, T] int32, columns behind a segment's first; of a response, counted on from its prompt."""
  group, response = segments if isinstance(segments, tuple) else (segments, np.zeros_like(segments))
  found = np.zeros((B, T), np.int32)
  for b in range(B):
    for number in set(group[b]):
      prompt = (group[b] == number) & (response[b] == 0)
      for answer in set(response[b][group[b] == number]):
        own = np.flatnonzero((group[b] == number) & (response[b] == answer))
        found[b, own] = own - own[0] + (prompt.sum() if answer else 0)
  return found


@functools.cache
def arrays():
  """(q, k, v, weights of the outputs)"""
  draw = np.random.default_rng(0)
  return tuple(jnp.asarray(draw.normal(size=(B, T, heads, H)), jnp.float32) for heads in (N, K, K, N))


@functools.partial(jax.jit, static_argnames=("kernel", "window", "cap"))
def attended(q, k, v, weights, segments, kernel, positions=None, **sees):
  """(gradients of q, k and v, what attention gave)"""

  def total(q, k, v):
    out = attend_rows(kernel, segments, B, T, positions=positions, interpret=True, **sees)(q, k, v)
    return jnp.sum(out.astype(jnp.float32) * weights), out

  return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)


def check(got, expected, tolerance=1e-5):
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(np.asarray(one, np.float32), other, atol=tolerance, rtol=tolerance)


@kernels
@rows
def test_every_kernel_gives_the_numbers_and_gradients_of_plain_xla(kernel, segments):
  check(attended(*arrays(), segments, kernel=kernel), attended(*arrays(), segments, kernel="einsum"))


@kernels
@rows
@pytest.mark.parametrize("sees", [{"window": 1}, {"window": 37, "cap": 1.5}, {"cap": 2.0}], ids=str)
def test_windows_and_capped_scores_too(kernel, segments, sees):
  positions = positions_of(segments) + 5  # differences count, wherever a row begins
  check(*(attended(*arrays(), segments, kernel=one, positions=positions, **sees) for one in (kernel, "einsum")))


@kernels
def test_to_the_bit_nothing_comes_from_another_segment_or_response(kernel):
  """A sample's queries, keys and values are changed to what would drown all others."""
  q, k, v, weights = arrays()
  before = attended(q, k, v, weights, ROWS["shared prompts"], kernel=kernel)
  inside = (SEGMENTS == 1) & (RESPONSES == 2)
  changed = jax.tree.map(lambda x: jnp.where(inside[:, :, None, None], 1e3, x), (q, k, v))
  (q_slope, k_slope, v_slope), out = attended(*changed, weights, ROWS["shared prompts"], kernel=kernel)
  prompt = (SEGMENTS == 1) & (RESPONSES == 0)
  for got, expected in zip((q_slope, out, k_slope, v_slope), (before[0][0], before[1], *before[0][1:]), strict=True):
    # What a response sends back reaches its prompt's keys and values, as it should.
    outside = ~(inside | prompt) if got.shape[2] == K else ~inside
    np.testing.assert_array_equal(np.asarray(got)[outside], np.asarray(expected)[outside])
    assert (np.asarray(got) != np.asarray(expected)).any()


@kernels
def test_in_bfloat16_too(kernel):
  rounded = [x.astype(jnp.bfloat16) for x in arrays()[:3]]
  got = attended(*rounded, arrays()[3], ROWS["segments"], kernel=kernel)
  assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
  wide = attended(*(x.astype(jnp.float32) for x in rounded), arrays()[3], ROWS["segments"], kernel="einsum")
  check(got, wide, 6e-2)


@pytest.mark.parametrize("kernel", training_attention.KERNELS)
def test_divided_over_rows_heads_and_length_it_is_what_one_device_gives(kernel):
  expected = attended(*arrays(), ROWS["shared prompts"], kernel="einsum")
  with jax.set_mesh(sharding.make_mesh(MeshSizes(2, 1, 2, 2))):
    program = attended.lower(*arrays(), ROWS["shared prompts"], kernel=kernel).compile()
    check(program(*arrays(), ROWS["shared prompts"]), expected)
    given = dict(positions=positions_of(ROWS["shared prompts"]), window=37, cap=1.5)
    got = attended(*arrays(), ROWS["shared prompts"], kernel=kernel, **given)
  check(got, attended(*arrays(), ROWS["shared prompts"], kernel="einsum", **given))
  text = program.as_text()
  assert "all-gather" in text and "reduce-scatter" in text


def test_what_the_gpu_kernel_skips_is_what_nobody_sees():
  """A query's reach is the first place of its group, a key's the last, also where a group lies in pieces."""
  gpu = pytest.importorskip("jaxreason.model.training_attention_gpu")
  for one, find in zip(gpu.marks(jnp.asarray(SEGMENTS), jnp.asarray(RESPONSES)), (np.min, np.max), strict=True):
    expected = [[find(np.flatnonzero(row == number)) for number in row] for row in SEGMENTS]
    np.testing.assert_array_equal(one.reach, expected)
    np.testing.assert_array_equal(one.position, np.tile(np.arange(T), (B, 1)))


WINDOWED = {"layer_kinds": ("window", "full"), "window": 4, "attention_cap": 2.0}


@kernels
@pytest.mark.parametrize("sees", [{}, WINDOWED], ids=["all", "windows and caps"])
def test_a_packed_batch_by_a_kernel_has_the_gradients_of_plain_xla(kernel, sees, monkeypatch):
  monkeypatch.setattr(decoder, "attend_rows", functools.partial(attend_rows, interpret=True))
  batch = jax.tree.map(jnp.asarray, tiny.batch(5, rows=4, prompt=6, completion=10))
  lengths = (batch.prompt_lengths, batch.lengths)
  layout = jax.tree.map(jnp.asarray, packing.pack(*lengths, columns=batch.tokens.shape[1], row_tokens=40))

  def gradients(config):
    def total(params):
      read = policy.completion_logprobs(
        params, config, batch.tokens, *lengths, batch.mask.shape[1], temperature=0.9, layout=layout
      )
      return jnp.sum(jnp.where(batch.mask, read[0], 0.0))

    return jax.jit(jax.grad(total))(tiny.params(config))

  config = dataclasses.replace(tiny.CONFIG, head_dim=16, remat="attention", **sees)
  expected = gradients(config)
  by_kernel = gradients(dataclasses.replace(config, attention=kernel))
  for got, leaf in zip(jax.tree.leaves(by_kernel), jax.tree.leaves(expected), strict=True):
    assert np.linalg.norm(got - leaf) <= 1e-5 * np.linalg.norm(leaf)


def test_what_the_kernels_are_made_of_is_where_it_was():
  """Both stand on what JAX calls experimental; a failure here says which name moved."""
  for module, names in {
    "jax.experimental.pallas.triton": ("load", "store", "dot", "CompilerParams"),
    "jax.experimental.pallas.ops.tpu.splash_attention": (
      "BlockSizes", "CausalMask", "LocalMask", "MultiHeadMask", "SegmentIds", "make_splash_mha_single_device",
    ),
  }.items():  # fmt: skip
    assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []


QWEN = {"heads": 12, "kv_heads": 2, "head_dim": 128}


def test_a_platform_gets_its_kernel_and_a_line_that_says_why():
  for platform, kernel in {"cpu": "einsum", "gpu": "pallas_gpu", "cuda": "pallas_gpu", "tpu": "splash_tpu"}.items():
    got, reason = choose(platform, **QWEN)
    assert got == kernel and reason and "\n" not in reason


@pytest.mark.parametrize(("platform", "head_dim"), [("gpu", 80), ("gpu", 8), ("tpu", 20), ("tpu", 192), ("rocm", 128)])
def test_a_shape_that_does_not_fit_gets_einsum_and_the_reason(platform, head_dim):
  kernel, reason = choose(platform, **(QWEN | {"head_dim": head_dim}))
  assert kernel == "einsum" and (str(head_dim) in reason or platform in reason)


def test_so_do_heads_that_do_not_divide_and_a_jax_without_the_kernels_parts(monkeypatch):
  mesh = sharding.make_mesh(MeshSizes(2, 1, 4))
  kernel, reason = choose("tpu", **QWEN, mesh=mesh)
  assert kernel == "einsum" and "does not divide" in reason
  for module in ("training_attention_gpu", "training_attention_tpu"):
    importlib.import_module(f"jaxreason.model.{module}")
    monkeypatch.delattr(f"jaxreason.model.{module}")
    monkeypatch.setitem(sys.modules, f"jaxreason.model.{module}", None)
  for platform in ("gpu", "tpu"):
    kernel, reason = choose(platform, **QWEN)
    assert kernel == "einsum" and "this JAX does not have" in reason


def test_a_run_may_ask_for_plain_xla_and_for_nothing_else():
  config = settings.default_config()
  config.model.attention = "einsum"
  kernel, reason = build.training_kernel(settings.freeze(config), tiny.CONFIG, sharding.make_mesh())
  assert kernel == "einsum" and "config.model.attention" in reason
  config.model.attention = "flash"
  with pytest.raises(UserError, match=r"config\.model\.attention expected auto or einsum, got 'flash'"):
    settings.freeze(config)
  with pytest.raises(UserError, match="einsum, pallas_gpu, splash_tpu, got 'cudnn'"):
    attend_rows("cudnn", None, 1, 4)


@rows
def test_long_rows_of_plain_xla_are_those_of_one_product_in_fewer_scores(segments, monkeypatch):
  """Blocks of queries look at no key behind their end: no array of all T x T scores is made."""
  made = jax.jit(lambda q, k, v: attend_rows("einsum", segments, B, T)(q, k, v)).lower(*arrays()[:3]).as_text()
  assert f"{K}x{N // K * T}x{T}xf32" not in made
  in_blocks = attended(*arrays(), segments, "einsum")
  monkeypatch.setattr(training_attention, "_LONG", T + 1)
  jax.clear_caches()
  at_once = attended(*arrays(), segments, "einsum")
  assert f"{K}x{N // K * T}x{T}xf32" in (
    jax.jit(lambda q, k, v: attend_rows("einsum", segments, B, T)(q, k, v)).lower(*arrays()[:3]).as_text()
  )
  check(in_blocks, at_once, 2e-6)
  jax.clear_caches()
