"""Floor 3: the one definition of a token's log-probability.

What enters: parameters, sequences and the sampler's temperature. What leaves: log-probability and entropy of each
completion token. The update, the reference and teacher passes and evaluation call `completion_logprobs`; the sampler divides
the same `unembed` by the same temperature one position at a time, and where it truncates, the update may ask for the truncated
distribution instead. A critic reads its values at the same places, a reward model one score where an answer ends.
B sequences, S their columns, T completion tokens, D embed.
"""

import jax
import jax.numpy as jnp

from jaxreason import sharding
from jaxreason.model import calls
from jaxreason.model.calls import AnyModel
from jaxreason.records import Layout
from jaxreason.truncation import Cut


def completion_logprobs(
  params,
  config: AnyModel,
  tokens,
  prompt_lengths,
  lengths,
  width: int,
  *,
  temperature,
  chunk_tokens: int = 1024,
  layout: Layout | None = None,
  truncation: Cut | None = None,
  experts=None,
  routed: bool = False,
) -> tuple:
  """Log-probability and entropy of the completion tokens of right-padded sequences.

  Args:
    params: the policy's, or the reference's.
    config: static; of our decoder, or an `OwnModel`.
    tokens: [B, S] int32, prompt then completion, right-padded.
    prompt_lengths: [B] int32, at least 1.
    lengths: [B] int32, tokens of prompt and completion.
    width: static T; completion token t of a row is in column prompt_length + t.
    temperature: scalar > 0, the sampler's.
    chunk_tokens: see `logprobs.from_hidden`.
    layout: of `packing.pack` for these samples, as one micro-batch: they are computed in packed rows, to the same numbers.
    truncation: static, the sampler's; None for the policy's own log-probs. With it they are those of the truncated sampler,
      log π(aₜ) - log Σ_{v kept} π(v), the set of kept tokens without gradient. A token outside the set has the same formula's
      number, not -∞: finite, with a gradient that can bring it back, and continuous where rounding decides who is kept.
    experts: [B, S, L·k] int16, of a mixture: the experts of each token's k choices in each layer, in the place of the routers'
      own where not below 0. A prompt that packed samples share is computed with its owner's. None: the routers choose.
    routed: static, whether what a mixture's routers did is told too.

  Returns:
    (logprobs, entropy), [B, T] float32 each, nats; meaningless where a row has no token t. The entropy is the whole policy's.
    With `routed` a `moe.Routed` of the rows that were computed, or None of a dense model, is third.
  """
  cut = Cut() if truncation is None else truncation

  def read(hidden, taken):
    shape, (hidden, taken) = taken.shape, map(_by_part, (hidden, taken))
    logprobs, entropy, *log_mass = calls.from_hidden(
      params, config, hidden, taken, temperature=temperature, chunk_tokens=chunk_tokens, **cut._asdict()
    )
    return tuple(x.reshape(shape) for x in (logprobs - log_mass[0] if log_mass else logprobs, entropy))

  told, aux = at_completions(params, config, tokens, prompt_lengths, lengths, width, read, layout=layout, experts=experts)
  return (*told, aux) if routed else told


def at_completions(
  params, config, tokens, prompt_lengths, lengths, width: int, read, *, layout: Layout | None = None, experts=None
):
  """(what `read` finds before each completion token, as [B, T] arrays, the decoder's `aux`).

  Args:
    params: the decoder's.
    config: static; tokens, prompt_lengths, lengths, width, layout and experts as in `completion_logprobs`.
    read: (hidden, taken) -> tree of arrays [R, C]: from the hidden states [R, C, D] that precede the tokens `taken` [R, C].
  """
  if layout is not None:
    return _at_packed_completions(params, config, tokens, prompt_lengths, width, read, layout, experts)
  tokens = _filled(tokens)
  S = tokens.shape[1]
  out = _in_own_rows(params, config, tokens, lengths, experts)
  at = jnp.clip(prompt_lengths[:, None] + jnp.arange(width, dtype=jnp.int32)[None], 1, S - 1)
  at = _filled(at)
  predictors = _taken_along(out.hidden, at - 1)
  found = read(predictors, jnp.take_along_axis(tokens, at, axis=1))
  return jax.tree.map(lambda x: x[:, :width], found) if at.shape[1] > width else found, out.aux


def at_last_tokens(params, config, tokens, prompt_lengths, lengths, read, *, layout: Layout | None = None):
  """What `read` finds at the last token of each sequence, that token seen, as [B] arrays.

  Args:
    params: the decoder's.
    config: static; tokens, prompt_lengths, lengths and layout as in `completion_logprobs`.
    read: hidden -> tree of arrays [R, C]: from hidden states [R, C, D].
  """
  B, S = tokens.shape
  last = lengths - 1
  if layout is None:
    hidden = _in_own_rows(params, config, _filled(tokens), lengths).hidden
    found = read(jnp.take_along_axis(hidden, last[:, None, None], axis=1))
    return jax.tree.map(lambda array: array[:, 0], found)
  out, *_, place = _in_packed_rows(params, config, tokens, prompt_lengths, layout)
  at = place[jnp.arange(B, dtype=jnp.int32) * S + last]
  return jax.tree.map(lambda found: found.reshape(-1)[at], read(out.hidden))


def _in_own_rows(params, config, tokens, lengths, experts=None):
  """The decoder's output, hidden states [B, S, D], each sequence in a row of its own."""
  B, S = tokens.shape
  columns = jnp.arange(S, dtype=jnp.int32)
  positions = jnp.broadcast_to(columns[None], (B, S))
  segments = (columns[None] < lengths[:, None]).astype(jnp.int32)
  if experts is not None and experts.shape[1] < S:
    experts = jnp.pad(experts, ((0, 0), (0, S - experts.shape[1]), (0, 0)), constant_values=-1)
  return calls.apply(params, config, tokens, positions, segments=segments, routing=_by_layer(experts, config))


def _by_layer(experts, config):
  """[B, S, L·k] as [L, B, S, k], as the decoder takes them; None for None."""
  return experts if experts is None else jnp.moveaxis(experts.reshape(*experts.shape[:2], config.layers, -1), 2, 0)


def _in_packed_rows(params, config, tokens, prompt_lengths, layout: Layout, experts=None):
  """(the decoder's output, hidden states [R, W, D], and [R, W] each: tokens, sample, position; [B·S] place) of a layout's rows.

  place says which column of which row, flat, holds token t of sample i; a shared prompt's are its owner's.
  """
  (B, S), (R, W) = tokens.shape, layout.rows.shape
  real = layout.rows < B * S
  sample, position = jnp.minimum(layout.rows // S, B - 1), layout.rows % S
  prompt = position < prompt_lengths[sample]
  packed = jnp.where(real, tokens.reshape(-1)[jnp.minimum(layout.rows, B * S - 1)], 0)
  segments = (jnp.where(real, layout.prompt_of[sample] + 1, 0), jnp.where(real & ~prompt, sample + 1, 0))
  segments = segments if layout.seen is None else (*segments, layout.seen)
  if experts is not None:
    flat = experts.reshape(B * S, -1)[jnp.minimum(layout.rows, B * S - 1)]
    experts = _by_layer(jnp.where(real[:, :, None], flat, jnp.int16(-1)), config)
  out = calls.apply(params, config, packed, jnp.where(real, position, 0), segments=segments, routing=experts)
  place = jnp.zeros(B * S, jnp.int32).at[layout.rows.reshape(-1)].set(jnp.arange(R * W, dtype=jnp.int32), mode="drop")
  return out, packed, sample, position, place


def _at_packed_completions(params, config, tokens, prompt_lengths, width, read, layout: Layout, experts):
  """The same in the rows of a layout. R rows of W columns hold B samples; gathers stay within a row until the last one."""
  (B, S), W = tokens.shape, layout.rows.shape[1]
  out, packed, sample, position, place = _in_packed_rows(params, config, tokens, prompt_lengths, layout, experts)
  before = jnp.maximum(position - 1, 0)
  holder = jnp.where(before < prompt_lengths[sample], layout.prompt_of[sample], sample)
  predictors = _taken_along(out.hidden, place[holder * S + before] % W)
  token = jnp.clip(prompt_lengths[:, None] + jnp.arange(width, dtype=jnp.int32)[None], 1, S - 1)
  at = place[jnp.arange(B, dtype=jnp.int32)[:, None] * S + token]
  return jax.tree.map(lambda found: found.reshape(-1)[at], read(predictors, packed)), out.aux


def _filled(x):
  """[B, C] with zeros behind, so that its columns divide over the devices that rows are cut over."""
  more = -x.shape[1] % sharding.parts("length")
  return jnp.pad(x, ((0, 0), (0, more))) if more else x


def _taken_along(hidden, at):
  """The hidden states in columns `at` [B, C] of each row. Where rows are cut, each device looks them up for its own columns, in
  whole rows, once after all blocks."""
  if sharding.parts("length") > 1:
    hidden = sharding.shard(hidden, ("batch", None, "embed"))
    at = sharding.shard(at, ("batch", "length"))
  found = jnp.take_along_axis(hidden, at[:, :, None], axis=1)
  return sharding.shard(found, ("batch", "length", "embed")) if sharding.parts("length") > 1 else found


def _by_part(x):
  """[B, C, ...] as [B, parts, C / parts, ...]: columns are then cut in chunks within a device's part, not across."""
  parts = sharding.parts("length")
  if parts == 1:
    return x
  parted = x.reshape(x.shape[0], parts, x.shape[1] // parts, *x.shape[2:])
  return sharding.shard(parted, ("batch", "length", *[None] * (x.ndim - 1)))
