"""Floor 3: the compiled parts of a rollout, as pure functions; `rollout_plan` jits them. With `prepare` they are all there are.

`extend` runs tokens through the model onto caches: from empty it is prefill, once per group; onto slots it feeds what an
environment says, or what was written under other weights. `insert` puts samples into free slots and sets the cache's width, so
that attention reads no further than the longest sample needs. `decode` writes K tokens into every live slot with a static trip
count (no predicate for the host to read).

A prompt's last token is not prefilled but fed by the first decode step, which makes prefill free of logits.
N lanes x g = B slots, R rows of an extension or insertion, T token budget, S cache slots, V vocab.
"""

import jax
import jax.numpy as jnp

from jaxreason import sampling as samplers
from jaxreason.model import cache as caches
from jaxreason.model import calls
from jaxreason.model.cache import Cache, Prefix
from jaxreason.model.calls import AnyModel
from jaxreason.records import BUDGET, IDLE, RUNNING, STOP_TOKEN
from jaxreason.rollout.state import DecodeState, Record, Report, Rows
from jaxreason.sampling import Sampling
from jaxreason.sharding import shard


def extend(
  params, config: AnyModel, tokens, lengths, state: DecodeState | None = None, slot=None, last=None, *, routed: bool = False
):
  """Keys and values of tokens: of prompts, or of what follows in some slots.

  Args:
    params: the rollout's copy.
    config: static; of our decoder, or an `OwnModel`.
    tokens: [R, Te] int32, right-padded: a prompt without its last token, or a slot's `last` and what follows it but for the
      final token.
    lengths: [R] int32, tokens that count, at least 0.
    state: donated; None for prompts.
    slot: [R] int32, B or more for a row that does nothing.
    last: [R] int32, the token to feed next, the one after `tokens`.
    routed: static, whether the experts of prompts are told. Those of slots are where the state's record has room for them, and
      what it has already is taken again.

  Returns:
    Prompts: a `Prefix` of R prompts, and [R, Te, L·k] int16 experts or None. Slots: the state with the tokens in cache and
    record, and the slots running again. Their log-probs, versions and `own` are left as they are: blank for new tokens.
  """
  R, Te = tokens.shape
  offsets = jnp.arange(Te, dtype=jnp.int32)[None]
  if state is None:
    cache = calls.empty_cache(config, R, Te)
    out = calls.apply(params, config, tokens, jnp.broadcast_to(offsets, (R, Te)), cache=cache)
    prefix = Prefix(out.cache.keys, out.cache.values, lengths, out.cache.axis)
    return _placed(prefix), _by_token(out.aux.chosen) if routed else None

  B, whole = state.last.shape[0], state.cache
  taken = lambda x: x[jnp.minimum(slot, B - 1)]
  of_lane = lambda x: x[jnp.minimum(slot, B - 1) // (B // x.shape[0])]
  cache = jax.tree.map(taken, whole.replace(prefix=None)).replace(prefix=jax.tree.map(of_lane, whole.prefix))
  positions = (cache.used + _before(cache))[:, None] + offsets
  written = taken(state.lengths)
  columns = jnp.where(offsets < lengths[:, None], written[:, None] + offsets, state.record.tokens.shape[1])
  had = state.record.experts
  known = had if had is None else had[jnp.minimum(slot, B - 1)[:, None], jnp.minimum(columns, had.shape[1] - 1)]
  out = calls.apply(params, config, tokens, positions, cache=cache, routing=_by_layer(known, config))
  chosen = had if had is None else had.at[slot[:, None], columns].set(_by_token(out.aux.chosen), mode="drop")
  out = out.cache
  put = lambda whole, rows: whole.at[slot].set(rows.astype(whole.dtype), mode="drop")
  cache = whole.replace(
    keys=tuple(map(put, whole.keys, out.keys)),
    values=tuple(map(put, whole.values, out.values)),
    used=put(whole.used, cache.used + lengths),
  )
  following = jnp.where(offsets + 1 == lengths[:, None], last[:, None], jnp.pad(tokens[:, 1:], ((0, 0), (0, 1))))
  recorded = state.record.tokens.at[slot[:, None], columns].set(following, mode="drop")
  state = state.replace(cache=cache, last=put(state.last, last), stop=put(state.stop, jnp.full((R,), RUNNING)))
  return _placed(state.replace(record=state.record.replace(tokens=recorded, experts=chosen)))


def insert(
  state: DecodeState | None, prefix: Prefix, rows: Rows, root, written: Record | None = None, *,
  shape: tuple[int, int, int], slots: int, prefix_slots: int, experts: int = 0,
) -> DecodeState:  # fmt: skip
  """Puts samples into slots, before their first token, and widens or narrows the cache.

  Args:
    state: donated; None makes one whose slots are all idle.
    prefix: prompts of `extend`, R' of them.
    rows: R samples.
    root: typed PRNG key of the run.
    written: [R, T] of each field: what the samples wrote before; their caches are blank until `extend` has filled them. None
      for samples that begin.
    shape: static (B slots, N lanes that share prompts or 0, T tokens).
    slots: static S, at least what the longest sample needs, and its prompt where N = 0.
    prefix_slots: static, as many as the longest prompt needs.
    experts: static L·k, where a token's experts are recorded; 0: they are not.
  """
  state = _idle(prefix, shape, experts) if state is None else state
  put = lambda old, new: old.at[rows.slot].set(new, mode="drop")
  wide = state.cache.replace(
    keys=tuple(caches.resized(layer, slots, state.cache.axis) for layer in state.cache.keys),
    values=tuple(caches.resized(layer, slots) for layer in state.cache.values),
  )
  cache, base = _with_prompts(wide, prefix, rows, prefix_slots)
  R = rows.slot.shape[0]
  zeros = jnp.zeros((R,), jnp.int32)
  keys = jax.vmap(samplers.sample_key, (None, 0, 0))(root, rows.visit, rows.sample)
  written = _blank(R, shape[2], experts) if written is None else written
  return _placed(
    DecodeState(
      cache=cache.replace(used=put(cache.used, base)),
      base=put(state.base, base),
      last=put(state.last, rows.last),
      keys=put(state.keys, keys),
      sampling=jax.tree.map(put, state.sampling, rows.sampling),
      least=put(state.least, rows.least),
      budgets=put(state.budgets, rows.budget),
      stop=put(state.stop, zeros + RUNNING),
      record=jax.tree.map(put, state.record, written),
    )
  )


def decode(
  params, config: AnyModel, state: DecodeState, stop_ids, version, *, steps: int, truncate: bool, least: bool
) -> tuple[DecodeState, Report]:
  """K tokens in every live slot.

  Args:
    params: the rollout's copy.
    config: static.
    state: donated.
    stop_ids: [E] int32, tokens that end a sample.
    version: [] int32, updates that params have seen.
    steps: static K.
    truncate: static, whether any slot uses top-p, top-k or min-p.
    least: static, whether any slot has tokens to write before it may stop.

  Returns:
    (state, report): the report is a copy that survives the state's donation.
  """
  step = lambda _, state: _step(params, config, state, stop_ids, version, truncate, least)
  state = _placed(jax.lax.fori_loop(0, steps, step, state))
  return state, Report(*jax.tree.map(jnp.copy, (state.stop, state.lengths, state.record)))


def _with_prompts(cache: Cache, prompts: Prefix, rows: Rows, prefix_slots: int) -> tuple[Cache, jax.Array]:
  """(the cache with prompts where R samples look for them, tokens of them in each row's own part [R])."""
  B, lengths = cache.used.shape[0], prompts.lengths[rows.source]
  if cache.prefix is None:
    into = lambda old, new: old.at[rows.slot, :, : new.shape[2], : new.shape[3]].set(new[rows.source], mode="drop")
    keys, values = tuple(map(into, cache.keys, prompts.keys)), tuple(map(into, cache.values, prompts.values))
    return cache.replace(keys=keys, values=values), lengths
  N = cache.prefix.lengths.shape[0]
  # A prompt is copied once for its lane, not for each of the lane's rows.
  lane = jnp.where(rows.slot < B, rows.slot // (B // N), N)
  source = jnp.full((N,), -1, jnp.int32).at[lane].set(rows.source, mode="drop")
  comes = (source >= 0)[:, None, None, None]

  def into(axis):
    wide = lambda x: caches.resized(x, prefix_slots, axis)
    return lambda old, new: jnp.where(comes, wide(new)[jnp.maximum(source, 0)], wide(old))

  prefix = cache.prefix.replace(
    keys=tuple(map(into(prompts.axis), cache.prefix.keys, prompts.keys)),
    values=tuple(map(into(caches.SLOTS), cache.prefix.values, prompts.values)),
    lengths=cache.prefix.lengths.at[lane].set(lengths, mode="drop"),
  )
  return cache.replace(prefix=prefix), jnp.zeros_like(lengths)


def _before(cache: Cache):
  """[B] int32, the tokens of each row's prompt in the prefix part."""
  if cache.prefix is None:
    return jnp.zeros_like(cache.used)
  return jnp.repeat(cache.prefix.lengths, cache.used.shape[0] // cache.prefix.lengths.shape[0])


def _idle(prefix: Prefix, shape: tuple[int, int, int], experts: int) -> DecodeState:
  """B slots that hold nothing, one cache slot wide."""
  B, N, T = shape
  axis, zeros = prefix.axis, jnp.zeros((B,), jnp.int32)

  def blank(rows):
    """(keys, values)"""
    one = lambda axis: lambda x: jnp.zeros((rows, *caches.resized(x, 1, axis).shape[1:]), x.dtype)
    return tuple(map(one(axis), prefix.keys)), tuple(map(one(caches.SLOTS), prefix.values))

  return DecodeState(
    cache=Cache(*blank(B), zeros, Prefix(*blank(N), jnp.zeros((N,), jnp.int32), axis) if N else None, axis),
    base=zeros,
    last=zeros,
    keys=jax.random.split(jax.random.key(0), B),
    sampling=Sampling(jnp.ones((B,), jnp.float32), jnp.ones((B,), jnp.float32), zeros, jnp.zeros((B,), jnp.float32)),
    least=zeros,
    budgets=zeros,
    stop=jnp.full((B,), IDLE, jnp.int32),
    record=_blank(B, T, experts),
  )


def _blank(rows: int, budget: int, experts: int) -> Record:
  zeros = lambda dtype: jnp.zeros((rows, budget), dtype)
  none = jnp.full((rows, budget, experts), -1, jnp.int16) if experts else None
  return Record(zeros(jnp.int32), zeros(jnp.float32), zeros(jnp.float32), zeros(jnp.int32), zeros(bool), none)


def _by_token(chosen):
  """[L, B, T, k] as [B, T, L·k] int16."""
  L, B, T, k = chosen.shape
  return jnp.transpose(chosen, (1, 2, 0, 3)).reshape(B, T, L * k).astype(jnp.int16)


def _by_layer(experts, config: AnyModel):
  """[B, T, L·k] as [L, B, T, k]; None for None."""
  return experts if experts is None else jnp.moveaxis(experts.reshape(*experts.shape[:2], config.layers, -1), 2, 0)


def _placed(tree):
  """The arrays spread over the mesh: slots over all devices that do not share a head, the cache's heads over theirs.

  Every program hands them on in this layout, so that none is compiled a second time for the layout of another's result.
  """
  return jax.tree.map(lambda x: shard(x, AXES[x.ndim]), tree)


# Of the state's arrays by their rank: [B], [B, T], [B, T, L·k], and [B, K, S, H] of the cache.
AXES = {1: ("slots",), 2: ("slots", None), 3: ("slots", None, None), 4: ("slots", "kv_heads", None, None)}


def _step(params, config, state: DecodeState, stop_ids, version, truncate: bool, least: bool) -> DecodeState:
  live = state.stop == RUNNING
  used, written = state.cache.used, state.lengths
  positions = used + _before(state.cache)
  out = calls.apply(params, config, state.last[:, None], positions[:, None], cache=state.cache)
  logits = shard(calls.unembed(params, config, out.hidden[:, 0]), ("slots", "vocab"))
  uniforms = jax.vmap(samplers.token_uniform)(state.keys, written)
  banned = (written < state.least, stop_ids) if least else None
  token, logprob, log_mass = samplers.sample(logits, uniforms, state.sampling, truncate=truncate, banned=banned)

  length = written + 1
  ended = jnp.any(token[:, None] == stop_ids[None, :], axis=-1)
  reason = jnp.where(ended, STOP_TOKEN, jnp.where(length >= state.budgets, BUDGET, RUNNING))
  columns = jnp.arange(state.record.tokens.shape[1], dtype=jnp.int32)[None]
  here = (columns == written[:, None]) & live[:, None]

  def put(buffer, value):
    at = here.reshape(*here.shape, *(1,) * (buffer.ndim - 2))
    return jnp.where(at, jnp.broadcast_to(value.reshape(value.shape[0], 1, *value.shape[1:]), buffer.shape), buffer)

  one = jnp.ones_like(token)
  experts = None if state.record.experts is None else _by_token(out.aux.chosen)[:, 0]
  return state.replace(
    # A finished slot stays where it is: what it computes lands in the same place and is never read.
    cache=out.cache.replace(used=jnp.where(live, used + 1, used)),
    last=jnp.where(live, token, state.last),
    stop=jnp.where(live, reason, state.stop).astype(jnp.int32),
    record=jax.tree.map(put, state.record, Record(token, logprob, log_mass, version * one, one.astype(bool), experts)),
  )
