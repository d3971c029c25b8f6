"""Samples of a tiny model, drawn in many ways, and what every token of theirs must be; for the laws of slots.

N samples, V vocab, T token budget.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jaxreason import policy, sampling
from jaxreason.model import decoder
from jaxreason.rollout.config import Shape
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.slots import Name, Slots, Written

TP, T, WIDE = 9, 14, 64  # the longest prompt, the budget, columns that hold both and more
ROOT = jax.random.key(11)
STOPS = (tiny.STOP, 12)
CLOSE = 1e-5  # of log-probs and of the draws' distance from a boundary, float32
BLOCK = 64  # samples that the training path computes at a time


def prompts_of(count: int, seed: int = 0, longest: int = TP) -> dict[int, np.ndarray]:
  """Prompts by visit id, of 1 to `longest` tokens."""
  generator = np.random.default_rng(seed)
  lengths = generator.integers(1, longest + 1, count)
  return {7 + 3 * row: tiny.tokens(100 * seed + row, int(length)) for row, length in enumerate(lengths)}


def shape(count=8, *, lane=1, budget=T, chunk=4, prompt=8, bucket=64, ahead=0, insert=None, prefill=None) -> Shape:
  """Sizes with one program each for insertion and prefill, and one cache that holds everything."""
  return Shape(count, lane, budget, chunk, insert or (count,), prefill or (4,), prompt, bucket, ahead)


@functools.cache
def prepared(seed: int = 0):
  return tiny.rollout_programs().prepare(tiny.params(seed=seed))


def opened(sizes: Shape, *, programs=None, cut=None, stop_ids=STOPS, **draw) -> Slots:
  return Slots(programs or tiny.rollout_programs(), sizes, Draw(ROOT, stop_ids, **draw), cut)


def finish(slots: Slots, params, version: int = 0, answer=None, chunks: int = -1) -> dict[Name, Written]:
  """Decodes until nobody is left, or for so many chunks. Each sample that ended must be told once.

  Args:
    slots: with samples in line.
    params: the rollout's copy.
    version: updates that it has seen.
    answer: lets a sample that ended go on and returns True, or returns False.
    chunks: at most; below 0 without end.
  """
  found = {}
  while (slots.running or slots.waiting) and chunks:
    chunks -= 1
    for written in slots.chunk(params, version):
      if answer is not None and answer(written):
        continue
      slots.release(written.name)
      assert written.name not in found
      found[written.name] = written
  return found


def drawn(prompts: Mapping[int, np.ndarray], sizes: Shape, *, group=4, params=None, answer=None, budgets=None, **kind):
  """All samples of some prompts, admitted in the order of the mapping."""
  slots = opened(sizes, **kind)
  for visit, prompt in prompts.items():
    slots.admit(visit, prompt, range(group), budgets=budgets)
  replies = None if answer is None else functools.partial(answer, slots)
  found = finish(slots, prepared() if params is None else params, answer=replies)
  assert found.keys() == {(visit, sample) for visit in prompts for sample in range(group)}
  assert slots.free == sizes.slots
  return found


class Truth(NamedTuple):
  """What the training path says of samples, by name: [n] or [n, V] float64 for n tokens."""

  logprobs: dict[Name, np.ndarray]
  logits: dict[Name, np.ndarray]
  ends: dict[Name, np.ndarray]  # the CDF
  uniforms: dict[Name, np.ndarray]  # the draws, named by (visit, sample, position)


def truth(found, prompts, *, params=None, temperature=1.0, least=0, stop_ids=STOPS) -> Truth:
  """The training path's log-probs, its CDF in float64, and the draws."""
  names, told = sorted(found), Truth({}, {}, {}, {})
  for first in range(0, len(names), BLOCK):
    part = names[first : first + BLOCK]
    tokens, starts, lengths = np.zeros((BLOCK, WIDE), np.int32), np.ones(BLOCK, np.int32), np.ones(BLOCK, np.int32)
    samples = np.zeros((2, BLOCK), np.int32)
    for row, name in enumerate(part):
      whole = np.concatenate([prompts[name[0]], found[name].record.tokens])
      tokens[row, : len(whole)], starts[row], lengths[row], samples[:, row] = whole, len(prompts[name[0]]), len(whole), name
    computed = _training_path(tiny.params() if params is None else params, tokens, starts, lengths, samples, temperature)
    for name, logprobs, logits, uniforms in zip(part, *map(np.asarray, computed), strict=False):
      n = len(found[name].record.tokens)
      wide = logits[:n].astype(np.float64) / temperature
      wide[:least, [stop for stop in stop_ids if stop >= 0]] = -np.inf
      weights = np.exp(wide - wide.max(-1, keepdims=True))
      told.logprobs[name], told.logits[name], told.uniforms[name] = logprobs[:n], wide, uniforms[:n].astype(np.float64)
      told.ends[name] = np.cumsum(weights, -1) / weights.sum(-1, keepdims=True)
  return told


@jax.jit
def _training_path(params, tokens, starts, lengths, samples, temperature):
  """(log-probs [N, W], logits [N, W, V], uniforms [N, W]) at the tokens after the prompts."""
  width = WIDE - 1
  logprobs, _ = policy.completion_logprobs(params, tiny.CONFIG, tokens, starts, lengths, width, temperature=temperature)
  positions = jnp.broadcast_to(jnp.arange(WIDE, dtype=jnp.int32)[None], tokens.shape)
  hidden = decoder.apply(params, tiny.CONFIG, tokens, positions).hidden
  at = jnp.clip(starts[:, None] - 1 + jnp.arange(width, dtype=jnp.int32)[None], 0, WIDE - 1)
  logits = decoder.unembed(params, tiny.CONFIG, jnp.take_along_axis(hidden, at[:, :, None], 1))
  keys = jax.vmap(sampling.sample_key, (None, 0, 0))(ROOT, *samples)
  uniforms = jax.vmap(jax.vmap(sampling.token_uniform, (None, 0)), (0, None))(keys, jnp.arange(width, dtype=jnp.int32))
  return logprobs, logits, uniforms


def check(found, prompts, *, budget=T, greedy=False, stop_ids=STOPS, since: Mapping[Name, int] = {}, **kind) -> int:
  """Every own token has the training path's log-prob, and is the one that its draw means; how many there were.

  Args:
    found: samples by name.
    prompts: by visit.
    budget: no sample has more tokens.
    greedy: whether tokens are those of the largest logit.
    stop_ids: that ended a sample.
    since: tokens of a sample before which nothing is looked at.
    **kind: of `truth`.
  """
  told, count = truth(found, prompts, stop_ids=stop_ids, **kind), 0
  for name, written in found.items():
    record, n = written.record, len(written.record.tokens)
    assert 0 < n <= budget
    assert {len(values) for values in record.kept.values()} == {n}
    looked = record.own & (np.arange(n) >= since.get(name, 0))
    here, tokens = np.flatnonzero(looked), record.tokens[looked]
    np.testing.assert_allclose(record.logprobs[looked], told.logprobs[name][looked], atol=CLOSE, rtol=0, err_msg=str(name))
    count += len(here)
    if greedy:
      np.testing.assert_array_equal(tokens, told.logits[name][looked].argmax(-1))
      continue
    ends, uniforms = told.ends[name], told.uniforms[name]
    before = np.where(tokens > 0, ends[here, np.maximum(tokens - 1, 0)], 0.0)
    assert (before - CLOSE <= uniforms[here]).all(), name
    assert (uniforms[here] <= ends[here, tokens] + CLOSE).all(), name
  return count


def check_explained(found, expected, prompts, **kind) -> int:
  """The same samples, but for draws within 1e-5 of the boundary between the two tokens; how many of those there were."""
  assert found.keys() == expected.keys()
  other, told = {}, None
  for name, written in found.items():
    if not np.array_equal(written.record.tokens, expected[name].record.tokens):
      other[name] = written
    else:
      assert written.stop == expected[name].stop
      np.testing.assert_allclose(written.record.logprobs, expected[name].record.logprobs, atol=CLOSE, rtol=0)
  told = truth(other, prompts, **kind)
  for name, written in other.items():
    one, two = written.record.tokens, expected[name].record.tokens
    both = min(len(one), len(two))
    assert (one[:both] != two[:both]).any(), f"{name} ended elsewhere without another token"
    first = int(np.argmax(one[:both] != two[:both]))
    low, high = sorted((int(one[first]), int(two[first])))
    distance = np.abs(told.ends[name][first, [low, high - 1]] - told.uniforms[name][first]).max()
    assert distance <= CLOSE, f"{name} differs at token {first}: the draw lies {distance} from the boundary"
  return len(other)


def check_bits(found, expected) -> None:
  """The same samples to the bit."""
  assert found.keys() <= expected.keys()
  for name, written in found.items():
    assert written.stop == expected[name].stop, name
    for field, values in written.record.kept.items():
      wanted = getattr(expected[name].record, field)
      assert values.dtype == wanted.dtype
      assert values.tobytes() == wanted.tobytes(), (name, field)
