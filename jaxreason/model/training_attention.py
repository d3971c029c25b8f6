"""Floor 2: attention of whole rows, as training and every pass without a cache computes it.

What enters: the segments of a batch's rows, once for all layers. What leaves: `attend(q, k, v)`, the same numbers from every
kernel. "einsum" is plain XLA, runs anywhere and holds N · T scores a token, of long rows those of one block of queries; the
Pallas kernels of `training_attention_gpu` and `training_attention_tpu` hold a block of them. None looks across segments, or
from one response to another of the same prompt.
`choose` says which one is for whom.

Where the mesh cuts rows along their length, each device has the queries of its part and gathers the keys and values of all.
B rows, T tokens, N heads = K kv heads x G, H head dim.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxreason import sharding
from jaxreason.errors import UserError
from jaxreason.model import attention, remat
from jaxreason.model import cache as caches
from jaxreason.model.block_attention import attend_blocks

KERNELS = ("einsum", "pallas_gpu", "splash_tpu")

# Of plain XLA: rows of so many tokens are computed in so many blocks of queries, or in more where blocks would be longer than
# that; the backward pass computes a block's scores again, which is faster than to keep T² of them.
_LONG, _BLOCKS = 256, 4

# The logical names of the dimensions of queries, keys, a number a query, a number a key, and a mask.
_HEADS, _KEYS = ("batch", "length", "heads", None), ("batch", "length", "kv_heads", None)
_QUERY, _KEY, _MASK = ("batch", "length"), ("batch", None), ("batch", None, "length", None)


def attend_rows(
  kernel: str, segments, batch: int, length: int, *, positions=None, window: int = 0, cap: float = 0.0, interpret: bool = False
) -> Callable:
  """(q [B, T, N, H], k [B, T, K, H], v [B, T, K, H]) -> [B, T, N, H] in the queries' dtype, for every layer.

  Args:
    kernel: of `KERNELS`.
    segments: [B, T] int32, a pair (group, response) of such arrays, or None; `attention.sequence_mask` says who sees whom. A
      third array says which blocks of columns hold what a block sees, see `block_attention`; only "einsum" reads it.
    batch: B.
    length: T, a multiple of the parts that the mesh cuts it in.
    positions: [B, T] int32, with a window.
    window: how many positions, its own among them, a query sees; 0 is all. Within a segment they count columns, but for
      responses behind a shared prompt.
    cap: of the scores, see `attention.attend`.
    interpret: runs a Pallas kernel as ordinary operations, on any platform.
  """
  if kernel not in KERNELS:
    raise UserError(f"model.attention expected {', '.join(KERNELS)}, got {kernel!r}")
  seen = None
  if isinstance(segments, tuple) and len(segments) == 3:
    *segments, seen = segments
    segments = tuple(segments)
  if kernel == "einsum" and sharding.parts("length") == 1:  # XLA divides it over rows and heads by itself
    if seen is not None:
      found = attend_blocks(*segments, seen, positions=positions, window=window, cap=cap)
      return lambda q, k, v: remat.named(found(q, k, v), remat.ATTENTION)
    mask = attention.sequence_mask(segments, batch, length)
    mask = mask & attention.window_mask(positions, window) if window else mask
    return functools.partial(_einsum_by_blocks, mask_B1TS=mask, cap=cap)
  if kernel == "einsum":
    function, arrays, axes = _einsum_on_parts(segments, batch, length, positions, window, cap)
  else:
    function, arrays, axes = _on_parts(kernel, segments, batch, length, positions, window, cap, interpret)

  def local(q, k, v, *arrays):
    return (function(q, *(sharding.whole(x, 1, "length") for x in (k, v)), *arrays),)

  divided = sharding.per_device(local, (_HEADS, _KEYS, _KEYS, *axes), (_HEADS,))
  return lambda q, k, v: divided(q, k, v, *arrays)[0]


def _on_parts(kernel: str, segments, batch: int, length: int, positions, window: int, cap: float, interpret: bool):
  """(function, arrays beside q, k and v, the names of their dimensions) of what one device does, by a kernel."""
  if kernel == "pallas_gpu":
    from jaxreason.model import training_attention_gpu as gpu

    nothing = jnp.zeros((batch, length), jnp.int32)
    pair = segments if isinstance(segments, tuple) else (_or(segments, nothing), nothing)
    queries, keys = (mark if window else mark[:4] for mark in gpu.marks(*pair, positions if window else None))
    count = len(queries)
    split = lambda marks: (gpu.Marks(*marks[:count]), gpu.Marks(*marks[count:]))
    function = lambda q, k, v, *marks: gpu.attend(q, k, v, *split(marks), window, cap, interpret)
    return function, (*queries, *keys), (_QUERY,) * count + (_KEY,) * count
  from jaxreason.model import training_attention_tpu as tpu

  # The kernel knows segments of whole rows; what else there is it is given as a mask.
  if not isinstance(segments, tuple) and sharding.parts("length") == 1:
    ids = _or(segments, jnp.zeros((batch, length), jnp.int32))
    return functools.partial(tpu.attend_segments, window=window, cap=cap, interpret=interpret), (ids,), (_KEY,)
  function = functools.partial(tpu.attend_mask, cap=cap, interpret=interpret)
  if sharding.parts("length") > 1:
    return function, (_mask_on_parts(segments, batch, length, positions, window),), (_MASK,)
  mask = attention.sequence_mask(segments, batch, length)
  return function, (mask & attention.window_mask(positions, window) if window else mask,), (_MASK,)


def _einsum_on_parts(segments, batch: int, length: int, positions, window: int, cap: float):
  """As `_on_parts`, plain XLA."""
  return functools.partial(_einsum, cap=cap), (_mask_on_parts(segments, batch, length, positions, window),), (_MASK,)


def _mask_on_parts(segments, batch: int, length: int, positions=None, window: int = 0):
  """The mask of all rows, made by each device for its own part of them."""
  nothing = jnp.zeros((batch, length), jnp.int32)
  place = nothing + jnp.arange(length, dtype=jnp.int32)[None]
  pair = segments if isinstance(segments, tuple) else (_or(segments, nothing), nothing)
  arrays = (place, *pair, positions) if window else (place, *pair)
  local = functools.partial(_mask_of_part, window=window)
  return sharding.per_device(local, (_QUERY,) * len(arrays), (_MASK,))(*arrays)[0]


def _mask_of_part(place, group, response, position=None, *, window: int):
  """`attention.sequence_mask` for the queries of one device's part of the rows, which holds no square of their length."""
  whole = lambda x: sharding.whole(x, 1, "length")[:, None]
  places, groups, responses = map(whole, (place, group, response))
  own = (responses == 0) | (responses == response[:, :, None])
  seen = (places <= place[:, :, None]) & (groups == group[:, :, None]) & own
  seen = seen & (position[:, :, None] - whole(position) < window) if window else seen
  return (seen[:, None],)


def _or(segments, default):
  return default if segments is None else segments


def _einsum(q, k, v, mask_B1TS, cap):
  return remat.named(attention.attend(q, caches.by_head(k), caches.by_head(v), mask_B1TS, cap=cap), remat.ATTENTION)


def _einsum_by_blocks(q, k, v, mask_B1TS, cap):
  """The same in blocks of queries, none of which looks at keys behind its own end: of n blocks (n + 1) / 2n of the scores.

  Long rows only: a block is a product of its own, and few rows make a slow one.
  """
  T = q.shape[1]
  key, value = caches.by_head(k), caches.by_head(v)
  blocks = 1 if T < _LONG else max(_BLOCKS, T // _LONG)
  ends = [T * (block + 1) // blocks for block in range(blocks)]
  starts = [0, *ends[:-1]]
  one = functools.partial(attention.attend, cap=cap)
  one = one if blocks == 1 else jax.checkpoint(one, prevent_cse=False)
  parts = [
    one(q[:, start:end], key[:, :, :end], value[:, :, :end], mask_B1TS[:, :, start:end, :end])
    for start, end in zip(starts, ends, strict=True)
  ]
  return remat.named(jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0], remat.ATTENTION)


def choose(
  platform: str, *, heads: int, kv_heads: int, head_dim: int, mesh: jax.sharding.Mesh | None = None
) -> tuple[str, str]:
  """(kernel, one line that says why) for a platform and the shape of a model.

  Args:
    platform: "cpu", "gpu", "cuda" or "tpu", of the devices that train.
    heads: N.
    kv_heads: K.
    head_dim: H.
    mesh: the devices, when there is more than one.
  """
  if platform == "cpu":
    return "einsum", "plain XLA: Pallas has no compiler for CPU"
  if platform not in ("gpu", "cuda", "tpu"):
    return "einsum", f"plain XLA: no kernel for {platform}"
  if mesh is not None and mesh.size > 1:
    try:
      sharding.check_divides(mesh, heads=heads, kv_heads=kv_heads)
    except UserError as error:
      return "einsum", f"plain XLA: a kernel needs whole heads on each device, and {error}"
  name = "splash_tpu" if platform == "tpu" else "pallas_gpu"
  try:
    if platform == "tpu":
      from jaxreason.model import training_attention_tpu as kernels
    else:
      from jaxreason.model import training_attention_gpu as kernels
  except ImportError as error:
    return "einsum", f"plain XLA: this JAX does not have what {name} is made of ({error})"
  unfit = kernels.unfit(head_dim)
  if unfit:
    return "einsum", f"plain XLA: {unfit}"
  return name, f"{name} holds a block of scores at a time ({heads} heads on {kv_heads} of {head_dim})"
