"""Floor 2: one part of a decode step's attention as a Pallas kernel for TPUs.

What enters: the M queries of each row and kv head, keys, values and lengths. What leaves: unnormalised sums with their
largest scores, in one piece, for `decode_attention` to put together. R rows, K kv heads, S slots, H head dim.

A step of the grid is a block of slots of a few rows, all their kv heads together, so that it moves much for what starting
it costs. The lengths come ahead of the grid: a block beyond the longest of the rows is not fetched, beyond a row's own length
not computed. JAX's own kernels for TPU read pages, not rows.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxreason.model.attention import MASKED, capped

# A TPU's registers are this many numbers wide.
LANES = 128

# Of slots, the longest block of a row, and of bytes, the largest: keys and values, each twice, must fit 16 MiB beside a core.
BLOCK_SLOTS = 512
BLOCK_BYTES = 1 << 20


def unfit(head_dim: int, slots: int, prefix_slots: int = 0) -> str:
  """Why the kernel does not take these shapes, or nothing."""
  del slots, prefix_slots
  return f"the TPU kernel takes head dims in multiples of 8, got {head_dim}" if head_dim % 8 else ""


def attend_part(q_RKMH, keys_RKSH, values_RKSH, lengths_R, first_RM=None, *, cap: float = 0.0, interpret: bool = False):
  """(o [R, K, 1, M, H], m [R, K, 1, M], l [R, K, 1, M]), float32; `decode_attention` says what they are.

  With `first_RM`, int32, a query sees no slot before its first; a block before the first of all its rows is not fetched.
  """
  R, K, M, H = q_RKMH.shape
  S = keys_RKSH.shape[2]
  # Arrays whose last axis does not fill the lanes lie with their slots along them; so the kernel reads them that way.
  across = H % LANES != 0
  if across:
    keys_RKSH, values_RKSH = (jnp.swapaxes(x, 2, 3) for x in (keys_RKSH, values_RKSH))
  fits = BLOCK_BYTES // (K * H * keys_RKSH.dtype.itemsize)
  block_s = min(S, BLOCK_SLOTS, max(fits // LANES * LANES, LANES))
  block_r = math.gcd(R, 1 << max(fits // block_s, 1).bit_length() - 1)

  def cache(r, b, lengths, *first):
    """Beyond the longest row it stays at the last block in use, which is there already; before a window it is the first one."""
    longest = functools.reduce(jnp.maximum, [lengths[r * block_r + i] for i in range(block_r)])
    last = jax.lax.div(jnp.maximum(longest - 1, 0), block_s)
    if first:
      least = functools.reduce(jnp.minimum, [first[0][r * block_r + i] for i in range(block_r)])
      b = jnp.maximum(b, jax.lax.div(least, block_s))
    b = jnp.minimum(b, last)
    return (r, 0, 0, b) if across else (r, 0, b, 0)

  rows = lambda *shape: pl.BlockSpec((block_r, *shape), lambda r, b, *ahead: (r, *[0] * len(shape)))
  ahead, windows = (lengths_R.astype(jnp.int32),), ()
  if first_RM is not None:
    ahead, windows = (*ahead, jnp.min(first_RM, axis=1)), (first_RM[:, :, None],)
  slots = pl.BlockSpec((block_r, K, H, block_s) if across else (block_r, K, block_s, H), cache)
  call = pl.pallas_call(
    functools.partial(_body, block_r=block_r, block_s=block_s, across=across, windows=len(windows), cap=cap),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=len(ahead),
      grid=(R // block_r, pl.cdiv(S, block_s)),
      in_specs=[rows(K, M, H), slots, slots, *[rows(M, 1)] * len(windows)],
      out_specs=[rows(K, M, H), rows(K, M, 1), rows(K, M, 1)],
    ),
    out_shape=[jax.ShapeDtypeStruct((R, K, M, width), jnp.float32) for width in (H, 1, 1)],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    interpret=interpret,
    name="decode_attention",
  )
  o, m, l = call(*ahead, q_RKMH, keys_RKSH, values_RKSH, *windows)
  return o[:, :, None], m[:, :, None, :, 0], l[:, :, None, :, 0]


def _body(lengths_ref, *refs, block_r, block_s, across, windows, cap):
  """One block of slots of each row, added to what the blocks before it gave."""
  least_ref, refs = refs[:windows], refs[windows:]
  o_ref, m_ref, l_ref = refs[-3:]
  first_row, first = pl.program_id(0) * block_r, pl.program_id(1) * block_s

  @pl.when(first == 0)
  def start():
    o_ref[...] = jnp.zeros_like(o_ref)
    m_ref[...] = jnp.full_like(m_ref, MASKED)
    l_ref[...] = jnp.zeros_like(l_ref)

  def row(i, nothing):
    left = lengths_ref[first_row + i] - first
    there = left > 0
    if windows:
      there = there & (first + block_s > least_ref[0][first_row + i])
    pl.when(there)(lambda: _add(first, left, *(ref.at[i] for ref in refs), across=across, cap=cap))
    return nothing

  jax.lax.fori_loop(0, block_r, row, None)


def _add(first, left, q_ref, k_ref, v_ref, *refs, across, cap):
  """The first `left` slots of one row's block."""
  *first_ref, o_ref, m_ref, l_ref = refs
  q_KMH = q_ref[...]
  axis = 2 if across else 1
  # Masked values are made zeros: whatever they hold, NaN too, must not meet a weight of zero.
  valid = jax.lax.broadcasted_iota(jnp.int32, v_ref.shape, axis) < left
  v = jnp.where(valid, v_ref[...].astype(jnp.float32), 0.0).astype(q_KMH.dtype)
  scores_KMS = _product(q_KMH, k_ref[...].astype(q_KMH.dtype), 1 if across else 2) * q_KMH.shape[-1] ** -0.5
  slot = jax.lax.broadcasted_iota(jnp.int32, scores_KMS.shape, 2)
  seen = slot < left
  seen = seen & (slot + first >= first_ref[0][...][None]) if first_ref else seen
  scores_KMS = jnp.where(seen, capped(scores_KMS, cap), MASKED)
  m = m_ref[...]
  largest = jnp.maximum(m, jnp.max(scores_KMS, axis=-1, keepdims=True))
  kept = jnp.exp(m - largest)
  p_KMS = jnp.exp(scores_KMS - largest)
  if first_ref:
    p_KMS = jnp.where(seen, p_KMS, 0.0)  # a query whose window begins behind this block has seen nothing yet
  o_ref[...] = o_ref[...] * kept + _product(p_KMS.astype(v.dtype), v, axis)
  l_ref[...] = l_ref[...] * kept + jnp.sum(p_KMS, axis=-1, keepdims=True)
  m_ref[...] = largest


def _product(x_KMX, y, axis):
  """x times y over x's last axis and y's `axis`, for each kv head, in float32."""
  return jax.lax.dot_general(x_KMX, y, (((2,), (axis,)), ((0,), (0,))), preferred_element_type=jnp.float32)


def write(keys_RKSH, values_RKSH, new_keys_RKH, new_values_RKH, at_R, *, interpret: bool = False):
  """(keys, values) with one new entry of each row at that row's slot, in place where the arrays are donated.

  Only the block around the slot is read and written. Plain XLA would make a loop over rows of it (`cache.write`), and where
  H does not fill the lanes turn the whole cache around and back.
  """
  R, K, S, H = keys_RKSH.shape
  across = H % LANES != 0
  if across:
    keys_RKSH, values_RKSH = (jnp.swapaxes(x, 2, 3) for x in (keys_RKSH, values_RKSH))
  block_s = min(S, LANES if across else 16)
  new = lambda x: x.astype(keys_RKSH.dtype).reshape(R, K, 1, H)

  def cache(r, at):
    b = jax.lax.div(at[r], block_s)
    return (r, 0, 0, b) if across else (r, 0, b, 0)

  one = pl.BlockSpec((None, K, 1, H), lambda r, at: (r, 0, 0, 0))
  slots = pl.BlockSpec((None, K, H, block_s) if across else (None, K, block_s, H), cache)
  call = pl.pallas_call(
    functools.partial(_write_body, block_s=block_s, across=across),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1, grid=(R,), in_specs=[one, one, slots, slots], out_specs=[slots, slots]
    ),
    out_shape=[jax.ShapeDtypeStruct(keys_RKSH.shape, keys_RKSH.dtype)] * 2,
    input_output_aliases={3: 0, 4: 1},
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
    interpret=interpret,
    name="decode_write",
  )
  keys, values = call(at_R.astype(jnp.int32), new(new_keys_RKH), new(new_values_RKH), keys_RKSH, values_RKSH)
  return (jnp.swapaxes(keys, 2, 3), jnp.swapaxes(values, 2, 3)) if across else (keys, values)


def _write_body(at_ref, new_k_ref, new_v_ref, k_ref, v_ref, out_k_ref, out_v_ref, *, block_s, across):
  slot = jax.lax.rem(at_ref[pl.program_id(0)], block_s)
  here = jax.lax.broadcasted_iota(jnp.int32, k_ref.shape, 2 if across else 1) == slot
  for new_ref, old_ref, out_ref in ((new_k_ref, k_ref, out_k_ref), (new_v_ref, v_ref, out_v_ref)):
    new = new_ref[...]
    if across:
      new = jnp.swapaxes(new.astype(jnp.float32), 1, 2).astype(new.dtype)
    out_ref[...] = jnp.where(here, new, old_ref[...])
