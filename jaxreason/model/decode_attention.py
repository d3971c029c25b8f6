"""Floor 2: attention of a decode step, one query a row over a cache of two parts.

What enters: rotated queries, each row's own keys and values, and perhaps those of the prompt that a lane of rows shares.
What leaves: the attended values, the same from every kernel, or (`write_decode`) the cache with a step's entries in it.

The Pallas kernels of `decode_attention_gpu` and `decode_attention_tpu` stop near a row's length. "einsum" is plain XLA, runs
anywhere and reads a cache to its end; here it is what the kernels must equal, and the decoder does the same for any number of
queries a row. `choose` says which one is for whom.

B rows = P prompts x g, row b reads prompt b // g. N heads = K kv heads x G, H head dim, S slots of a row, s of a prompt,
M queries of one kv head: G of a row, g·G of a prompt's lane, so that a prompt is read once however many rows share it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxreason import sharding
from jaxreason.errors import UserError
from jaxreason.model import attention
from jaxreason.model import cache as caches


def attend_decode(
  q_BNH: jax.Array,
  keys_BKSH: jax.Array,
  values_BKSH: jax.Array,
  lengths_B: jax.Array,
  prefix_keys_PKsH: jax.Array | None = None,
  prefix_values_PKsH: jax.Array | None = None,
  prefix_lengths_P: jax.Array | None = None,
  *,
  kernel: str = "einsum",
  window: int = 0,
  cap: float = 0.0,
  interpret: bool = False,
) -> jax.Array:
  """softmax(q [prefix keys, keys]ᵀ / √H) [prefix values, values], one softmax over both parts.

  What lies beyond the valid slots has weight zero, exactly. The Pallas kernels do not let NaN through from there either;
  "einsum" multiplies values by that zero and adds a large number to scores, so both must be of usual size there. They are in a
  cache that begins with zeros and holds what a model wrote; to clear it at each step takes a copy of it on CPU and GPU.

  Args:
    q_BNH: queries; head n reads kv head n // G.
    keys_BKSH: each row's keys.
    values_BKSH: each row's values.
    lengths_B: int32, at least 1: a row's valid slots are the first ones, its query's own key is in the last of them.
    prefix_keys_PKsH: keys of the prompts, or None: then the three of the prefix are.
    prefix_values_PKsH: values of the prompts.
    prefix_lengths_P: int32, may be 0.
    kernel: "einsum", "pallas_gpu" or "pallas_tpu".
    window: how many positions a query sees, of a prompt's slots and its row's together, its own among them; 0 is all.
    cap: of the scores, see `attention.attend`.
    interpret: runs a Pallas kernel as ordinary operations, on any platform.

  Returns:
    [B, N, H] in the queries' dtype.
  """
  prefix = (prefix_keys_PKsH, prefix_values_PKsH, prefix_lengths_P)
  if any(part is None for part in prefix) != all(part is None for part in prefix):
    raise UserError("attend_decode expected keys, values and lengths of the prefix, or none of them; got some")
  prefix = () if prefix_keys_PKsH is None else prefix
  if prefix and q_BNH.shape[0] % prefix_keys_PKsH.shape[0]:
    raise UserError(
      f"{q_BNH.shape[0]} rows do not divide over {prefix_keys_PKsH.shape[0]} prompts; every prompt's lane has as many rows"
    )
  arrays = (q_BNH, keys_BKSH, values_BKSH, lengths_B, *prefix)
  if kernel == "einsum":
    return _einsum(*arrays, window=window, cap=cap)
  # XLA cannot divide a kernel over devices; every device runs it on the rows and heads that it holds.
  axes = (_HEADS, _CACHE, _CACHE, ("slots",), *((_CACHE, _CACHE, ("slots",)) if prefix else ()))
  local = functools.partial(_kernel, functools.partial(_part_of(kernel), cap=cap, interpret=interpret), window)
  return sharding.per_device(local, axes, (_HEADS,))(*arrays)[0]


def write_decode(
  keys_BKSH: jax.Array, values_BKSH: jax.Array, new_keys_BKH: jax.Array, new_values_BKH: jax.Array, at_B: jax.Array, *,
  kernel: str = "einsum", interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """(keys, values) with a step's entry of each row at that row's slot, in the way that goes with a kernel of `attend_decode`.

  The numbers are those of `cache.write`. On TPU that is a loop over rows, and where H is no multiple of 128 the write and the
  attention would each have the cache lie their own way and copy it between them, at every step; the kernel does neither.

  Args:
    keys_BKSH: each row's keys, donated or not.
    values_BKSH: each row's values.
    new_keys_BKH: the keys of one token a row, rotated.
    new_values_BKH: its values.
    at_B: int32 in [0, S).
    kernel: "einsum", "pallas_gpu" or "pallas_tpu"; the last alone is a kernel here.
    interpret: as of `attend_decode`.
  """
  if kernel != "pallas_tpu":
    return tuple(
      caches.write(array, new[:, None], at_B) for array, new in ((keys_BKSH, new_keys_BKH), (values_BKSH, new_values_BKH))
    )
  from jaxreason.model.decode_attention_tpu import write

  local = functools.partial(write, interpret=interpret)
  axes = (_CACHE, _CACHE, _NEW, _NEW, ("slots",))
  arrays = (keys_BKSH, values_BKSH, new_keys_BKH, new_values_BKH, at_B)
  return sharding.per_device(local, axes, (_CACHE, _CACHE))(*arrays)


# The logical names of the dimensions of queries, of a cache and of what is written to it.
_HEADS = ("slots", "heads", None)
_CACHE = ("slots", "kv_heads", None, None)
_NEW = ("slots", "kv_heads", None)


def choose(
  platform: str, *, heads: int, kv_heads: int, head_dim: int, rows: int, slots: int, prompts: int = 0, prefix_slots: int = 0,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[str, str]:  # fmt: skip
  """(kernel, one line that says why) for a platform and the shapes of a rollout.

  Args:
    platform: "cpu", "gpu", "cuda" or "tpu", of the devices that decode.
    heads: N.
    kv_heads: K.
    head_dim: H.
    rows: B.
    slots: S; where the cache grows, the step in which it does.
    prompts: P, 0 without a prefix.
    prefix_slots: s, or the step in which it grows; 0 without a prefix.
    mesh: the devices, when there is more than one.
  """
  shapes = f"{heads} heads on {kv_heads} of {head_dim}, {slots} slots"
  if platform == "cpu":
    return "einsum", "plain XLA: Pallas has no compiler for CPU"
  if platform not in ("gpu", "cuda", "tpu"):
    return "einsum", f"plain XLA: no kernel for {platform}"
  if mesh is not None and mesh.size > 1:
    try:
      for count in (rows, prompts):
        sharding.check_divides(mesh, slots=count, kv_heads=kv_heads)
    except UserError as error:
      return "einsum", f"plain XLA: a kernel needs whole parts on each device, and {error}"
  if platform == "tpu":
    from jaxreason.model import decode_attention_tpu as kernels
  else:
    try:
      from jaxreason.model import decode_attention_gpu as kernels
    except ImportError as error:
      return "einsum", f"plain XLA: this JAX has no Pallas for Triton ({error})"
  unfit = kernels.unfit(head_dim, slots, prefix_slots)
  if unfit:
    return "einsum", f"plain XLA: {unfit}"
  name = "pallas_tpu" if platform == "tpu" else "pallas_gpu"
  return name, f"{name} stops reading near a row's length ({shapes})"


def _part_of(kernel: str) -> Callable:
  if kernel == "pallas_gpu":
    from jaxreason.model.decode_attention_gpu import attend_part
  elif kernel == "pallas_tpu":
    from jaxreason.model.decode_attention_tpu import attend_part
  else:
    raise UserError(f'attend_decode expected kernel "einsum", "pallas_gpu" or "pallas_tpu", got "{kernel}"')
  return attend_part


def _kernel(attend_part, window, q_BNH, keys_BKSH, values_BKSH, lengths_B, *prefix):
  """Each part by a kernel, which gives its unnormalised sums, then one softmax out of all of them."""
  q_BKGH = _by_kv_head(q_BNH, keys_BKSH.shape[1])
  G = q_BKGH.shape[2]
  # Of each query the first slot that its window reaches.
  first = lambda end_BG: jnp.maximum(end_BG - window, 0).astype(jnp.int32)
  own = (first(jnp.repeat(lengths_B[:, None], G, axis=1)),) if window else ()
  parts = [attend_part(q_BKGH, keys_BKSH, values_BKSH, lengths_B, *own)]
  if prefix:
    P, g = prefix[0].shape[0], q_BNH.shape[0] // prefix[0].shape[0]
    ends_PM = jnp.repeat(prefix[2][:, None] + lengths_B.reshape(P, g), G, axis=1)
    shared = attend_part(_lanes(q_BKGH, P), *prefix, *((first(ends_PM),) if window else ()))
    parts.append(tuple(jax.vmap(functools.partial(_rows, g=g), 2, 2)(part) for part in shared))
  return (_merged(parts).astype(q_BNH.dtype).reshape(q_BNH.shape),)


def _merged(parts) -> jax.Array:
  """[B, K, G, H] float32 of softmax parts, each in C pieces.

    out = Σᵢ wᵢ oᵢ / Σᵢ wᵢ lᵢ,   wᵢ = exp(mᵢ - max m)

  where m is the largest score of a piece, l the sum of exp(score - m) and o that of exp(score - m) value. A piece with
  nothing to attend to comes with m = MASKED and o = l = 0.

  Args:
    parts: triples (o [B, K, C, G, H], m [B, K, C, G], l [B, K, C, G]), float32.
  """
  o, m, l = (jnp.concatenate(pieces, axis=2) for pieces in zip(*parts, strict=True))
  w = jnp.exp(m - jnp.max(m, axis=2, keepdims=True))
  return jnp.sum(w[..., None] * o, axis=2) / jnp.sum(w * l, axis=2)[..., None]


def _einsum(q_BNH, keys_BKSH, values_BKSH, lengths_B, *prefix, window, cap):
  own = q_BNH[:, None], keys_BKSH, values_BKSH, attention.cache_bias(keys_BKSH.shape[2], lengths_B - 1, 1, window)
  if not prefix:
    return attention.attend(*own, cap=cap)[:, 0]
  prefix_keys, prefix_values, lengths_P = prefix
  if window:
    before = attention.prefix_window_bias(prefix_keys.shape[2], lengths_P, lengths_B - 1, 1, window)
  else:
    before = attention.prefix_bias(prefix_keys.shape[2], lengths_P)
  return attention.attend_after(*own, prefix_keys, prefix_values, before, cap=cap)[:, 0]


def _by_kv_head(q_BNH, kv_heads):
  B, N, H = q_BNH.shape
  return q_BNH.reshape(B, kv_heads, N // kv_heads, H)


def _lanes(x_BKGX, prompts):
  """[P·g, K, G, X] -> [P, K, g·G, X]: the queries of a lane as those of one row."""
  B, K, G, X = x_BKGX.shape
  return jnp.swapaxes(x_BKGX.reshape(prompts, B // prompts, K, G, X), 1, 2).reshape(prompts, K, B // prompts * G, X)


def _rows(x_PKMX, g):
  """[P, K, g·G, ...] -> [P·g, K, G, ...], the way back."""
  P, K, M = x_PKMX.shape[:3]
  return jnp.swapaxes(x_PKMX.reshape(P, K, g, M // g, *x_PKMX.shape[3:]), 1, 2).reshape(P * g, K, M // g, *x_PKMX.shape[3:])
