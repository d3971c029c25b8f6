"""Laws of packing: every token is computed once, a shared prompt once for its rows, and no number changes.

B samples, S their columns, T completion tokens, W tokens of a packed row.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxreason import packing, passes, policy, update
from jaxreason.errors import UserError
from jaxreason.model import decoder
from jaxreason.model.attention import sequence_mask
from jaxreason.model.block_attention import BLOCK
from jaxreason.objective import SFT, Objective

GROUP = 4


def grouped(seed=0, prompts=4, group=GROUP):
  """A batch whose samples come in groups with one prompt each."""
  batch = tiny.batch(seed, rows=prompts * group, prompt=6, completion=5, reference=True)
  same = np.arange(prompts * group) // group * group
  written = batch.lengths - batch.prompt_lengths
  prompt_lengths = batch.prompt_lengths[same]
  columns = np.arange(batch.tokens.shape[1])
  tokens = np.where(columns < prompt_lengths[:, None], tiny.tokens(seed + 7, *batch.tokens.shape)[same], batch.tokens)
  tokens = np.where(tokens == 0, tiny.tokens(seed + 8, *tokens.shape), tokens)
  lengths = (prompt_lengths + written).astype(np.int32)
  return batch.replace(
    tokens=np.where(columns < lengths[:, None], tokens, 0).astype(np.int32), prompt_lengths=prompt_lengths, lengths=lengths
  )


def layout(batch, **changes):
  given = dict(columns=batch.tokens.shape[1], row_tokens=24) | changes
  return packing.pack(batch.prompt_lengths, batch.lengths, **given)


@functools.partial(jax.jit, static_argnames=("objective", "micro_batches", "chunk_tokens"))
def gradients_of(params, batch, objective, micro_batches=1, chunk_tokens=1024):
  return update.value_and_gradients(
    params, batch, 0.7, config=tiny.CONFIG, objective=objective, micro_batches=micro_batches, chunk_tokens=chunk_tokens
  )


def held(made, batch, micro_batches):
  """[(sample, token)] of all columns, with the samples' places in the whole batch."""
  n, S = len(batch.lengths) // micro_batches, batch.tokens.shape[1]
  rows = made.rows.reshape(micro_batches, -1)
  return [(m * n + int(i) // S, int(i) % S) for m in range(micro_batches) for i in rows[m] if i < n * S]


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("group", [1, GROUP])
def test_every_token_has_one_column_and_a_shared_prompt_is_there_once(group, micro_batches):
  batch = grouped()
  made = layout(batch, group=group, micro_batches=micro_batches)
  n = len(batch.lengths) // micro_batches
  owner = made.prompt_of + np.arange(len(batch.lengths)) // n * n
  expected = {
    (i, t) for i in range(len(owner)) for t in range(batch.lengths[i]) if t >= batch.prompt_lengths[i] or owner[i] == i
  }
  got = held(made, batch, micro_batches)
  assert len(got) == len(set(got))
  assert set(got) == expected
  assert (owner // group == np.arange(len(owner)) // group).all()
  if group > 1:
    assert (owner != np.arange(len(owner))).any()


@pytest.mark.parametrize("group", [1, GROUP])
def test_a_sample_lies_in_one_row_in_order_behind_the_prompt_it_reads(group):
  batch = grouped()
  made, S = layout(batch, group=group), batch.tokens.shape[1]
  for i, length in enumerate(batch.lengths):
    places = [np.argwhere(made.rows == i * S + t).tolist() for t in range(batch.prompt_lengths[i], length)]
    prompt = [np.argwhere(made.rows == made.prompt_of[i] * S + t).tolist() for t in range(batch.prompt_lengths[i])]
    ((row, first),) = places[0]
    assert places == [[[row, first + step]] for step in range(len(places))]
    assert [at for ((r, at),) in prompt if r == row] == sorted(at for ((_, at),) in prompt)
    assert prompt[-1][0][1] < first


@pytest.mark.parametrize("objective", [Objective(clip_high=0.3, kl_coef=0.1, entropy_coef=0.01), SFT], ids=["clipped", "sft"])
@pytest.mark.parametrize(("group", "micro_batches", "row_tokens"), [(1, 1, 12), (1, 2, 24), (GROUP, 1, 24), (GROUP, 2, 64)])
def test_packed_is_unpacked(objective, group, micro_batches, row_tokens):
  """Loss, gradient and every number that is logged; rows that hold nothing are among them."""
  batch = grouped()
  plain, numbers = gradients_of(tiny.params(), batch, objective)
  made = layout(batch, group=group, micro_batches=micro_batches, row_tokens=row_tokens, multiple=7)
  assert (made.rows == len(batch.lengths) // micro_batches * batch.tokens.shape[1]).all(axis=1).any()
  batch = batch.replace(layout=made)
  packed, same = gradients_of(tiny.params(), batch, objective, micro_batches=micro_batches, chunk_tokens=16)
  distance = optax.tree.norm(jax.tree.map(jnp.subtract, packed, plain)) / optax.tree.norm(plain)
  assert distance < 1e-6
  for name, value in numbers.items():
    assert same[name] == pytest.approx(float(value), rel=1e-5, abs=1e-6), name


def test_no_sample_sees_another():
  """By gradient: a completion's log-prob depends on its own embeddings and its prompt's, and on nothing else in its row."""
  batch = grouped(prompts=2)
  made = layout(batch, group=GROUP, row_tokens=64)
  rows, S = np.asarray(made.rows), batch.tokens.shape[1]
  real = rows < len(batch.lengths) * S
  sample, position = np.where(real, rows // S, -1), rows % S
  prompt = position < batch.prompt_lengths[sample]
  segments = (np.where(real, made.prompt_of[sample] + 1, 0), np.where(real & ~prompt, sample + 1, 0))
  tokens = np.where(real, batch.tokens.reshape(-1)[np.minimum(rows, batch.tokens.size - 1)], 0)

  def last_hidden(table, i):
    params = tiny.params().replace(embedding=table)
    # Tokens are their own columns, so that the gradient tells columns apart.
    columns = np.arange(rows.size).reshape(rows.shape)
    hidden = decoder.apply(params, tiny.CONFIG, columns, np.where(real, position, 0), segments=segments).hidden
    return jnp.sum(jnp.where(((sample == i) & (position == batch.lengths[i] - 1))[..., None], hidden, 0) ** 2)

  table = jnp.asarray(np.asarray(tiny.params().embedding)[tokens.reshape(-1)])
  for i in range(len(batch.lengths)):
    seen = np.abs(np.asarray(jax.grad(last_hidden)(table, i))).sum(-1).reshape(rows.shape) > 0
    own = (sample == i) | ((sample == made.prompt_of[i]) & prompt)
    np.testing.assert_array_equal(seen, own & real)


def test_the_reference_pass_is_that_of_separate_rows():
  batch = grouped()
  one = jax.jit(functools.partial(passes.with_reference, config=tiny.CONFIG))(tiny.params(), batch, 0.7)
  made = layout(batch, group=GROUP, micro_batches=2)
  packed = jax.jit(functools.partial(passes.with_reference, config=tiny.CONFIG, micro_batches=2))
  other = packed(tiny.params(), batch.replace(layout=made), 0.7)
  np.testing.assert_allclose(
    np.where(batch.mask, other.reference_logprobs, 0), np.where(batch.mask, one.reference_logprobs, 0), atol=1e-5
  )


def test_rows_are_filled_and_few_sizes_occur():
  generator = np.random.default_rng(0)
  sizes, fill = set(), []
  for _ in range(50):
    written = np.minimum(generator.lognormal(3, 0.8, 64).astype(np.int32) + 1, 200)
    prompts = generator.integers(5, 20, 64)
    made = packing.pack(prompts, prompts + written, columns=256, row_tokens=256)
    sizes.add(len(made.rows))
    used = (made.rows < 64 * 256).any(axis=1).sum()
    fill.append((prompts + written).sum() / (used * 256))
  assert np.mean(fill) > 0.9
  assert len(sizes) <= 4


def test_the_number_of_rows_divides_over_the_devices():
  batch = grouped()
  assert len(layout(batch, multiple=4).rows) % 4 == 0


def test_a_sample_longer_than_a_row_is_told():
  batch = grouped()
  with pytest.raises(UserError, match=r"expected samples of at most row_tokens=4 tokens, got one of \d+; make it \d+"):
    layout(batch, row_tokens=4)


def test_packed_steps_of_one_size_compile_once():
  step = tiny.update(micro_batches=2)
  state = update.initialize(jax.tree.map(jnp.asarray, tiny.params()), tiny.optimizer())
  batches = [batch.replace(layout=layout(batch, micro_batches=2, row_tokens=64)) for batch in (grouped(0), grouped(1))]
  state, _ = step(state, batches[0], 1.0)
  with tiny.compilations() as compiled:
    step(state, batches[1], 1.0)
  assert compiled == []


def test_completion_logprobs_are_those_of_separate_rows():
  batch = grouped(3)
  compute = jax.jit(functools.partial(policy.completion_logprobs, config=tiny.CONFIG, width=5, temperature=1.0))
  arguments = dict(tokens=batch.tokens, prompt_lengths=batch.prompt_lengths, lengths=batch.lengths)
  plain = compute(tiny.params(), **arguments)
  packed = compute(tiny.params(), **arguments, layout=layout(batch, group=GROUP, row_tokens=32))
  for one, other in zip(plain, packed, strict=True):
    np.testing.assert_allclose(np.where(batch.mask, one, 0), np.where(batch.mask, other, 0), atol=1e-5)


def long_rows(group):
  """A batch whose samples fill rows of some hundred columns: (batch, layout that says which blocks see which)."""
  rng = np.random.default_rng(3)
  prompts = np.repeat(rng.integers(3, 40, 6), GROUP).astype(np.int32)
  lengths = (prompts + rng.integers(0, 50, len(prompts))).astype(np.int32)
  batch = grouped(prompts=6)
  tokens = np.where(np.arange(90) < lengths[:, None], np.repeat(tiny.tokens(5, 6, 90), GROUP, axis=0), 0)
  answers = (np.arange(90) >= prompts[:, None]) & (np.arange(90) < lengths[:, None])
  tokens = np.where(answers, tiny.tokens(6, len(prompts), 90), tokens).astype(np.int32)
  wide = lambda x: np.resize(x, (len(prompts), 50)).astype(np.float32)
  batch = batch.replace(
    tokens=tokens, prompt_lengths=prompts, lengths=lengths, mask=np.arange(50) < (lengths - prompts)[:, None],
    behavior_logprobs=wide(batch.behavior_logprobs), advantages=wide(batch.advantages),
    reference_logprobs=wide(batch.reference_logprobs),
  )  # fmt: skip
  return batch, layout(batch, row_tokens=500, group=group, blocks=True)


@pytest.mark.parametrize("group", [1, GROUP])
def test_the_blocks_that_a_block_looks_at_hold_all_that_it_sees(group):
  batch, made = long_rows(group)
  B, S = batch.tokens.shape
  (R, W), (_, Q, C) = made.rows.shape, made.seen.shape
  assert W == 500 and Q == 8 and C <= 4, "less than whole rows"
  real, sample, token = made.rows < B * S, np.minimum(made.rows // S, B - 1), made.rows % S
  response = np.where(real & (token >= batch.prompt_lengths[sample]), sample + 1, 0)
  mask = np.array(sequence_mask((np.where(real, made.prompt_of[sample] + 1, 0), response), R, W))[:, 0]
  mask &= real[:, :, None] & real[:, None]
  for row in range(R):
    for query, key in {(int(q) // BLOCK, int(k) // BLOCK) for q, k in np.argwhere(mask[row])}:
      assert key in made.seen[row, query]
    for query in range(Q):
      looked_at = [block for block in made.seen[row, query] if block < Q]
      assert len(looked_at) == len(set(looked_at)), "none twice: its keys would count twice"


WINDOWS = dataclasses.replace(tiny.CONFIG, layer_kinds=("full", "window"), window=20, attention_cap=2.0)


@pytest.mark.parametrize(("group", "config"), [(1, tiny.CONFIG), (GROUP, tiny.CONFIG), (GROUP, WINDOWS)])
def test_rows_by_blocks_are_separate_rows(group, config):
  batch, made = long_rows(group)
  gradients = jax.jit(functools.partial(update.value_and_gradients, config=config, objective=Objective()))
  alone, told = gradients(tiny.params(config), batch, 0.7)

  def distance(made):
    packed, same = gradients(tiny.params(config), batch.replace(layout=made), 0.7)
    assert same["tokens"] == told["tokens"]
    return optax.tree.norm(jax.tree.map(jnp.subtract, packed, alone)) / optax.tree.norm(alone)

  assert distance(made) < 1e-6
  assert distance(made._replace(seen=made.seen[:, :, 1:])) > 1e-3, "a block that is left out is missed"


def test_rows_that_see_most_of_themselves_are_computed_whole():
  prompts, lengths = np.full(4, 10), np.full(4, 250)
  given = dict(columns=256, row_tokens=512, blocks=True)
  assert packing.pack(prompts, lengths, **given).seen is None
  assert packing.pack(prompts, np.full(4, 100), **given).seen is not None
