"""Floor 2: attention of whole rows as Pallas kernels for GPUs, by way of Triton, forward and backward.

What enters: queries, keys, values, and of every token the `Marks` that say who sees whom. What leaves: what attention gives
and each query's log-sum-exp, or gradients. Scores exist a block at a time. Blocks of keys before a query's group or after the
query are not read, so that a packed row costs what its samples do.

JAX has a kernel of this kind, `pallas.ops.gpu.attention.mha`. This one is not it: theirs wants as many key heads as query
heads, knows segments but no shared prompts, and is deprecated, as is Pallas for Triton since JAX 0.12; where the import below
fails, `training_attention.choose` says so and takes plain XLA.
B rows, T queries, S keys, N heads = K kv heads x G, H head dim.

Source: Dao 2023 (FlashAttention-2), algorithms 1 and 2, https://arxiv.org/abs/2307.08691.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxreason.model import remat
from jaxreason.model.attention import MASKED, capped

LEAST = 16  # Triton's least side of a matrix product


class Marks(NamedTuple):
  """What a query or a key is. A query sees keys of its group that stand no later and are of its response or of response 0, with
  a window only those whose token is less than that before its own."""

  position: jax.Array  # [B, T] int32, its place in the row, from 0
  group: jax.Array  # [B, T] int32
  response: jax.Array  # [B, T] int32
  reach: jax.Array  # [B, T] int32, of a query the place where its group begins, of a key where its group ends
  token: jax.Array | None = None  # [B, T] int32, with a window, its position behind the first of its group


def marks(group_BT: jax.Array, response_BT: jax.Array, token_BT: jax.Array | None = None) -> tuple[Marks, Marks]:
  """(of queries, of keys) of whole rows; groups may lie in pieces. `token_BT`, positions in samples, with a window only."""
  T = group_BT.shape[1]
  place = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], group_BT.shape)
  order = jnp.argsort(group_BT, axis=1, stable=True)
  group = jnp.take_along_axis(group_BT, order, axis=1)
  other = group[:, 1:] != group[:, :-1]
  begins, ends = jnp.pad(other, ((0, 0), (1, 0)), constant_values=True), jnp.pad(other, ((0, 0), (0, 1)), constant_values=True)
  first = jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
  last = jax.lax.cummin(jnp.where(ends, place, T), axis=1, reverse=True)
  back = jnp.argsort(order, axis=1)
  whole = lambda at: jnp.take_along_axis(jnp.take_along_axis(order, at, axis=1), back, axis=1).astype(jnp.int32)
  group_BT, response_BT = group_BT.astype(jnp.int32), response_BT.astype(jnp.int32)
  begin, end = whole(first), whole(last)
  if token_BT is not None:
    token_BT = token_BT - jnp.take_along_axis(token_BT, begin, axis=1)
  return Marks(place, group_BT, response_BT, begin, token_BT), Marks(place, group_BT, response_BT, end, token_BT)


def unfit(head_dim: int) -> str:
  """Why the kernel does not take this head dim, or nothing."""
  fits = head_dim in (16, 32, 64, 128, 256)
  return "" if fits else f"the GPU kernel takes head dims that are powers of two from 16 to 256, got {head_dim}"


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def attend(q_BTNH, k_BSKH, v_BSKH, queries: Marks, keys: Marks, window: int = 0, cap: float = 0.0, interpret: bool = False):
  """softmax(q kᵀ / √H) v over what each query sees, [B, T, N, H] in the queries' dtype; every query sees itself at least."""
  return forward(q_BTNH, k_BSKH, v_BSKH, queries, keys, window=window, cap=cap, interpret=interpret)[0]


def _attend_forward(q_BTNH, k_BSKH, v_BSKH, queries, keys, window, cap, interpret):
  # Named here, for a policy that keeps them spares the kernel a second run; a name outside would keep a copy of them.
  named = functools.partial(remat.named, name=remat.ATTENTION)
  found = forward(q_BTNH, k_BSKH, v_BSKH, queries, keys, window=window, cap=cap, interpret=interpret)
  out, lse = map(named, found)
  return out, (q_BTNH, k_BSKH, v_BSKH, queries, keys, out, lse)


def _attend_backward(window, cap, interpret, kept, slope):
  return *backward(*kept, slope, window=window, cap=cap, interpret=interpret), None, None


attend.defvjp(_attend_forward, _attend_backward)


def forward(
  q_BTNH, k_BSKH, v_BSKH, queries: Marks, keys: Marks, *, window: int = 0, cap: float = 0.0, interpret: bool = False
):
  """(attended [B, T, N, H], log-sum-exp of the scaled scores [B, N, T] float32)."""
  (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
  block_q, block_k = _block(T, H, q_BTNH.dtype, 256), _block(S, H, q_BTNH.dtype, 128)
  mine = pl.BlockSpec((None, block_q, None, H), lambda b, n, i: (b, i, n, 0))
  theirs = pl.BlockSpec((None, S, None, H), lambda b, n, i: (b, 0, n // (N // K), 0))
  call = pl.pallas_call(
    functools.partial(_forward_body, T=T, S=S, block_k=block_k, sees=_Sees(window, cap)),
    grid=(B, N, pl.cdiv(T, block_q)),
    in_specs=[*_marks(queries, block_q), *_marks(keys, S, whole=True), mine, theirs, theirs],
    out_specs=[mine, pl.BlockSpec((None, None, block_q), lambda b, n, i: (b, n, i))],
    out_shape=[jax.ShapeDtypeStruct(q_BTNH.shape, q_BTNH.dtype), jax.ShapeDtypeStruct((B, N, T), jnp.float32)],
    compiler_params=_compiler(H, q_BTNH.dtype),
    interpret=interpret,
    name="training_attention",
  )
  return tuple(call(*_given(queries), *_given(keys), q_BTNH, k_BSKH, v_BSKH))


def backward(
  q_BTNH, k_BSKH, v_BSKH, queries: Marks, keys: Marks, out_BTNH, lse_BNT, slope_BTNH, *, window: int = 0, cap: float = 0.0,
  interpret: bool = False,
):  # fmt: skip
  """Gradients of queries, keys and values, in their dtypes, from that of what attention gave."""
  (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
  G, dtype = N // K, q_BTNH.dtype
  slope_BTNH = slope_BTNH.astype(dtype)
  inner_BNT = jnp.einsum("btnh,btnh->bnt", out_BTNH.astype(jnp.float32), slope_BTNH.astype(jnp.float32))
  block_q, block_k = _block(T, H, dtype, 256), _block(S, H, dtype, 128)
  sees, given = _Sees(window, cap), (*_given(queries), *_given(keys))
  settings = dict(compiler_params=_compiler(H, dtype), interpret=interpret)

  mine = pl.BlockSpec((None, block_q, None, H), lambda b, n, i: (b, i, n, 0))
  theirs = pl.BlockSpec((None, S, None, H), lambda b, n, i: (b, 0, n // G, 0))
  number = pl.BlockSpec((None, None, block_q), lambda b, n, i: (b, n, i))
  dq_BTNH = pl.pallas_call(
    functools.partial(_query_body, T=T, S=S, block_k=block_k, sees=sees),
    grid=(B, N, pl.cdiv(T, block_q)),
    in_specs=[*_marks(queries, block_q), *_marks(keys, S, whole=True), mine, theirs, theirs, mine, number, number],
    out_specs=mine,
    out_shape=jax.ShapeDtypeStruct(q_BTNH.shape, dtype),
    name="training_attention_queries", **settings,
  )(*given, q_BTNH, k_BSKH, v_BSKH, slope_BTNH, lse_BNT, inner_BNT)  # fmt: skip

  mine = pl.BlockSpec((None, block_k, None, H), lambda b, k, j: (b, j, k, 0))
  theirs = pl.BlockSpec((None, T, G, H), lambda b, k, j: (b, 0, k, 0))
  number = pl.BlockSpec((None, G, T), lambda b, k, j: (b, k, 0))
  dk_BSKH, dv_BSKH = pl.pallas_call(
    functools.partial(_key_body, T=T, S=S, block_q=block_q, heads=G, sees=sees),
    grid=(B, K, pl.cdiv(S, block_k)),
    in_specs=[*_marks(queries, T, whole=True), *_marks(keys, block_k), theirs, mine, mine, theirs, number, number],
    out_specs=[mine, mine],
    out_shape=[jax.ShapeDtypeStruct(k_BSKH.shape, k_BSKH.dtype)] * 2,
    name="training_attention_keys", **settings,
  )(*given, q_BTNH, k_BSKH, v_BSKH, slope_BTNH, lse_BNT, inner_BNT)  # fmt: skip
  return dq_BTNH, dk_BSKH, dv_BSKH


def _block(length: int, head_dim: int, dtype, most_bytes: int) -> int:
  """64 tokens, or 32 where one takes more than `most_bytes`: what a multiprocessor's fast memory holds of each array."""
  most = 64 if head_dim * jnp.dtype(dtype).itemsize <= most_bytes else 32
  return min(most, max(LEAST, pl.next_power_of_2(length)))


def _compiler(head_dim: int, dtype):
  """Of 144 ways to cut a causal row of 1,024 tokens on an H100, blocks of 64 queries by 64 keys (32 of head dim 128) with four
  warps and three stages are near the fastest for each of the three kernels; of head dim 128 eight warps took twice as long."""
  small = head_dim * jnp.dtype(dtype).itemsize <= 256
  return plgpu.CompilerParams(num_warps=4 if small else 8, num_stages=3 if small else 2)


class _Sees(NamedTuple):
  """How far a query sees, and how its scores are capped; 0 for neither."""

  window: int
  cap: float

  def parted(self, refs) -> tuple:
    """(refs of queries' marks, of keys', the others)."""
    count = len(Marks._fields) - (not self.window)
    return refs[:count], refs[count : 2 * count], refs[2 * count :]


def _given(marks: Marks) -> list:
  """The arrays that there are."""
  return [array for array in marks if array is not None]


def _marks(marks: Marks, length: int, *, whole: bool = False) -> list:
  return [pl.BlockSpec((None, length), lambda b, n, i: (b, 0 if whole else i))] * len(_given(marks))


def _loaded(refs, at, real):
  """Marks of some tokens; those that are not there are of a group and a place that nobody has."""
  return Marks(*(plgpu.load(ref.at[at], mask=real, other=-1) for ref in refs))


def _seen(query: Marks, key: Marks, real_Q, real_K, sees: _Sees):
  """[Q, K] bool: `attention.sequence_mask` of a block, and a window's."""
  own = (key.response[None] == 0) | (key.response[None] == query.response[:, None])
  earlier = key.position[None] <= query.position[:, None]
  seen = earlier & own & (key.group[None] == query.group[:, None]) & real_Q[:, None] & real_K[None]
  return seen & (query.token[:, None] - key.token[None] < sees.window) if sees.window else seen


def _key_blocks(query: Marks, real_Q, S: int, block_k: int, sees: _Sees):
  """(first, end) of the blocks of keys that some query of a block may see."""
  reach = query.reach
  if sees.window:  # before a sample's token number n are n others of its group, wherever they lie
    reach = reach + jnp.maximum(query.token - sees.window + 1, 0)
  first = jnp.min(jnp.where(real_Q, reach, S)) // block_k
  return first, pl.cdiv(jnp.max(jnp.where(real_Q, query.position, -1)) + 1, block_k)


def _forward_body(*refs, T, S, block_k, sees):
  """One block of queries of one head."""
  of_queries, of_keys, (q_ref, k_ref, v_ref, o_ref, lse_ref) = sees.parted(refs)
  block_q, H = q_ref.shape
  real_Q = pl.program_id(2) * block_q + jnp.arange(block_q) < T
  query = _loaded(of_queries, pl.ds(0, block_q), real_Q)
  q = plgpu.load(q_ref, mask=real_Q[:, None], other=0.0)

  def block(index, carry):
    o, m, l = carry
    here = pl.ds(index * block_k, block_k)
    real_K = index * block_k + jnp.arange(block_k) < S
    seen = _seen(query, _loaded(of_keys, here, real_K), real_Q, real_K, sees)
    k = plgpu.load(k_ref.at[here, :], mask=real_K[:, None], other=0.0)
    v = plgpu.load(v_ref.at[here, :], mask=real_K[:, None], other=0.0)
    scores = jnp.where(seen, capped(plgpu.dot(q, k.T) * H**-0.5, sees.cap), MASKED)
    largest = jnp.maximum(m, jnp.max(scores, axis=-1))
    kept = jnp.exp(m - largest)
    # Where a query has seen nothing yet the largest score is MASKED itself, and its distance to the others none.
    p = jnp.where(seen, jnp.exp(scores - largest[:, None]), 0.0)
    return o * kept[:, None] + plgpu.dot(p.astype(v.dtype), v), largest, l * kept + jnp.sum(p, axis=-1)

  empty = (
    jnp.zeros((block_q, H), jnp.float32), jnp.full((block_q,), MASKED, jnp.float32), jnp.zeros((block_q,), jnp.float32)
  )  # fmt: skip
  o, m, l = jax.lax.fori_loop(*_key_blocks(query, real_Q, S, block_k, sees), block, empty)
  l = jnp.where(real_Q, l, 1.0)
  plgpu.store(o_ref, (o / l[:, None]).astype(o_ref.dtype), mask=real_Q[:, None])
  plgpu.store(lse_ref, m + jnp.log(l), mask=real_Q)


def _slopes(q, k, v, slope, lse_Q, inner_Q, seen, cap: float):
  """(weights [Q, K], gradient of the products q kᵀ [Q, K]), float32."""
  scale = q.shape[-1] ** -0.5
  scores = capped(plgpu.dot(q, k.T) * scale, cap)
  p = jnp.where(seen, jnp.exp(scores - lse_Q[:, None]), 0.0)
  of_scores = p * (plgpu.dot(slope, v.T) - inner_Q[:, None])
  if cap:
    of_scores = of_scores * (1 - jnp.square(scores / cap))
  return p, of_scores * scale


def _query_body(*refs, T, S, block_k, sees):
  """The gradient of one block of queries of one head."""
  of_queries, of_keys, (q_ref, k_ref, v_ref, slope_ref, lse_ref, inner_ref, dq_ref) = sees.parted(refs)
  block_q, H = q_ref.shape
  real_Q = pl.program_id(2) * block_q + jnp.arange(block_q) < T
  query = _loaded(of_queries, pl.ds(0, block_q), real_Q)
  q, slope = (plgpu.load(ref, mask=real_Q[:, None], other=0.0) for ref in (q_ref, slope_ref))
  lse_Q, inner_Q = (plgpu.load(ref, mask=real_Q, other=0.0) for ref in (lse_ref, inner_ref))

  def block(index, dq):
    here = pl.ds(index * block_k, block_k)
    real_K = index * block_k + jnp.arange(block_k) < S
    seen = _seen(query, _loaded(of_keys, here, real_K), real_Q, real_K, sees)
    k, v = (plgpu.load(ref.at[here, :], mask=real_K[:, None], other=0.0) for ref in (k_ref, v_ref))
    _, product_slope = _slopes(q, k, v, slope, lse_Q, inner_Q, seen, sees.cap)
    return dq + plgpu.dot(product_slope.astype(k.dtype), k)

  dq = jax.lax.fori_loop(*_key_blocks(query, real_Q, S, block_k, sees), block, jnp.zeros((block_q, H), jnp.float32))
  plgpu.store(dq_ref, dq.astype(dq_ref.dtype), mask=real_Q[:, None])


def _key_body(*refs, T, S, block_q, heads, sees):
  """The gradients of one block of keys and values of one kv head, from all queries that read it."""
  of_queries, of_keys, (q_ref, k_ref, v_ref, slope_ref, lse_ref, inner_ref, dk_ref, dv_ref) = sees.parted(refs)
  block_k, H = k_ref.shape
  real_K = pl.program_id(2) * block_k + jnp.arange(block_k) < S
  key = _loaded(of_keys, pl.ds(0, block_k), real_K)
  k, v = (plgpu.load(ref, mask=real_K[:, None], other=0.0) for ref in (k_ref, v_ref))
  # Queries may be a later part of the row: their first one says where it begins.
  begin = of_queries[0][0]
  first = jnp.maximum(jnp.min(jnp.where(real_K, key.position, T + begin)) - begin, 0) // block_q
  end = pl.cdiv(jnp.clip(jnp.max(jnp.where(real_K, key.reach, -1)) + 1 - begin, 0, T), block_q)

  def block(index, carry, head):
    dk, dv = carry
    here = pl.ds(index * block_q, block_q)
    real_Q = index * block_q + jnp.arange(block_q) < T
    seen = _seen(_loaded(of_queries, here, real_Q), key, real_Q, real_K, sees)
    q, slope = (plgpu.load(ref.at[here, head, :], mask=real_Q[:, None], other=0.0) for ref in (q_ref, slope_ref))
    lse_Q, inner_Q = (plgpu.load(ref.at[head, here], mask=real_Q, other=0.0) for ref in (lse_ref, inner_ref))
    p, product_slope = _slopes(q, k, v, slope, lse_Q, inner_Q, seen, sees.cap)
    return dk + plgpu.dot(product_slope.T.astype(q.dtype), q), dv + plgpu.dot(p.T.astype(slope.dtype), slope)

  def head(number, carry):
    return jax.lax.fori_loop(first, end, functools.partial(block, head=number), carry)

  dk, dv = jax.lax.fori_loop(0, heads, head, (jnp.zeros((block_k, H), jnp.float32),) * 2)
  for ref, slope in ((dk_ref, dk), (dv_ref, dv)):
    plgpu.store(ref, slope.astype(ref.dtype), mask=real_K[:, None])
