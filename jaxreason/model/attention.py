"""Floor 2: who attends to whom, and the attention itself.

What enters: rotated queries, keys and values, and a mask. What leaves: the attended values. One form for every platform, two
products a kv head whose rows are its heads' queries; scores and softmax are float32. B sequences, T queries, S keys,
N heads = K kv heads x G, H head dim.
"""

import functools

import jax
import jax.numpy as jnp

# Large enough to vanish after exp in float32, finite so that a row with nothing to attend to gives no NaN.
MASKED = -1e30


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, theta: float) -> jax.Array:
  """Rotary embedding with the two halves of H as pairs (the layout of Hugging Face checkpoints).

  Source: Su et al. 2021, section 3.2, https://arxiv.org/abs/2104.09864, which interleaves the pairs instead; the two
  differ by a permutation of H that checkpoint converters apply to the weights.
  """
  half = x_BTNH.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles_BT1h = positions_BT[..., None, None].astype(jnp.float32) * frequencies[None, None, None, :]
  cos, sin = jnp.cos(angles_BT1h), jnp.sin(angles_BT1h)
  first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x_BTNH.dtype)


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


def cache_mask(held_BS: jax.Array, positions_BT: jax.Array) -> jax.Array:
  """[B, 1, T, S] bool: a query sees the slots that hold a position up to its own."""
  held = held_BS[:, None, :]
  return ((held >= 0) & (held <= positions_BT[:, :, None]))[:, None]


def attend(q_BTNH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, mask_B1TS: jax.Array) -> jax.Array:
  """softmax(q kᵀ / √H) v with grouped heads.

  Args:
    q_BTNH: queries; head n reads kv head n // G.
    k_BKSH: keys.
    v_BKSH: values.
    mask_B1TS: bool, True where a query may look.

  Returns:
    [B, T, N, H] in the queries' dtype.

  Source: Ainslie et al. 2023 (grouped queries), https://arxiv.org/abs/2305.13245.
  """
  B, T, N, H = q_BTNH.shape
  K, dtype = k_BKSH.shape[1], q_BTNH.dtype
  product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
  # Rows times a matrix, the queries first and the keys as they lie: einsum's order would transpose the scores, T x S of them,
  # and would give one query (decode) other kernels on CPU than many, whose sums differ in their last bits.
  q_BKRH = jnp.swapaxes(q_BTNH, 1, 2).reshape(B, K, N // K * T, H)
  scores_BKRS = product(q_BKRH, k_BKSH.astype(dtype), (((3,), (3,)), ((0, 1), (0, 1)))) * H**-0.5
  scores_BKGTS = jnp.where(mask_B1TS[:, :, None], scores_BKRS.reshape(B, K, N // K, T, -1), MASKED)
  probabilities = jax.nn.softmax(scores_BKGTS, axis=-1).astype(dtype).reshape(scores_BKRS.shape)
  attended_BKRH = product(probabilities, v_BKSH.astype(dtype), (((3,), (2,)), ((0, 1), (0, 1)))).astype(dtype)
  return jnp.swapaxes(attended_BKRH.reshape(B, N, T, H), 1, 2)
