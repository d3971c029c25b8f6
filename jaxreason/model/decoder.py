"""Floor 2: the decoder, tokens to hidden states.

What enters: parameters, tokens and their positions. What leaves: hidden states after the last norm, never logits, so that
[B, T, V] need not exist in training: `jaxreason.logprobs` turns hidden states into log-probabilities in chunks, and
`unembed` gives logits of the few positions that are sampled.

Without a cache the stacked blocks run under `lax.scan`, several in its body where layers of several kinds take turns; with
one, the layers run one by one, each with its own cache arrays. Both call the same `_block`. B sequences, T tokens, D embed,
N heads, K kv heads, H head dim, F mlp, V vocab.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from jaxreason.errors import UserError
from jaxreason.model import attention, grouped, lora, moe, products, quantized, remat
from jaxreason.model import cache as caches
from jaxreason.model.config import ModelConfig
from jaxreason.model.decode_attention import attend_decode, write_decode
from jaxreason.model.training_attention import attend_rows
from jaxreason.model.weights import Block, FusedBlock, Params
from jaxreason.sharding import shard


@struct.dataclass
class Output:
  """What `apply` returns."""

  hidden: jax.Array  # [B, T, D] after the final norm, in `config.output_dtype`
  cache: caches.Cache | None  # the cache with the T tokens written, None when none was given
  aux: moe.Routed | None  # of each layer, stacked; None for a dense model


def apply(params: Params, config: ModelConfig, tokens, positions, *, segments=None, cache=None, routing=None) -> Output:
  """Hidden states of a batch of tokens.

  Args:
    params: parameters; `blocks` stacked [L, ...], or a tuple of L `FusedBlock`s (the rollout's copy).
    config: static.
    tokens: [B, T] int32.
    positions: [B, T] int32, for the rotary embedding; they restart where a packed sample starts.
    segments: [B, T] int32 with 0 for padding, or a pair (group, response) of such arrays; None means one sequence a row.
      With a pair, perhaps, the blocks of columns that a block sees, see `training_attention.attend_rows`.
      Not with a cache, where a row is one sequence and may have padding behind its tokens only.
    cache: a `cache.Cache` with room for T more tokens, or None. Tokens are written from each row's next slot on, and attend
      to its prefix, to what it holds and to those before them. `used` moves on by T; a caller with padding sets it back.
    routing: [L, B, T, k] int32 of a model with experts: those to take in the place of its routers' choice, below 0 for theirs.

  Returns:
    `Output(hidden [B, T, D], cache, aux)`.

  Raises:
    UserError: shapes that do not match, or routing for a dense model.
  """
  if tokens.ndim != 2 or tokens.shape != positions.shape:
    raise UserError(
      f"decoder.apply expected tokens and positions of one shape [B, T], got {tokens.shape} and {positions.shape}"
    )
  if cache is not None and segments is not None:
    raise UserError("decoder.apply got segments with a cache, whose rows are one sequence each; leave segments=None")
  if routing is not None and not config.experts:
    raise UserError("decoder.apply got routing for a dense model; leave routing=None")
  rows = _ROWS if cache is None else _SLOTS
  x = shard(embed(params, config, tokens), (*rows, "embed"))
  turns = _turns(config, positions, cache and caches.reach(cache))
  if cache is None:
    x, aux = _run_blocks(params.blocks, config, x, turns, _attends(config, segments, positions), real(segments), routing)
  else:
    x, cache, aux = _run_with_cache(params.blocks, config, x, turns, cache, routing)
  return Output(hidden=norm(x.astype(config.output_dtype), params.final_norm, config), cache=cache, aux=aux)


# The logical names of a batch's first two axes: rows of many tokens, or a rollout's slots.
_ROWS, _SLOTS = ("batch", "length"), ("slots", None)


def real(segments):
  """[B, T] bool, the tokens that are no padding; None for all."""
  return None if segments is None else (segments if isinstance(segments, jax.Array) else segments[0]) > 0


def unembed(params: Params, config: ModelConfig, hidden) -> jax.Array:
  """Logits [..., V] in float32 from hidden states [..., D]."""
  hidden, matrix = hidden.astype(config.output_dtype), head(params).astype(config.output_dtype)
  if hidden.ndim == 2:
    logits = _project(hidden[:, None], matrix, matrix.dtype, config.head_precision)[:, 0]
  else:
    logits = jnp.einsum("...d,vd->...v", hidden, matrix, preferred_element_type=jnp.float32, precision=config.head_precision)
  return config.logit_cap * jnp.tanh(logits / config.logit_cap) if config.logit_cap else logits


def head(params: Params) -> jax.Array:
  """The output matrix [V, D]: the head, or the embedding when it is tied."""
  return params.embedding if params.head is None else params.head


def embed(params: Params, config: ModelConfig, tokens) -> jax.Array:
  """[B, T, D] in the compute dtype."""
  # Whole along D: a lookup in rows cut over fsdp would have to trade places with a batch that is cut over it too.
  x = shard(params.embedding, ("vocab", "embed"))[tokens].astype(config.compute_dtype)
  return x * jnp.asarray(config.embed**0.5, x.dtype) if config.scale_embedding else x


def norm(x, scale, config: ModelConfig) -> jax.Array:
  """`rms_norm` as the configuration has it."""
  return rms_norm(x, 1 + scale.astype(jnp.float32) if config.norm_offset else scale, config.norm_eps)


def rms_norm(x, scale, eps: float) -> jax.Array:
  """x / rms(x) · scale over the axes that `scale` has, x's last ones, computed in float32 (Zhang & Sennrich 2019,
  https://arxiv.org/abs/1910.07467)."""
  wide, axes = x.astype(jnp.float32), tuple(range(-scale.ndim, 0))
  wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=axes, keepdims=True) + eps)
  return (wide * scale.astype(jnp.float32).reshape((1,) * (x.ndim - scale.ndim) + scale.shape)).astype(x.dtype)


def layer(blocks: Block | tuple[Block, ...], index: int) -> Block:
  """Block `index`, from stacked or separate blocks."""
  return blocks[index] if isinstance(blocks, tuple) else jax.tree.map(lambda leaf: leaf[index], blocks)


def _turns(config, positions, reach):
  """The rotation of each kind of layers, None of those without."""
  plain = (config.rope_theta, config.rope_scaling)
  bases = {"full": plain, "window": (config.window_rope_theta, ()) if config.window_rope_theta else plain, "nope": None}
  # A list and not a set of them: a program's order must not hang on hashes.
  each = list(dict.fromkeys(bases[kind] for kind in config.kinds))
  made = {at: at and attention.rotation(positions, config.head_dim, at[0], reach, at[1]) for at in each}
  return {kind: made[bases[kind]] for kind in dict.fromkeys(config.kinds)}


def _attends(config, segments, positions):
  """`attend` of each kind of layers where there is no cache."""
  windows = list(dict.fromkeys(config.window_of(kind) for kind in config.kinds))
  make = functools.partial(attend_rows, config.attention, segments, *positions.shape, positions=positions)
  made = {window: make(window=window, cap=config.attention_cap) for window in windows}
  return {kind: made[config.window_of(kind)] for kind in dict.fromkeys(config.kinds)}


def _run_blocks(blocks, config, x, turns, attends, counted, routing):
  kinds, period = config.kinds, config.period
  scanned = not isinstance(blocks, tuple)

  def one(kind):
    def body(x, taken):
      attend = lambda q, k, v: (attends[kind](q, k, v), None)
      x, _, routed = _block(taken[0], config, remat.named(x, remat.INPUT), turns[kind], attend, _ROWS, counted, taken[1])
      return x, routed

    return body

  bodies = {kind: remat.rematerialized(one(kind), config.remat, scanned=scanned) for kind in set(kinds)}
  if scanned and period == 1:
    return jax.lax.scan(bodies[kinds[0]], x, (blocks, routing))

  def several(x, taken):
    routed = []
    for index, kind in enumerate(kinds[:period]):
      x, one = bodies[kind](x, _of_layer(*taken, index))
      routed.append(one)
    return x, _stacked(routed)

  # Layers that take turns are scanned a period at a time, and those after the last whole period follow one by one.
  whole = config.layers // period * period if scanned else 0
  found = []
  if whole:
    by_period = lambda leaf: leaf[:whole].reshape(-1, period, *leaf.shape[1:])
    x, routed = jax.lax.scan(several, x, jax.tree.map(by_period, (blocks, routing)))
    found.append(jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), routed))
  for index in range(whole, config.layers if scanned else len(blocks)):  # fewer, where debugging looks between layers
    x, routed = bodies[kinds[index]](x, _of_layer(blocks, routing, index))
    found.append(_stacked([routed]))
  return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *found) if found else None


def _of_layer(blocks, routing, index: int):
  """(block, routing) of one layer."""
  return layer(blocks, index), None if routing is None else routing[index]


def _stacked(routed: list):
  """What the routers of several layers did; None for a dense model."""
  return jax.tree.map(lambda *layers: jnp.stack(layers), *routed)


def _run_with_cache(blocks, config, x, turns, cache, routing):
  T, keys, values, found = x.shape[1], [], [], []
  layers = _of_one_query(config, cache) if T == 1 and config.decode_kernel != "einsum" else _of_queries(config, cache, T)
  for index, (kind, attend) in enumerate(zip(config.kinds, layers, strict=True)):
    block, chosen = _of_layer(blocks, routing, index)
    x, (key, value), routed = _block(block, config, x, turns[kind], attend, _SLOTS, None, chosen)
    keys.append(key)
    values.append(value)
    found.append(routed)
  return x, cache.replace(keys=tuple(keys), values=tuple(values), used=cache.used + T), _stacked(found)


def _of_queries(config, cache: caches.Cache, queries: int):
  """`attend` of each layer for any number of queries a row, plain XLA."""
  prefix, axis, cap = cache.prefix, cache.axis, config.attention_cap

  def biases(window):
    bias = attention.cache_bias(caches.width(cache), cache.used, queries, window)
    if prefix is None or not window:
      return bias, prefix and attention.prefix_bias(caches.width(prefix), prefix.lengths)
    return bias, attention.prefix_window_bias(caches.width(prefix), prefix.lengths, cache.used, queries, window)

  made = {window: biases(window) for window in sorted({config.window_of(kind) for kind in config.kinds})}

  def attend(q, k, v, index):
    bias, before = made[config.window_of(config.kinds[index])]
    key = caches.write(cache.keys[index], k, cache.used, axis)
    value = caches.write(cache.values[index], v, cache.used)
    if prefix is None:
      return attention.attend(q, key, value, bias, axis, cap), (key, value)
    shared = prefix.keys[index], prefix.values[index], before
    return attention.attend_after(q, key, value, bias, *shared, axis, cap), (key, value)

  return [functools.partial(attend, index=index) for index in range(len(cache.keys))]


def _of_one_query(config, cache: caches.Cache):
  """`attend` of each layer for one query a row, by the configuration's kernel."""
  kernel, prefix = config.decode_kernel, cache.prefix
  # A row that is done may be full: what it writes over then is never read.
  at = jnp.minimum(cache.used, caches.width(cache) - 1)

  def attend(q, k, v, index):
    key, value = write_decode(cache.keys[index], cache.values[index], k[:, 0], v[:, 0], at, kernel=kernel)
    shared = (prefix.keys[index], prefix.values[index], prefix.lengths) if prefix else ()
    sees = dict(window=config.window_of(config.kinds[index]), cap=config.attention_cap)
    return attend_decode(q[:, 0], key, value, at + 1, *shared, kernel=kernel, **sees)[:, None], (key, value)

  return [functools.partial(attend, index=index) for index in range(len(cache.keys))]


def _block(block: Block | FusedBlock, config: ModelConfig, x, turn, attend, rows, counted=None, routing=None):
  """(x, kept, what its router did) of one block; `attend(q, k, v) -> (attended, kept)` decides where keys and values live;
  `rows` are B and T, `counted` and `routing` the `real` and `routing` of `moe.mlp`."""
  dtype = jnp.dtype(config.compute_dtype)
  fused = isinstance(block, FusedBlock)

  h = _normed(x, block.attention_norm, config)
  q, k, v = (_fused_heads if fused else _heads)(block, config, h, dtype)
  if config.qk_norm:
    q, k = norm(q, block.query_norm, config), norm(k, block.key_norm, config)
  if turn is not None:
    q, k = (attention.rotate(part, *turn) for part in (q, k))
  attended, kept = attend(_scaled(q, config), k, v)
  attended = attended.reshape(*x.shape[:2], -1)
  if fused:
    added = _project_in(attended, block.output, dtype).astype(dtype)
  else:
    added = remat.named(_project(attended, lora.flat(block.output, 1), dtype).astype(dtype), remat.PRODUCT)
  x = x + _normed(added, block.attention_post_norm, config)

  h = _normed(x, block.mlp_norm, config)
  added, routed = (_experts if config.experts else _mlp)(block, config, h, dtype, rows, counted, routing)
  x = x + _normed(added, block.mlp_post_norm, config)
  return shard(x, (*rows, "embed")), kept, routed


# Of `config.activation`.
_GATES = {"silu": products.gated, "gelu_tanh": products.gated_gelu}


def _experts(block: Block | FusedBlock, config, h, dtype, rows, counted, routing):
  """As `_mlp`."""
  fused = isinstance(block, FusedBlock)
  matrices = (*block.gate_up, *block.down) if fused else (block.gate, block.up, block.down)
  lie = grouped.COLUMNS if fused else grouped.ROWS
  out, routed = moe.mlp(config, h, block.router, matrices, rows, _GATES[config.activation], counted, routing, lie)
  return out.astype(dtype), routed


def _mlp(block: Block | FusedBlock, config, h, dtype, rows, *_):
  """What the MLP adds to the residual stream, [B, T, D], and what its router did: it has none."""
  fused = isinstance(block, FusedBlock)
  if fused:
    both = _project_in(h, block.gate_up, dtype)
    gate, up = both[:, :, 0], both[:, :, 1]
  else:
    gate, up = (remat.named(_project(h, matrix, dtype), remat.PRODUCT) for matrix in (block.gate, block.up))
  inner = shard(_GATES[config.activation](gate, up, dtype.name), (*rows, "mlp"))
  return (_project_in if fused else _project)(inner, block.down, dtype).astype(dtype), None


def _normed(x, scale, config):
  """`norm`, where the block has one in this place."""
  return x if scale is None else norm(x, scale, config)


def _scaled(q, config):
  """The queries, for scores that are divided by √H: of which the configuration's own scale is made."""
  if config.query_scale in (0, config.head_dim):
    return q
  return (q.astype(jnp.float32) * (config.head_dim / config.query_scale) ** 0.5).astype(q.dtype)


def _heads(block: Block, config, h, dtype):
  """(q [B, T, N, H], k [B, T, K, H], v [B, T, K, H])"""

  def project(matrix_NHD, bias):
    out = _project(h, lora.flat(matrix_NHD, 2), dtype).reshape(*h.shape[:2], -1, config.head_dim)
    if bias is not None:
      out = out + bias.astype(jnp.float32)[None, None]
    return remat.named(out.astype(dtype), remat.PRODUCT)

  pairs = ((block.query, block.query_bias), (block.key, block.key_bias), (block.value, block.value_bias))
  return [project(*pair) for pair in pairs]


def _fused_heads(block: FusedBlock, config, h, dtype):
  """As `_heads`."""
  out = _project_in(h, (block.query_key_value,), dtype)  # [B, T, K, N/K + 2, H]
  if block.bias is not None:
    out = out + block.bias.astype(jnp.float32)[None, None]
  out = out.astype(dtype)
  return out[..., :-2, :].reshape(*h.shape[:2], config.heads, config.head_dim), out[..., -2, :], out[..., -1, :]


def _project(x_BTI, matrix_OI, dtype, precision=None) -> jax.Array:
  """[B, T, O] in float32.

  Always of two axes: XLA on CPU reads an [out, in] matrix as it lies, but transposes one of more axes at every call. Rows come
  first for one token a row too: the matrix first is a fifth faster there, and its sums differ from the full pass's by more than
  thirty layers should amplify (1.4e-4 of SmolLM2's logits).
  """
  if lora.is_special(matrix_OI):
    return lora.project(x_BTI, matrix_OI, dtype, lambda x, factor: _project(x, factor, dtype))
  return products.product(x_BTI, matrix_OI.astype(dtype), products.ROWS, precision)


def _project_in(x_BTI, pieces, dtype) -> jax.Array:
  """[B, T, O, ...] in float32, by a matrix [I, O, ...] as it lies, in pieces along O, of eight bits perhaps."""

  def product(matrix):
    if not isinstance(matrix, jax.Array):
      return quantized.product(x_BTI, matrix)
    return jax.lax.dot_general(x_BTI, matrix.astype(dtype), (((2,), (0,)), ((), ())), preferred_element_type=jnp.float32)

  return jnp.concatenate([product(piece) for piece in pieces], axis=2) if len(pieces) > 1 else product(*pieces)
