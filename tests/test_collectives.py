"""Laws of what crosses devices in an update, read from the compiled program: no tree of weights is gathered, and between slices
go sums alone."""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import pytest
import tiny

from jaxreason import build, sharding
from jaxreason.model import weights
from jaxreason.sharding import MeshSizes

CONFIG = dataclasses.replace(tiny.CONFIG, layers=5, embed=64, mlp=96)  # as many layers as nothing else has
GATHERED = ("all-gather", "all-to-all", "collective-permute")
SLICES = MeshSizes(1, 2, 2, dcn=2)
KINDS = "|".join((*GATHERED, "all-reduce", "reduce-scatter"))
COLLECTIVE = re.compile(rf"= (.*?) ({KINDS})(?:-start)?\(.*?replica_groups=(.*?), (?:dimensions|use_global)")


@functools.cache
def collectives(sizes):
  """[(kind, shapes of the result, groups of devices)] of a compiled update."""
  mesh = sharding.make_mesh(sizes)
  with jax.set_mesh(mesh):
    programs = build.compile_programs(tiny.settings(), CONFIG, mesh)
    state = programs.start_rl(jax.device_put(tiny.params(CONFIG), weights.shardings(CONFIG, mesh)))
    text = programs.update.lower(state, tiny.batch(rows=16), 1.0).compile().as_text()
  numbers = lambda dims: tuple(int(size) for size in dims.split(",") if size)
  found = COLLECTIVE.findall(text)
  assert len(found) == len(re.findall(r"replica_groups=", text))
  sizes_of = lambda shapes: [numbers(dims) for dims in re.findall(r"\w\[([\d,]*)\]", shapes)]
  return [(kind, sizes_of(shapes), groups(told)) for shapes, kind, told in found]


def groups(text):
  """[groups, devices] of the three ways in which XLA writes them: a list, an iota that is cut, and axes of a mesh."""
  numbers = lambda dims: [int(size) for size in re.findall(r"\d+", dims)]
  iota = lambda dims, order: np.arange(math.prod(dims)).reshape(dims).transpose(order or range(len(dims)))
  if text.startswith("{{"):
    return np.array([numbers(group) for group in text[1:-1].split("},{")])
  if not text.startswith("mesh"):
    shape, dims, order = re.fullmatch(r"\[(.*)\]<=\[(.*?)\](?:T\((.*)\))?", text).groups()
    return iota(numbers(dims), numbers(order or "")).reshape(numbers(shape))
  shape = [int(size) for size in re.findall(r"=(\d+)", text.split("]")[0])]
  told = re.search(r"device_ids=\(\[(.*?)\](?:T\((.*?)\))?\)", text)
  devices = iota(numbers(told[1]), numbers(told[2] or "")) if told else np.arange(math.prod(shape))
  over = [int(axis) for axis in re.findall(r"axis_(\d+)", re.search(r"\{(.*?)\}", text)[1])]
  rest = [axis for axis in range(len(shape)) if axis not in over]
  return devices.reshape(shape).transpose(*rest, *over).reshape(-1, math.prod(shape[axis] for axis in over))


@pytest.mark.parametrize(
  "sizes", [MeshSizes(1, 8), MeshSizes(2, 2, 2), SLICES], ids=["1x8", "2x2x2", "2 slices of 1x2x2"]
)
def test_an_update_gathers_the_weights_of_one_layer_at_a_time(sizes):
  gathered = [shape for kind, shapes, _ in collectives(sizes) if kind in GATHERED for shape in shapes]
  one = max(CONFIG.mlp, CONFIG.vocab_size, CONFIG.heads * CONFIG.head_dim) * CONFIG.embed
  assert gathered and max(map(math.prod, gathered)) <= one // sizes.tensor
  assert not any(CONFIG.layers in shape for shape in gathered)


def test_between_slices_go_sums_alone():
  within = len(jax.devices()) // SLICES.dcn
  crossing = {kind for kind, _, devices in collectives(SLICES) if np.any(devices // within != devices[:, :1] // within)}
  assert crossing == {"all-reduce"}


def test_a_slice_is_a_part_of_the_mesh():
  devices = sharding.make_mesh(SLICES).devices
  assert devices.shape == (2, 1, 2, 1, 1, 2)
  assert [device.id for device in devices.flat] == list(range(8))
