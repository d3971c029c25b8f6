"""Floor 1: the only file that knows a mesh axis by name.

What enters: sizes of the mesh axes and logical axis names such as "embed" or "batch". What leaves: a `Mesh`,
`NamedSharding`s, and `shard(x, axes)`, which constrains an activation inside a jitted function and is the identity when
no mesh is set, so that the model runs unchanged in anyone's script.

The axes are Auto: XLA's partitioner propagates shardings and inserts collectives; `jax.make_mesh` would default to
Explicit axes, under which an ordinary matmul over a sharded contraction is a type error.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxreason.errors import UserError

AXES = ("dcn", "data", "fsdp", "sequence", "expert", "tensor")
HOST = "pinned_host"

# One table from logical axes to mesh axes, of training. `batch` is spread over dcn, data, fsdp and expert, the `length` of its
# rows over sequence, weights over fsdp and tensor, those of experts over expert too. A rollout's `slots` have one token a step:
# to them sequence is as data. No weight is cut over dcn: between slices go sums of gradients, nothing else.
RULES = {
  "batch": ("dcn", "data", "fsdp", "expert"),
  "length": "sequence",
  "slots": ("dcn", "data", "fsdp", "sequence", "expert"),
  "layers": None,
  "embed": "fsdp",
  "heads": "tensor",
  "kv_heads": "tensor",
  "head_dim": None,
  "mlp": "tensor",
  "expert": "expert",
  "vocab": "tensor",
}

# Activations keep their embed axis whole: fsdp already splits their batch axis. So do the weights of a rollout, which has these
# rules; `rollout.prepare` is the one switch between the two.
ACTIVATION_RULES = RULES | {"embed": None}


@dataclasses.dataclass(frozen=True)
class MeshSizes:
  """Devices along each mesh axis; -1 on at most one axis fills it with what is left."""

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  sequence: int = 1
  expert: int = 1  # of a mixture of experts: parts that the experts are held in; to all else it is as data
  dcn: int = 1  # slices, or groups of hosts, joined by a slower network; a copy of the weights in each


def resolve(sizes: MeshSizes, devices: int) -> tuple[int, ...]:
  """The sizes of `AXES` for a number of devices, with -1 filled in.

  Raises:
    UserError: when the sizes do not multiply to the device count; it says which sizes would.
  """
  asked = tuple(vars(sizes)[axis] for axis in AXES)
  if sum(size == -1 for size in asked) > 1 or any(size == 0 or size < -1 for size in asked):
    raise UserError(f"mesh sizes expected positive with at most one -1, got {dict(zip(AXES, asked, strict=True))}")
  fixed = math.prod(size for size in asked if size != -1)
  fill = devices // fixed
  filled = tuple(fill if size == -1 else size for size in asked)
  if math.prod(filled) != devices:
    raise UserError(
      f"mesh {dict(zip(AXES, asked, strict=True))} expected to multiply to {devices} devices, got {fixed}; "
      f"{_that_would(asked, devices)} would"
    )
  return filled


def _that_would(asked: tuple[int, ...], devices: int) -> str:
  """Sizes near those asked for that multiply to the devices: each the largest divisor of both, the rest in data."""
  found = {}
  for axis, size in reversed(list(zip(AXES, asked, strict=True))):
    if axis != "data":
      found[axis] = math.gcd(max(size, 1), devices)
      devices //= found[axis]
  sizes = {"data": devices} | {axis: size for axis, size in found.items() if size > 1}
  return ", ".join(f"{axis}={size}" for axis, size in sizes.items())


def make_mesh(sizes: MeshSizes | None = None, devices=None) -> Mesh:
  """A mesh over `devices` (default: all of them) with Auto axes named `AXES`.

  Raises:
    UserError: sizes as of `resolve`, or a slice of the devices that dcn would cut.
  """
  devices = jax.devices() if devices is None else devices
  shape, types = resolve(sizes or MeshSizes(), len(devices)), (AxisType.Auto,) * len(AXES)
  if shape[0] == 1:
    try:
      return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    except NotImplementedError:  # an axis that is no product of a torus's sides: its devices are neighbours along a part of one
      placed = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
      return Mesh(placed, AXES, axis_types=types)
  parts = [mesh_utils.create_device_mesh(shape[1:], devices=part) for part in _parts_of_slices(devices, shape[0])]
  return Mesh(np.stack(parts), AXES, axis_types=types)


def _parts_of_slices(devices, count: int) -> list:
  """The devices in as many equal parts, each of whole slices; devices that know of no slice, in their order."""
  slice_of = lambda device: getattr(device, "slice_index", None) or 0  # of TPUs, and of GPUs in some versions
  ordered = sorted(devices, key=slice_of)
  size = len(ordered) // count
  parts = [ordered[first : first + size] for first in range(0, len(ordered), size)]
  slices = [set(map(slice_of, part)) for part in parts]
  found = len(set().union(*slices))
  if found > 1 and sum(map(len, slices)) != found:
    raise UserError(f"mesh dcn of {count} would cut one of {found} slices; make it {found}, or a divisor of {found}")
  return parts


def spec(axes: tuple[str | None, ...], rules: dict = RULES) -> PartitionSpec:
  """PartitionSpec of an array whose dimensions have these logical names (None: not sharded)."""
  return PartitionSpec(*(None if axis is None else rules[axis] for axis in axes))


def sharding(mesh: Mesh, axes: tuple[str | None, ...], rules: dict = RULES) -> NamedSharding:
  """NamedSharding of an array whose dimensions have these logical names."""
  return NamedSharding(mesh, spec(axes, rules))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of a value that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def on_host(placed: NamedSharding) -> NamedSharding:
  """The same sharding in the host's memory beside each device."""
  return placed.with_memory_kind(HOST)


def on_device(tree):
  """Inside jit: the arrays of a tree that are in the host's memory, in the device's."""
  return jax.device_put(tree, jax.memory.Space.Device)


def of_part(shape: tuple[int, ...], parameter: jax.ShapeDtypeStruct) -> NamedSharding:
  """The sharding of a moment of a parameter.

  It is the parameter's own where the moment has its shape, that without one axis where the moment is the parameter with an axis
  summed away, and otherwise, or where axes of one length leave open which it is, the moment is held whole by every device.
  """
  mesh, rank = parameter.sharding.mesh, len(parameter.shape)
  if shape == parameter.shape:
    return parameter.sharding
  axes = (*parameter.sharding.spec, *[None] * (rank - len(parameter.sharding.spec)))
  without = lambda of, axis: (*of[:axis], *of[axis + 1 :])
  found = {without(axes, axis) for axis in range(rank) if without(parameter.shape, axis) == shape}
  return NamedSharding(mesh, PartitionSpec(*found.pop())) if len(found) == 1 else replicated(mesh)


def shard(x: jax.Array, axes: tuple[str | None, ...], rules: dict = ACTIVATION_RULES) -> jax.Array:
  """Constrains an activation, or under `RULES` a weight, to the mesh in use (`jax.set_mesh`); the identity without one."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes, rules))


def per_device(function: Callable, in_axes: tuple, out_axes: tuple) -> Callable:
  """`function` as every device runs it on its own part of the arrays, for what XLA cannot divide, such as a kernel.

  Args:
    function: takes as many arrays as there are `in_axes` and returns as many as there are `out_axes`, as a tuple.
    in_axes: the logical names of each array's dimensions; a dimension divides evenly over the devices.
    out_axes: those of each result.

  Returns:
    `function` itself when no mesh is in use or it has one device.
  """
  if jax.sharding.get_abstract_mesh().size <= 1:
    return function
  specs = lambda arrays: tuple(spec(axes, ACTIVATION_RULES) for axes in arrays)
  return jax.shard_map(function, in_specs=specs(in_axes), out_specs=specs(out_axes), check_vma=False)


def whole(x: jax.Array, axis: int, name: str) -> jax.Array:
  """Inside `per_device`, all of an array of which each device has a part along `axis`, whose logical name is given."""
  over = _over(name)
  return jax.lax.all_gather(x, over, axis=axis, tiled=True) if parts(name) > 1 else x


def summed(x: jax.Array, name: str) -> jax.Array:
  """Inside `per_device`, the sum of an array over the devices that a logical axis is cut over."""
  return jax.lax.psum(x, _over(name)) if parts(name) > 1 else x


def summed_parts(x: jax.Array, axis: int, name: str) -> jax.Array:
  """The same sum, of which each device gets its own part along `axis`: what `whole` put together is parted again."""
  return jax.lax.psum_scatter(x, _over(name), scatter_dimension=axis, tiled=True) if parts(name) > 1 else x


def part_of(name: str) -> jax.Array | int:
  """Inside `per_device`, the number of the part that a device has of a logical axis."""
  return jax.lax.axis_index(_over(name)) if parts(name) > 1 else 0


def parts(name: str, mesh: Mesh | None = None) -> int:
  """Into how many parts a logical axis of activations is cut, on the mesh in use or on this one; 1 where there is none."""
  shape = jax.sharding.get_abstract_mesh().shape if mesh is None else mesh.shape
  return math.prod(shape.get(axis, 1) for axis in _over(name))


def axis_of(name: str) -> str:
  """Inside `per_device`, the mesh axis that a logical axis is cut over, where it is one."""
  (axis,) = _over(name)
  return axis


def _over(name: str) -> tuple[str, ...]:
  rule = ACTIVATION_RULES[name]
  return (rule,) if isinstance(rule, str) else (rule or ())


def check_divides(mesh: Mesh, **sizes: int) -> None:
  """Raises UserError unless each named logical size divides over its mesh axes, e.g. `check_divides(mesh, batch=60)`."""
  for name, size in sizes.items():
    rule = RULES[name]
    over = [axis for axis in ((rule,) if isinstance(rule, str) else (rule or ())) if mesh.shape[axis] > 1]
    devices = math.prod(mesh.shape[axis] for axis in over)
    if size % devices:
      raise UserError(
        f"{name} of {size} does not divide over {devices} devices ({' x '.join(over)}); make {name} a multiple of {devices}"
      )
