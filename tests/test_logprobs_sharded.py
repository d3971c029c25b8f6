"""Laws of log-probabilities over a vocabulary in parts: the numbers and gradients of one device, and no logits in transit."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxreason import logprobs

B, T, D, V = 4, 6, 8, 64
CUTS = {"none": {}, "top_k": dict(top_k=5), "all": dict(top_k=20, top_p=0.8, min_p=0.01)}
cuts = pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
MESH = jax.make_mesh((2, 4), ("rows", "words"), axis_types=(AxisType.Auto,) * 2)
SPECS = (P("rows"), P("words"), P(), P("rows"))


def example(vocabulary=V):
  generator = np.random.default_rng(0)
  hidden, unembed = (generator.normal(size=shape).astype(np.float32) for shape in ((B, T, D), (vocabulary, D)))
  return hidden, unembed, np.float32(0.7), generator.integers(0, vocabulary, (B, T))


def of_hidden(hidden, unembed, temperature, tokens, **given):
  return logprobs.from_hidden(hidden, unembed, tokens, temperature=temperature, chunk_tokens=8, **given)


def of_logits(hidden, unembed, temperature, tokens, *, vocab_axis, **cut):
  logits = jnp.einsum("btd,vd->btv", hidden, unembed)
  values = (
    logprobs.token_logprobs(logits, tokens, temperature, vocab_axis=vocab_axis),
    logprobs.entropy(logits, temperature, vocab_axis=vocab_axis),
  )
  return (*values, logprobs.log_mass(logits, temperature, **cut, vocab_axis=vocab_axis)) if cut else values


def weighted(values):
  weights = np.random.default_rng(1).normal(size=(len(values), B, T)).astype(np.float32)
  return sum(jnp.sum(weight * value) for weight, value in zip(weights, values, strict=True))


def gradients(function, arguments):
  def total(*arguments):
    values = function(*arguments)
    return weighted(values), values

  return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(*arguments)


def check_close(got, expected, atol=2e-5):
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=atol)


@cuts
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("function", [of_hidden, of_logits])
def test_a_vocabulary_in_parts_has_the_numbers_of_the_whole(function, check_vma, cut):
  parts = functools.partial(function, vocab_axis="words", **cut)
  sharded = jax.shard_map(parts, mesh=MESH, in_specs=SPECS, out_specs=P("rows"), check_vma=check_vma)
  check_close(gradients(sharded, example()), gradients(functools.partial(of_hidden, **cut), example()))


@cuts
def test_gradients_taken_on_the_devices_are_those_of_the_whole(cut):
  """The loss is differentiated inside shard_map: what is not cut over an axis gets its sum over it."""

  def on_device(hidden, unembed, temperature, tokens):
    def total(*arguments):
      values = of_hidden(*arguments, tokens, vocab_axis="words", **cut)
      rows = jax.lax.axis_index("rows") * 2 + jnp.arange(2)
      weights = jnp.asarray(np.random.default_rng(1).normal(size=(len(values), B, T)).astype(np.float32))
      return sum(jnp.sum(weight[rows] * value) for weight, value in zip(weights, values, strict=True))

    return jax.grad(total, (0, 1, 2))(hidden, unembed, temperature)

  got = jax.jit(jax.shard_map(on_device, mesh=MESH, in_specs=SPECS, out_specs=SPECS[:3]))(*example())
  check_close(got, gradients(functools.partial(of_hidden, **cut), example())[1])


def test_a_part_without_mass_counts_for_nothing():
  """Logits 10,000 lower in one part, or forbidden in all of it, give what the other parts alone do."""
  generator = np.random.default_rng(2)
  logits, tokens = generator.normal(size=(5, V)).astype(np.float32), generator.integers(0, V // 4, 5)

  def parts(logits, temperature):
    values = (
      logprobs.token_logprobs(logits, tokens, temperature, vocab_axis="words"),
      logprobs.entropy(logits, temperature, vocab_axis="words"),
      logprobs.log_mass(logits, temperature, top_p=0.8, vocab_axis="words"),
    )
    return sum(jnp.sum(value) for value in values), values

  sharded = jax.shard_map(parts, mesh=MESH, in_specs=(P(None, "words"), P()), out_specs=P())
  found = []
  for low in (-1e4, -jnp.inf):
    changed = jnp.asarray(logits).at[:, -V // 4 :].set(low)
    found.append(jax.jit(jax.value_and_grad(sharded, (0, 1), has_aux=True))(changed, 0.7))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found[-1]))
    assert not np.asarray(found[-1][1][0])[:, -V // 4 :].any()
  check_close(found[0], found[1])


def test_tokens_that_no_part_has_are_told():
  hidden, unembed, temperature, tokens = example()
  tokens[0, 0], tokens[3, 2] = -1, V
  parts = functools.partial(of_hidden, vocab_axis="words")
  values = jax.shard_map(parts, mesh=MESH, in_specs=SPECS, out_specs=P("rows"))(hidden, unembed, temperature, tokens)
  np.testing.assert_array_equal(np.isnan(values[0]), (tokens < 0) | (tokens >= V))


@cuts
def test_under_jit_a_matrix_in_parts_is_never_gathered(cut):
  """Arrays laid out over a mesh, no shard_map: the same numbers, and no array of the program has all of V, or B·T·V."""
  vocabulary = 4096
  hidden, unembed, temperature, tokens = example(vocabulary)
  arguments = [jax.device_put(x, NamedSharding(MESH, spec)) for x, spec in zip((hidden, unembed), SPECS, strict=False)]
  total = lambda hidden, unembed: weighted(of_hidden(hidden, unembed, temperature, tokens, **cut))
  compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).lower(*arguments).compile()
  value, (hidden_slope, unembed_slope) = compiled(*arguments)
  (expected, _), slopes = gradients(functools.partial(of_hidden, **cut), (hidden, unembed, temperature, tokens))
  check_close((value, hidden_slope, unembed_slope), (expected, *slopes[:2]), atol=1e-4)
  shapes = {tuple(map(int, found.split(","))) for found in re.findall(r"f32\[([\d,]+)\]", compiled.as_text())}
  assert {shape for shape in shapes if vocabulary in shape} == set()
  # A chunk's logits on one device: its rows, the positions of a chunk, its words.
  assert max(map(np.prod, shapes)) <= max(B // 2 * 2 * vocabulary // 4, vocabulary // 4 * D)
  assert unembed_slope.sharding.is_equivalent_to(arguments[1].sharding, 2)
