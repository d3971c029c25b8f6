"""Laws of sharding: eight devices, or two processes, compute what one does, and hold only their parts."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
import tiny

from jaxreason import build, packing, sharding, update
from jaxreason.errors import UserError
from jaxreason.model import weights
from jaxreason.objective import Objective
from jaxreason.optimizer import OptimizerConfig
from jaxreason.rollout.config import Shape
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.slots import Slots
from jaxreason.sharding import MeshSizes

MESHES = {
  "8x1x1": MeshSizes(8, 1, 1),
  "2x2x2": MeshSizes(2, 2, 2),
  "1x4x2": MeshSizes(1, 4, 2),
  "2x1x2, length in 2": MeshSizes(2, 1, 2, sequence=2),
}
ONE = MeshSizes(1, 1, 1)
meshes = pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)


def mesh_of(sizes):
  count = sizes.data * sizes.fsdp * sizes.tensor * sizes.sequence * sizes.dcn
  return sharding.make_mesh(sizes, jax.devices()[:count])


@functools.cache
def programs(sizes):
  return build.compile_programs(tiny.settings(), tiny.CONFIG, mesh_of(sizes))


def placed(sizes):
  """The tiny parameters on a mesh."""
  return jax.device_put(tiny.params(), weights.shardings(tiny.CONFIG, mesh_of(sizes)))


@functools.cache
def updated(sizes):
  """(state, stats) after one update."""
  with jax.set_mesh(mesh_of(sizes)):
    return programs(sizes).update(programs(sizes).start_rl(placed(sizes)), tiny.batch(), 1.0)


@meshes
def test_a_sharded_update_is_that_of_one_device(sizes):
  (state, stats), (expected, others) = updated(sizes), updated(ONE)
  for got, leaf in zip(*map(jax.tree.leaves, (tiny.gradients(state), tiny.gradients(expected))), strict=True):
    leaf = np.asarray(leaf)
    assert np.linalg.norm(np.asarray(got) - leaf) <= 1e-5 * np.linalg.norm(leaf)
  assert float(stats["loss"]) == pytest.approx(float(others["loss"]), rel=1e-5)


@meshes
@pytest.mark.parametrize(("micro_batches", "row_tokens"), [(2, 0), (1, 24)])
def test_gradients_of_any_cut_are_those_of_one_device_and_held_in_parts(sizes, micro_batches, row_tokens):
  """Without shardings asked of the results: the sum over micro-batches is laid out as the parameters are by itself."""
  mesh, batch = mesh_of(sizes), tiny.batch(rows=16)
  given = batch.replace(
    layout=packing.pack(
      batch.prompt_lengths, batch.lengths, columns=batch.tokens.shape[1], row_tokens=row_tokens, micro_batches=micro_batches,
      multiple=sharding.parts("batch", mesh),
    )
  ) if row_tokens else batch  # fmt: skip
  gradients_of = jax.jit(functools.partial(update.value_and_gradients, config=tiny.CONFIG, objective=Objective()),
                         static_argnames="micro_batches")  # fmt: skip
  with jax.set_mesh(mesh):
    gradients, _ = gradients_of(placed(sizes), given, 1.0, micro_batches=micro_batches)
  expected, _ = gradients_of(tiny.params(), batch, 1.0)
  where = weights.shardings(tiny.CONFIG, mesh)
  for got, leaf, at in zip(*map(jax.tree.leaves, (gradients, expected, where)), strict=True):
    assert np.linalg.norm(np.asarray(got) - np.asarray(leaf)) <= 1e-5 * np.linalg.norm(leaf)
    assert got.sharding.is_equivalent_to(at, got.ndim)


@meshes
def test_parameters_and_moments_are_held_in_parts(sizes):
  """Each leaf is laid out as the table of weights says, before and after an update, and so are both moments."""
  mesh, (state, _) = mesh_of(sizes), updated(sizes)
  expected = weights.shardings(tiny.CONFIG, mesh)
  trees = [leaf for leaf in jax.tree.leaves(state, is_leaf=tiny.is_params) if tiny.is_params(leaf)]
  assert len(trees) == 3
  for tree in trees:
    for leaf, where in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
      assert leaf.sharding.is_equivalent_to(where, leaf.ndim)
      assert leaf.addressable_shards[0].data.shape == where.shard_shape(leaf.shape)
  held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state.params))
  assert held < 1.1 * weights.count(tiny.CONFIG) / (sizes.fsdp * sizes.tensor)


def test_moments_without_an_axis_are_held_in_the_parts_of_the_others():
  """Adafactor's of gate [L, F, D] are [L, D] and [L, F]; where F = D they could be either, and are whole."""
  mesh = mesh_of(MESHES["2x2x2"])
  chosen = tiny.settings(optimizer=OptimizerConfig(name="adafactor"))
  for mlp, parts in ((192, (("fsdp",), ("tensor",))), (128, ((), ()))):
    config = dataclasses.replace(tiny.CONFIG, embed=128, mlp=mlp)
    made = build.compile_programs(chosen, config, mesh)
    with jax.set_mesh(mesh):
      state = made.start_rl(jax.device_put(tiny.params(config), weights.shardings(config, mesh)))
    rows, columns, whole = (tree for tree in jax.tree.leaves(state.opt_state, is_leaf=tiny.is_params) if tiny.is_params(tree))
    assert [rows.blocks.gate.shape, columns.blocks.gate.shape, whole.blocks.gate.shape] == [(2, 128), (2, mlp), (1,)]
    for leaf, axes in zip((rows.blocks.gate, columns.blocks.gate), parts, strict=True):
      assert leaf.sharding.is_equivalent_to(jax.NamedSharding(mesh, jax.P(None, *axes)), 2)
    assert whole.blocks.query.sharding.is_equivalent_to(weights.shardings(config, mesh).blocks.query, 4)


def test_a_second_update_compiles_nothing():
  sizes = MESHES["2x2x2"]
  with jax.set_mesh(mesh_of(sizes)):
    state, _ = programs(sizes).update(programs(sizes).start_rl(placed(sizes)), tiny.batch(1), 1.0)
    with tiny.compilations() as compiled:
      programs(sizes).update(state, tiny.batch(2), 0.7)
  assert compiled == []


PROMPTS, LENGTHS = tiny.tokens(3, 8, 5), np.array([5, 1, 2, 3, 4, 5, 2, 1], np.int32)


def rollout(sizes, prompts, group, slots=None, lane=1):
  """{name: Written} of 16 samples, in slots of which each device has as many."""
  mesh = mesh_of(sizes)
  with jax.set_mesh(mesh):
    made, parts = programs(sizes).rollout, sharding.parts("slots", mesh)
    count = slots or prompts * group
    up = lambda rows: -(-rows // parts) * parts
    shape = Shape(count, lane, 6, 3, (parts, count), (up(1), up(prompts)), 8, 8, ahead=0)
    held = Slots(made, shape, Draw(jax.random.key(0), (2, 12, 19), temperature=0.9))
    for row in range(prompts):
      held.admit(row, PROMPTS[row, : LENGTHS[row]], range(group))
    told = tiny.finish(held, made.prepare(placed(sizes)), 0)
    cache = held._engine._state.cache
  assert cache.keys[0].sharding.shard_shape(cache.keys[0].shape)[0] == count // parts
  if lane > 1:
    assert cache.prefix.keys[0].sharding.shard_shape(cache.prefix.keys[0].shape)[0] == count // lane // parts
  return {written.name: written for ended in told for written in ended}


@functools.cache
def alone():
  return rollout(ONE, 8, 2)


def same(got, expected):
  for name, written in got.items():
    np.testing.assert_array_equal(written.record.tokens, expected[name].record.tokens)
    np.testing.assert_allclose(written.record.logprobs, expected[name].record.logprobs, atol=1e-5)
    assert written.stop == expected[name].stop


@meshes
def test_a_sharded_rollout_writes_the_tokens_of_one_device(sizes):
  with tiny.compilations() as compiled:
    got = rollout(sizes, 8, 2)
  assert compiled.count("jit(decode)") == 1
  assert got.keys() == alone().keys()
  same(got, alone())


@pytest.mark.parametrize("lane", [1, 2])
def test_sharded_slots_are_filled_again(lane):
  same(rollout(MESHES["2x2x2"], 8, 2, slots=8, lane=lane), alone())


def test_fewer_prompts_than_devices_are_enough_when_their_samples_divide():
  got = rollout(MESHES["8x1x1"], 2, 8)
  same({name: got[name] for name in ((0, 0), (0, 1), (1, 0), (1, 1))}, alone())


def test_one_axis_takes_the_devices_that_are_left():
  for sizes, found in (
    (MeshSizes(), (1, 8, 1, 1, 1, 1)),
    (MeshSizes(data=-1, fsdp=2, tensor=2), (1, 2, 2, 1, 1, 2)),
    (MeshSizes(data=1, fsdp=-1), (1, 1, 8, 1, 1, 1)),
    (MeshSizes(2, 2, 2), (1, 2, 2, 1, 1, 2)),
    (MeshSizes(2, 1, 1, sequence=-1), (1, 2, 1, 4, 1, 1)),
    (MeshSizes(fsdp=2, dcn=2), (2, 2, 2, 1, 1, 1)),
  ):
    assert sharding.resolve(sizes, 8) == found
    assert sharding.make_mesh(sizes).axis_names == sharding.AXES == ("dcn", "data", "fsdp", "sequence", "expert", "tensor")


@pytest.mark.parametrize(
  ("sizes", "told"),
  [
    (MeshSizes(data=3), "expected to multiply to 8 devices, got 3; data=8 would"),
    (MeshSizes(data=-1, tensor=3), "expected to multiply to 8 devices, got 3; data=8 would"),
    (MeshSizes(data=-1, fsdp=-1), "expected positive with at most one -1"),
    (MeshSizes(data=0), "expected positive with at most one -1"),
    (MeshSizes(data=-2), "expected positive with at most one -1"),
    (MeshSizes(data=16), "expected to multiply to 8 devices, got 16; data=8 would"),
    (MeshSizes(2, 3, 2), "expected to multiply to 8 devices, got 12; data=4, tensor=2 would"),
  ],
)
def test_sizes_that_do_not_fit_are_told_in_one_line(sizes, told):
  with pytest.raises(UserError, match=told) as error:
    sharding.resolve(sizes, 8)
  assert "\n" not in str(error.value)


def test_sizes_that_do_not_divide_are_told_in_one_line():
  mesh = mesh_of(MESHES["2x2x2"])
  sharding.check_divides(mesh, batch=8, heads=4, embed=32, head_dim=7)
  for name, size, told in (
    ("batch", 6, r"batch of 6 does not divide over 4 devices .data x fsdp.; make batch a multiple of 4"),
    ("kv_heads", 3, r"kv_heads of 3 does not divide over 2 devices .tensor."),
    ("embed", 33, r"embed of 33 does not divide over 2 devices .fsdp."),
  ):
    with pytest.raises(UserError, match=told):
      sharding.check_divides(mesh, **{name: size})


def test_without_a_mesh_nothing_is_constrained():
  x = np.ones((3, 5))
  assert sharding.shard(x, ("batch", "embed")) is x


@pytest.mark.parametrize("lane", [1, 2])
@pytest.mark.parametrize("name", ["2x2x2", "1x4x2"])
def test_decode_exchanges_no_more_than_sums_over_tensor_parts(name, lane):
  """The sums of two products a layer and one of the embedding; all else that crosses devices is the sampler's, a few numbers a
  row. No weight, no key and no head's query is gathered: each part of a fused product stays where it is."""
  mesh, rows = mesh_of(MESHES[name]), 16
  with jax.set_mesh(mesh):
    made, parts = programs(MESHES[name]).rollout, sharding.parts("slots", mesh)
    shape = Shape(rows, lane, 6, 3, (parts, rows), (parts, 8), 8, 8, ahead=0)
    held = Slots(made, shape, Draw(jax.random.key(0), (2,)))
    for row in range(8):
      held.admit(row, PROMPTS[row, : LENGTHS[row]], range(2))
    params = made.prepare(placed(MESHES[name]))
    held.chunk(params, 0)
    lowered = made.decode.lower(
      params, held._engine._state, np.array([2], np.int32), np.int32(0), steps=3, truncate=False, least=False
    )
  found = re.findall(r"= (.*?) (all-[\w-]+|reduce-scatter|collective-permute)\(", lowered.compile().as_text())
  numbers = lambda text: tuple(map(int, text.split(",")))
  shapes = [(kind, numbers(dims)) for result, kind in found for dims in re.findall(r"\w\[([\d,]+)\]", result)]
  sums = [shape for kind, shape in shapes if kind == "all-reduce" and len(shape) == 3]
  assert {shape[:2] for shape in sums} == {(rows // parts, 1)}
  assert sum(shape[2] for shape in sums) == (2 * tiny.CONFIG.layers + 1) * tiny.CONFIG.embed
  # What a row of logits comes to; heads and matrices have three axes and more, or the width of the model.
  others = [(kind, shape) for kind, shape in shapes if shape not in sums]
  assert all(len(shape) <= 2 and shape[0] == rows // parts for _, shape in others), others
  assert all(shape[1:] < (3,) for kind, shape in others if kind == "all-gather"), others


@meshes
def test_the_rollouts_copy_is_whole_where_activations_are(sizes):
  """Of its matrices D is on every device: no chunk gathers a weight that training cuts over it."""
  with jax.set_mesh(mesh_of(sizes)):
    copy = programs(sizes).rollout.prepare(placed(sizes))
  block, config = copy.blocks[0], tiny.CONFIG
  local = lambda matrix: matrix.sharding.shard_shape(matrix.shape)
  for matrix, axis in ((copy.embedding, 1), (block.query_key_value, 0), *((piece, 0) for piece in block.gate_up)):
    assert local(matrix)[axis] == config.embed
  for pieces in (block.output, block.down):
    assert sum(local(piece)[1] for piece in pieces) == config.embed
  assert {local(piece)[0] for piece in block.down} == {config.mlp // sizes.tensor}
