"""Floor 2: attention of whole rows on TPUs, by the splash kernel that comes with JAX.

What enters: queries, keys, values, and the rows' segments or a mask. What leaves: what attention gives, with its gradient. The
kernel skips blocks in which nobody sees anybody. Segments are compared inside it; a mask is read block by block, a byte a pair,
which is exact for any of `attention.sequence_mask`.

The kernel takes rows in multiples of 128 tokens: they are filled up here, with tokens that nobody sees.
B rows, T queries, S keys, N heads = K kv heads x G, H head dim.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from jaxreason.model import remat

LANES, BLOCK = 128, 512  # tokens: the least and the largest block


def unfit(head_dim: int) -> str:
  """Why the kernel does not take this head dim, or nothing."""
  fits = head_dim % LANES == 0 or (head_dim < LANES and head_dim % 8 == 0)
  return "" if fits else f"the TPU kernel takes head dims in multiples of 8 below {LANES} and of {LANES} above, got {head_dim}"


def attend_segments(
  q_BTNH, k_BTKH, v_BTKH, segments_BT, *, window: int = 0, cap: float = 0.0, interpret: bool = False
):
  """Causal attention within segments, [B, T, N, H] in the queries' dtype.

  Args:
    q_BTNH: queries.
    k_BTKH: keys.
    v_BTKH: values.
    segments_BT: int32, at least 0; tokens attend within their own number.
    window: how many columns of its segment, its own among them, a query sees; 0 is all.
    cap: of the scores, see `attention.attend`.
    interpret: runs the kernel as ordinary operations, on any platform.
  """
  T, N = q_BTNH.shape[1:3]
  more = -T % LANES
  filled = jnp.pad(segments_BT.astype(jnp.int32), ((0, 0), (0, more)), constant_values=-1)
  square = (T + more, T + more)
  seen = splash.LocalMask(square, (window - 1, 0), 0) if window else splash.CausalMask(square)
  kernel = _kernel(splash.MultiHeadMask([seen] * N), *square, cap, interpret)
  out = jax.vmap(lambda q, k, v, ids: kernel(q, k, v, splash.SegmentIds(ids, ids)))(
    *_by_head(q_BTNH, k_BTKH, v_BTKH, more, more), filled
  )
  return jnp.swapaxes(out, 1, 2)[:, :T].astype(q_BTNH.dtype)


def attend_mask(q_BTNH, k_BSKH, v_BSKH, mask_B1TS, *, cap: float = 0.0, interpret: bool = False):
  """Attention under a mask, [B, T, N, H] in the queries' dtype; every query sees some key.

  Args:
    q_BTNH: queries.
    k_BSKH: keys.
    v_BSKH: values.
    mask_B1TS: bool, True where a query may look.
    cap: as of `attend_segments`.
    interpret: as of `attend_segments`.
  """
  T, S = mask_B1TS.shape[2:]
  more, beyond = -T % LANES, -S % LANES
  # Queries that fill up look at the first key: one that looks nowhere would give NaN.
  mask = jnp.pad(mask_B1TS, ((0, 0), (0, 0), (0, more), (0, beyond))).at[:, :, T:, 0].set(True)

  def attend(row):
    mask_1TS, *arrays = row
    kernel = _kernel(mask_1TS, T + more, S + beyond, cap, interpret)
    # What it made of the mask says that there is one; traced like the rest, it could not be asked.
    kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=True)
    return kernel(*arrays)

  out = jax.lax.map(attend, (mask, *_by_head(q_BTNH, k_BSKH, v_BSKH, more, beyond)))
  return jnp.swapaxes(out, 1, 2)[:, :T].astype(q_BTNH.dtype)


def _by_head(q, k, v, more: int, beyond: int):
  """[B, heads, tokens, H] each, filled up, the queries scaled."""
  turned = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
  fill = lambda x, count: jnp.pad(x, ((0, 0), (0, 0), (0, count), (0, 0)))
  return fill(turned(q * q.shape[-1] ** -0.5), more), fill(turned(k), beyond), fill(turned(v), beyond)


def _kernel(mask, queries: int, keys: int, cap: float, interpret: bool):
  q, k = math.gcd(queries, BLOCK), math.gcd(keys, BLOCK)
  sizes = splash.BlockSizes(
    block_q=q, block_kv=k, block_kv_compute=k, block_q_dkv=q, block_kv_dkv=k, block_kv_dkv_compute=k, block_q_dq=q,
    block_kv_dq=k,
  )  # fmt: skip
  return splash.make_splash_mha_single_device(
    mask, block_sizes=sizes, residual_checkpoint_name=remat.ATTENTION, attn_logits_soft_cap=cap or None, interpret=interpret
  )
