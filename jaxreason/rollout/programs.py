"""Floor 3: the compiled parts of a rollout, as pure functions; `build` jits them.

`prefill` runs each prompt once per group, `begin` gives each of the G samples its copy of the prompt's keys and values,
`decode` writes K tokens into every live slot with a static trip count (no predicate for the host to read), and `grow`
moves to the next cache bucket, so that attention reads no further than the longest sample needs.

A prompt's last token is not prefilled but fed by the first decode step, which makes prefill free of logits.
P prompts x G samples = B slots, Tp prompt columns, T completion budget, S cache slots, V vocab.
"""

import jax
import jax.numpy as jnp

from jaxreason import sampling as samplers
from jaxreason.model import cache as caches
from jaxreason.model import decoder
from jaxreason.model.cache import Cache
from jaxreason.model.config import ModelConfig
from jaxreason.model.weights import Params
from jaxreason.records import BUDGET, RUNNING, STOP_TOKEN
from jaxreason.rollout.state import DecodeState
from jaxreason.sampling import Sampling
from jaxreason.sharding import shard


def prefill(params: Params, config: ModelConfig, prompts, lengths) -> Cache:
  """Keys and values of all but the last token of each prompt.

  Args:
    params: the rollout's copy.
    config: static.
    prompts: [P, Tp] int32, right-padded.
    lengths: [P] int32, at least 1.

  Returns:
    A cache of Tp slots for P rows, `used` = length - 1.
  """
  P, Tp = prompts.shape
  columns = jnp.broadcast_to(jnp.arange(Tp, dtype=jnp.int32)[None], (P, Tp))
  real = columns < (lengths - 1)[:, None]
  cache = caches.empty(config, P, Tp, jnp.dtype(config.compute_dtype))
  out = decoder.apply(params, config, prompts, columns, segments=real.astype(jnp.int32), cache=cache)
  return out.cache.replace(used=lengths - 1)


def begin(
  cache: Cache,
  prompts,
  lengths,
  visit_ids,
  root,
  version,
  sampling: Sampling,
  budgets,
  stop_ids,
  *,
  group: int,
  budget: int,
  slots: int,
) -> DecodeState:
  """Slots for G samples of each prompt, before their first token.

  Args:
    cache: of `prefill`, P rows.
    prompts: [P, Tp] int32.
    lengths: [P] int32.
    visit_ids: [P] int32.
    root: typed PRNG key of the run.
    version: [] int32.
    sampling: arrays [B].
    budgets: [B] int32.
    stop_ids: [E] int32.
    group: static G.
    budget: static T, width of the token buffers.
    slots: static S, the first cache bucket.

  Returns:
    A state of B = P·G slots; slot p·G + g is sample g of prompt p.
  """
  P = prompts.shape[0]
  B = P * group
  copies = lambda x: jnp.repeat(x, group, axis=0)
  samples = jnp.tile(jnp.arange(group, dtype=jnp.int32), P)
  last = jnp.take_along_axis(prompts, (lengths - 1)[:, None], axis=1)[:, 0]
  state = DecodeState(
    cache=jax.tree.map(copies, cache),
    last=copies(last),
    keys=jax.vmap(samplers.sample_key, (None, 0, 0))(root, copies(visit_ids), samples),
    sampling=sampling,
    budgets=budgets,
    stop_ids=stop_ids,
    tokens=jnp.zeros((B, budget), jnp.int32),
    logprobs=jnp.zeros((B, budget), jnp.float32),
    log_mass=jnp.zeros((B, budget), jnp.float32),
    versions=jnp.zeros((B, budget), jnp.int32),
    lengths=jnp.zeros((B,), jnp.int32),
    stop=jnp.full((B,), RUNNING, jnp.int32),
    version=jnp.asarray(version, jnp.int32),
  )
  return grow(state, slots=slots)


def grow(state: DecodeState, *, slots: int) -> DecodeState:
  """The state with its cache widened to `slots` (static)."""
  more = slots - state.cache.positions.shape[1]
  wide = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0)))
  cache = state.cache
  cache = cache.replace(
    keys=tuple(wide(x) for x in cache.keys),
    values=tuple(wide(x) for x in cache.values),
    positions=jnp.pad(cache.positions, ((0, 0), (0, more)), constant_values=-1),
  )
  return _placed(state.replace(cache=cache))


def decode(params: Params, config: ModelConfig, state: DecodeState, *, steps: int, truncate: bool) -> DecodeState:
  """K tokens in every live slot.

  Args:
    params: the rollout's copy.
    config: static.
    state: donated.
    steps: static K.
    truncate: static, whether any slot uses top-p, top-k or min-p.
  """
  return _placed(jax.lax.fori_loop(0, steps, lambda _, state: _step(params, config, state, truncate), state))


def _placed(state: DecodeState) -> DecodeState:
  """The state spread over the mesh: slots over the batch axes, the cache's heads over theirs.

  Every program hands it on in this layout, so that none is compiled a second time for the layout of another's result.
  """
  spread = jax.tree.map(lambda x: shard(x, _AXES[x.ndim]), state.replace(stop_ids=None))
  return spread.replace(stop_ids=shard(state.stop_ids, (None,)))


# Of the state's arrays by their rank: the version, [B], [B, T] or [B, S], and [B, K, S, H] of the cache.
_AXES = {0: (), 1: ("batch",), 2: ("batch", None), 4: ("batch", "kv_heads", None, None)}


def _step(params, config, state: DecodeState, truncate: bool) -> DecodeState:
  live = state.stop == RUNNING
  used = state.cache.used
  out = decoder.apply(params, config, state.last[:, None], used[:, None], cache=state.cache)
  logits = shard(decoder.unembed(params, config, out.hidden[:, 0]), ("batch", "vocab"))
  uniforms = jax.vmap(samplers.token_uniform)(state.keys, state.lengths)
  token, logprob, log_mass = samplers.sample(logits, uniforms, state.sampling, truncate=truncate)

  lengths = state.lengths + live.astype(jnp.int32)
  ended = jnp.any(token[:, None] == state.stop_ids[None, :], axis=-1)
  reason = jnp.where(ended, STOP_TOKEN, jnp.where(lengths >= state.budgets, BUDGET, RUNNING))
  columns = jnp.arange(state.tokens.shape[1], dtype=jnp.int32)[None]
  here = (columns == state.lengths[:, None]) & live[:, None]
  put = lambda buffer, value: jnp.where(here, jnp.broadcast_to(value[:, None], buffer.shape), buffer)
  return state.replace(
    # A finished slot stays where it is: what it computes lands in the same place and is never read.
    cache=out.cache.replace(used=jnp.where(live, used + 1, used)),
    last=jnp.where(live, token, state.last),
    tokens=put(state.tokens, token),
    logprobs=put(state.logprobs, logprob),
    log_mass=put(state.log_mass, log_mass),
    versions=put(state.versions, jnp.broadcast_to(state.version[None], token.shape)),
    lengths=lengths,
    stop=jnp.where(live, reason, state.stop).astype(jnp.int32),
  )
