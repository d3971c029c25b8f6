"""Laws of assembling: every token of a rollout comes to the column where the update looks for it, with its own advantage.

B = P prompts x G samples, Tp prompt columns, T completion columns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxreason import assemble
from jaxreason.advantages import group_relative
from jaxreason.objective import Objective
from jaxreason.records import STOP_TOKEN, Rollouts

P, G, TP, T = 3, 4, 5, 6


def rollouts(seed=0) -> Rollouts:
  generator = np.random.default_rng(seed)
  lengths = generator.integers(1, T + 1, (P, G)).astype(np.int32)
  written = np.arange(T) < lengths[..., None]
  prompt_lengths = np.array([5, 1, 3], np.int32)
  draw = lambda: np.where(written, generator.normal(size=(P, G, T)) - 2, 0).astype(np.float32)
  return Rollouts(
    prompts=np.where(np.arange(TP) < prompt_lengths[:, None], tiny.tokens(seed, P, TP), 0).astype(np.int32),
    prompt_lengths=prompt_lengths,
    visit_ids=np.arange(P, dtype=np.int32),
    tokens=np.where(written, tiny.tokens(seed + 1, P, G, T), 0).astype(np.int32),
    lengths=lengths,
    logprobs=draw(),
    log_mass=np.zeros((P, G, T), np.float32),
    versions=np.zeros((P, G, T), np.int32),
    own=written,
    stop=np.full((P, G), STOP_TOKEN, np.int32),
    rewards=generator.random((P, G)).astype(np.float32),
    judged=np.array([[True] * 4, [True, False, True, True], [False] * 4]),
  )


make = jax.jit(functools.partial(assemble.assemble, objective=Objective()), static_argnames="width")


def test_each_row_is_its_prompt_and_then_its_completion():
  source, batch = rollouts(), make(rollouts(), width=T)
  for row in range(P * G):
    p, g = divmod(row, G)
    prompt = source.prompts[p, : source.prompt_lengths[p]]
    completion = source.tokens[p, g, : source.lengths[p, g]]
    expected = [*prompt, *completion]
    np.testing.assert_array_equal(batch.tokens[row], expected + [0] * (TP + T - len(expected)))
    assert batch.prompt_lengths[row] == len(prompt)
    assert batch.lengths[row] == len(expected)
    np.testing.assert_array_equal(batch.behavior_logprobs[row], source.logprobs[p, g])


def test_the_mask_is_the_written_tokens_of_judged_samples():
  source, batch = rollouts(), make(rollouts(), width=T)
  written = np.arange(T) < source.lengths[..., None]
  np.testing.assert_array_equal(batch.mask, (written & source.judged[..., None]).reshape(P * G, T))


def test_every_token_of_a_sample_has_its_advantage_in_the_group():
  source, batch = rollouts(), make(rollouts(), width=T)
  expected = group_relative(jnp.asarray(source.rewards), jnp.asarray(source.judged)).reshape(-1, 1)
  np.testing.assert_allclose(batch.advantages, np.broadcast_to(expected, (P * G, T)), rtol=1e-6)


def test_a_narrower_batch_drops_only_columns_that_no_completion_reaches():
  source = rollouts()
  source = source.replace(lengths=np.minimum(source.lengths, 4))
  wide, narrow = make(source, width=T), make(source, width=4)
  np.testing.assert_array_equal(narrow.tokens, wide.tokens[:, : TP + 4])
  assert not np.asarray(wide.tokens[:, TP + 4 :]).any()
  for name in ("mask", "behavior_logprobs", "advantages"):
    np.testing.assert_array_equal(getattr(narrow, name), getattr(wide, name)[:, :4])


@pytest.mark.parametrize("std", ["group", "none"])
def test_permuting_a_group_permutes_its_rows(std):
  source, order = rollouts(), np.array([2, 0, 3, 1])
  moved = source.replace(
    **{name: getattr(source, name)[:, order] for name in ("tokens", "lengths", "logprobs", "own", "rewards", "judged")}
  )
  put = jax.jit(functools.partial(assemble.assemble, objective=Objective(advantage_std=std), width=T))
  rows = np.arange(P * G).reshape(P, G)[:, order].reshape(-1)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[rows], rtol=1e-5, atol=1e-6), put(moved), put(source))
