"""Floor 2: one part of a decode step's attention as a Pallas kernel for GPUs, by way of Triton.

What enters: the M queries of each row and kv head, keys, values and lengths. What leaves: unnormalised sums with their
largest scores, in C pieces of the slots, for `decode_attention` to put together. R rows, K kv heads, S slots, H head dim.

JAX has a kernel of this kind, `pallas.ops.gpu.decode_attention.gqa`. This one is not it: theirs adds a large negative number
to the scores of masked slots, which lets NaN through, keeps its pieces in bfloat16, and is deprecated. So is Pallas for Triton
as a whole since JAX 0.12; where the import below fails, `decode_attention.choose` says so and takes plain XLA.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxreason.errors import UserError
from jaxreason.model.attention import MASKED, capped

# Of slots, what every width must be a multiple of: Triton's least side of a matrix product.
LEAST = 16

# Programs that keep a large GPU busy, two for each of an H100's 132 multiprocessors.
PROGRAMS = 264


def unfit(head_dim: int, slots: int, prefix_slots: int = 0) -> str:
  """Why the kernel does not take these shapes, or nothing."""
  if head_dim not in (16, 32, 64, 128, 256):
    return f"the GPU kernel takes head dims that are powers of two from 16 to 256, got {head_dim}"
  for name, width in (("slots", slots), ("prefix slots", prefix_slots)):
    if width % LEAST:
      return f"the GPU kernel takes {name} in multiples of {LEAST}, got {width}"
  return ""


def attend_part(q_RKMH, keys_RKSH, values_RKSH, lengths_R, first_RM=None, *, cap: float = 0.0, interpret: bool = False):
  """(o [R, K, C, M, H], m [R, K, C, M], l [R, K, C, M]), float32; `decode_attention` says what they are.

  The slots are cut in C pieces where rows and heads alone would leave multiprocessors idle. With `first_RM`, int32, a query
  sees no slot before its first; blocks that nobody sees are not read.
  """
  R, K, M, H = q_RKMH.shape
  S = keys_RKSH.shape[2]
  reason = unfit(H, S)
  if reason:
    raise UserError(reason)
  block_m = min(64, max(LEAST, pl.next_power_of_2(M)))
  block_s = math.gcd(S, 128 if H <= 64 else 64)
  head_blocks = pl.cdiv(M, block_m)
  wanted = min(pl.cdiv(PROGRAMS, R * K * head_blocks), pl.cdiv(S, block_s))
  piece = pl.cdiv(pl.cdiv(S, block_s), wanted) * block_s
  pieces = pl.cdiv(S, piece)
  whole = pl.BlockSpec((None, None, S, H), lambda r, k, c: (r, k, 0, 0))
  call = pl.pallas_call(
    functools.partial(_body, queries=M, head_blocks=head_blocks, block_s=block_s, piece=piece, cap=cap),
    grid=(R, K, pieces * head_blocks),
    in_specs=[
      pl.BlockSpec((None,), lambda r, k, c: (r,)),
      pl.BlockSpec((None, None, block_m, H), lambda r, k, c: (r, k, c % head_blocks, 0)),
      whole,
      whole,
      *([] if first_RM is None else [pl.BlockSpec((None, block_m), lambda r, k, c: (r, c % head_blocks))]),
    ],
    out_specs=[
      pl.BlockSpec((None, None, None, block_m, H), lambda r, k, c: (r, k, c // head_blocks, c % head_blocks, 0)),
      *[pl.BlockSpec((None, None, None, block_m), lambda r, k, c: (r, k, c // head_blocks, c % head_blocks))] * 2,
    ],
    out_shape=[
      jax.ShapeDtypeStruct((R, K, pieces, M, H), jnp.float32),
      *[jax.ShapeDtypeStruct((R, K, pieces, M), jnp.float32)] * 2,
    ],
    compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
    interpret=interpret,
    name="decode_attention",
  )
  windows = () if first_RM is None else (first_RM,)
  return tuple(call(lengths_R.astype(jnp.int32), q_RKMH, keys_RKSH, values_RKSH, *windows))


def _body(length_ref, q_ref, k_ref, v_ref, *refs, queries, head_blocks, block_s, piece, cap):
  """One piece of one row and kv head, for a block of its queries."""
  *first_ref, o_ref, m_ref, l_ref = refs
  block_m, H = q_ref.shape
  at = pl.program_id(2)
  start = at // head_blocks * piece
  stop = jnp.minimum(length_ref[()], start + piece)
  real_M = jnp.arange(block_m) < queries - at % head_blocks * block_m
  q = plgpu.load(q_ref, mask=real_M[:, None], other=0.0)
  begin = start
  if first_ref:
    first_M = plgpu.load(first_ref[0], mask=real_M, other=stop)
    begin = start + jnp.maximum(jnp.min(first_M) - start, 0) // block_s * block_s

  def block(index, carry):
    o, m, l = carry
    first = begin + index * block_s
    here = pl.ds(first, block_s)
    valid_S = first + jnp.arange(block_s) < stop
    # Masked slots are not read at all: whatever they hold, they are zeros here.
    k = plgpu.load(k_ref.at[here, :], mask=valid_S[:, None], other=0.0).astype(q.dtype)
    v = plgpu.load(v_ref.at[here, :], mask=valid_S[:, None], other=0.0).astype(q.dtype)
    seen = valid_S[None, :]
    seen = seen & (first + jnp.arange(block_s)[None] >= first_M[:, None]) if first_ref else seen
    scores = jnp.where(seen, capped(plgpu.dot(q, k.T) * H**-0.5, cap), MASKED)
    largest = jnp.maximum(m, jnp.max(scores, axis=-1))
    kept = jnp.exp(m - largest)
    p = jnp.exp(scores - largest[:, None])
    if first_ref:
      p = jnp.where(seen, p, 0.0)  # a query whose window begins behind this block has seen nothing yet
    return o * kept[:, None] + plgpu.dot(p.astype(v.dtype), v), largest, l * kept + jnp.sum(p, axis=-1)

  empty = (
    jnp.zeros((block_m, H), jnp.float32), jnp.full((block_m,), MASKED, jnp.float32), jnp.zeros((block_m,), jnp.float32)
  )  # fmt: skip
  o, m, l = jax.lax.fori_loop(0, pl.cdiv(jnp.maximum(stop - begin, 0), block_s), block, empty)
  plgpu.store(o_ref, o, mask=real_M[:, None])
  plgpu.store(m_ref, m, mask=real_M)
  plgpu.store(l_ref, l, mask=real_M)
