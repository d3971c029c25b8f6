"""Floor 2: who attends to whom, and the attention itself.

What enters: rotated queries, keys and values, and a mask. What leaves: the attended values. One form for every platform, two
products a kv head whose rows are its heads' queries; scores and softmax are float32. B sequences, T queries, S keys,
N heads = K kv heads x G, H head dim.
"""

import jax
import jax.numpy as jnp

from jaxreason.model import products

# Large enough to vanish after exp in float32, finite so that a row with nothing to attend to gives no NaN.
MASKED = -1e30


def frequencies(head_dim: int, theta: float, scaling: tuple[float, ...] = ()) -> jax.Array:
  """Of the H/2 rotary pairs, in radians a position; [H/2] float32.

    fᵢ = θ^(-2i/H);   (factor,): f / factor;   (factor, low, high, original): f (s + (1 - s) / factor),
    s = clip((original f / 2π - low) / (high - low), 0, 1)

  so that pairs which turn more than `high` times in the `original` positions stay and those below `low` times are divided.

  Source: Chen et al. 2023, https://arxiv.org/abs/2306.15595 (linear); Grattafiori et al. 2024, section 3.4.3, and Llama 3.1's
  reference code, https://github.com/meta-llama/llama-models (the other).
  """
  half = head_dim // 2
  plain = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if not scaling:
    return plain
  factor, *bounds = scaling
  if not bounds:
    return plain / factor
  low, high, original = bounds
  kept = jnp.clip((original / (2 * jnp.pi) * plain - low) / (high - low), 0.0, 1.0)
  return plain * (kept + (1 - kept) / factor)


def rotation(
  positions_BT: jax.Array, head_dim: int, theta: float, reach: int | None = None, scaling: tuple[float, ...] = ()
) -> tuple[jax.Array, jax.Array]:
  """(cos, sin) of the rotary embedding's angles, [B, T, 1, H/2] float32 each: to be made once for all layers and heads.

  Args:
    positions_BT: int32.
    head_dim: H.
    theta: base of the frequencies.
    reach: where every position that counts is less than this, they are read from a table of so many: XLA on CPU would make the
      angles again in every layer, and lifts a table out of a loop over steps.
    scaling: of `frequencies`.
  """
  each = frequencies(head_dim, theta, scaling)
  # Behind the barrier, for a table of constants would be made by the compiler, whose cosine is not the machine's to the bit.
  at = positions_BT if reach is None else jax.lax.optimization_barrier(jnp.arange(reach, dtype=jnp.int32))
  angles = at[..., None, None].astype(jnp.float32) * each.reshape((1,) * (at.ndim + 1) + each.shape)
  cos_sin = jax.lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))
  return cos_sin if reach is None else tuple(part[positions_BT] for part in cos_sin)


def rotate(x_BTNH: jax.Array, cos_BT1h: jax.Array, sin_BT1h: jax.Array) -> jax.Array:
  """Rotary embedding with the two halves of H as pairs (the layout of Hugging Face checkpoints).

  Source: Su et al. 2021, section 3.2, https://arxiv.org/abs/2104.09864, which interleaves the pairs instead; the two
  differ by a permutation of H that checkpoint converters apply to the weights.
  """
  first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos_BT1h - second * sin_BT1h, second * cos_BT1h + first * sin_BT1h]
  return jnp.concatenate(rotated, axis=-1).astype(x_BTNH.dtype)


def window_mask(positions_BT: jax.Array, window: int) -> jax.Array:
  """[B, 1, T, T] bool: keys less than `window` positions before a query. Positions and not columns: where several responses
  lie behind one prompt, each counts on from the prompt."""
  return (positions_BT[:, :, None] - positions_BT[:, None, :] < window)[:, None]


def sequence_mask(segments, batch: int, length: int) -> jax.Array:
  """[B, 1, T, T] bool: causal, and within a segment.

  Args:
    segments: [B, T] int, tokens attend within their own number and 0 is padding; or a pair (group, response) of such
      arrays, where a token attends to its own response and to response 0 (the shared prompt) of its group; or None.
  """
  order = jnp.arange(length)
  causal = (order[:, None] >= order[None, :])[None]
  if segments is None:
    return jnp.broadcast_to(causal, (batch, length, length))[:, None]
  if isinstance(segments, tuple):
    group, response = segments
    key_response = response[:, None, :]
    same = (group[:, :, None] == group[:, None, :]) & ((key_response == 0) | (key_response == response[:, :, None]))
  else:
    same = segments[:, :, None] == segments[:, None, :]
  return (causal & same)[:, None]


def cache_bias(slots: int, used_B: jax.Array, queries: int, window: int = 0) -> jax.Array:
  """[B, 1, T, S] float32, 0 where a query looks and MASKED elsewhere: query t of a row that held `used` tokens sees its first
  used + t + 1 slots, or the last `window` of these. To be made once for all layers of a kind."""
  reach_BT = used_B[:, None] + jnp.arange(queries, dtype=jnp.int32)[None]
  slot, reach = jnp.arange(slots, dtype=jnp.int32)[None, None], reach_BT[:, :, None]
  seen = slot <= reach
  return _bias((seen & (reach - slot < window) if window else seen)[:, None])


def prefix_bias(slots: int, lengths_P: jax.Array) -> jax.Array:
  """[P, S] float32, 0 on the slots that hold a prompt's token and MASKED elsewhere."""
  return _bias(jnp.arange(slots, dtype=jnp.int32)[None] < lengths_P[:, None])


def prefix_window_bias(slots: int, lengths_P: jax.Array, used_B: jax.Array, queries: int, window: int) -> jax.Array:
  """[B, 1, T, S] float32, as `prefix_bias` for the last `window` positions before each query of B = P·g rows, whose own parts
  hold `used` tokens behind their prompt."""
  lengths_B = jnp.repeat(lengths_P, used_B.shape[0] // lengths_P.shape[0])
  at_BT = (lengths_B + used_B)[:, None] + jnp.arange(queries, dtype=jnp.int32)[None]
  slot = jnp.arange(slots, dtype=jnp.int32)[None, None]
  return _bias(((slot < lengths_B[:, None, None]) & (at_BT[:, :, None] - slot < window))[:, None])


def _bias(mask):
  # Behind a barrier, for XLA on CPU would make the mask again in every layer: that took an eighth of a decode step.
  return jax.lax.optimization_barrier(jnp.where(mask, 0.0, MASKED).astype(jnp.float32))


def attend(
  q_BTNH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, mask_B1TS: jax.Array, axis: int = 2, cap: float = 0.0
) -> jax.Array:
  """softmax(q kᵀ / √H) v with grouped heads.

  Args:
    q_BTNH: queries; head n reads kv head n // G.
    k_BKSH: keys.
    v_BKSH: values.
    mask_B1TS: bool, True where a query may look, or float32 that is added to the scores.
    axis: of S in the keys, 2 or 3.
    cap: scores are cap · tanh(score / cap) before the mask, where above 0.

  Returns:
    [B, T, N, H] in the queries' dtype.

  Source: Ainslie et al. 2023 (grouped queries), https://arxiv.org/abs/2305.13245.
  """
  # Rows times a matrix, the queries first and the keys as they lie: einsum's order would transpose the scores, T x S of them,
  # and would give one query (decode) other kernels on CPU than many, whose sums differ in their last bits.
  q_BKRH = _by_kv_head(q_BTNH, k_BKSH.shape[1])
  scores_BKRS = _masked(_scores(q_BKRH, k_BKSH, axis, cap), mask_B1TS[:, :, None])
  probabilities = jax.nn.softmax(scores_BKRS, axis=-1).astype(q_BTNH.dtype)
  return _by_query(_weighed(probabilities, v_BKSH).astype(q_BTNH.dtype), q_BTNH.shape)


def attend_after(
  q_BTNH: jax.Array,
  k_BKSH: jax.Array,
  v_BKSH: jax.Array,
  mask_B1TS: jax.Array,
  k_PKSH,
  v_PKSH,
  bias: jax.Array,
  axis: int = 2,
  cap: float = 0.0,
) -> jax.Array:
  """`attend` over a prefix and a row's own keys: one softmax over both, and the prompt's keys are read once for all its rows.

  Args:
    q_BTNH: queries of B = P·g rows; row b reads prefix b // g.
    k_BKSH: the rows' own keys; v_BKSH and mask_B1TS as in `attend`.
    k_PKSH: keys of P prompts.
    v_PKSH: values of P prompts.
    bias: [P, S] of `prefix_bias`, where all queries see all of a prompt, or [B, 1, T, S] of `prefix_window_bias`.
    axis: of S in both parts' keys, 2 or 3.
    cap: as in `attend`.

  Returns:
    [B, T, N, H] in the queries' dtype.
  """
  P = k_PKSH.shape[0]
  q_BKRH = _by_kv_head(q_BTNH, k_BKSH.shape[1])
  B, K, R, _ = q_BKRH.shape
  lanes = lambda x_BKR_: jnp.swapaxes(x_BKR_.reshape(P, B // P, K, R, -1), 1, 2).reshape(P, K, B // P * R, -1)
  rows = lambda x_PKR_: jnp.swapaxes(x_PKR_.reshape(P, K, B // P, R, -1), 1, 2).reshape(B, K, R, -1)
  before = _scores(lanes(q_BKRH), k_PKSH, axis, cap)
  before = rows(before + bias[:, None, None]) if bias.ndim == 2 else _masked(rows(before), bias[:, :, None])
  own = _masked(_scores(q_BKRH, k_BKSH, axis, cap), mask_B1TS[:, :, None])
  highest = jnp.maximum(*(jnp.max(part, axis=-1, keepdims=True) for part in (before, own)))
  before, own = jnp.exp(before - highest), jnp.exp(own - highest)
  total = sum(jnp.sum(part, axis=-1, keepdims=True) for part in (before, own))
  dtype = q_BTNH.dtype
  attended = rows(_weighed(lanes(before.astype(dtype)), v_PKSH)) + _weighed(own.astype(dtype), v_BKSH)
  return _by_query((attended / total).astype(dtype), q_BTNH.shape)


def _by_kv_head(q_BTNH, kv_heads: int):
  """[B, K, N/K · T, H]: the queries that read one kv head are rows of one matrix."""
  B, T, N, H = q_BTNH.shape
  return jnp.swapaxes(q_BTNH, 1, 2).reshape(B, kv_heads, N // kv_heads * T, H)


def _by_query(x_BKRH, shape):
  B, T, N, H = shape
  return jnp.swapaxes(x_BKRH.reshape(B, N, T, H), 1, 2)


def _scores(q_BKRH, k_BKSH, axis: int, cap: float):
  by = products.ROWS if axis == 2 else products.COLUMNS
  return capped(products.product(q_BKRH, k_BKSH.astype(q_BKRH.dtype), by) * q_BKRH.shape[-1] ** -0.5, cap)


def capped(scores, cap: float):
  """cap · tanh(score / cap), or the scores where the cap is 0."""
  return cap * jnp.tanh(scores / cap) if cap else scores


def _masked(scores_BKRS, mask_B11TS):
  """Scores of kv heads' rows, masked by query."""
  B, K, R, S = scores_BKRS.shape
  T = mask_B11TS.shape[3]
  scores_BKGTS = scores_BKRS.reshape(B, K, R // T, T, S)
  if mask_B11TS.dtype != bool:
    return (scores_BKGTS + mask_B11TS).reshape(B, K, R, S)
  return jnp.where(mask_B11TS, scores_BKGTS, MASKED).reshape(B, K, R, S)


def _weighed(probabilities_BKRS, v_BKSH):
  return products.product(probabilities_BKRS, v_BKSH.astype(probabilities_BKRS.dtype), products.COLUMNS)
