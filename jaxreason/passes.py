"""Floor 3: what a model says of a batch, without a step.

What enters: parameters and a `Batch`. What leaves: log-probs, scores or values of its tokens, micro-batch after micro-batch,
or the batch with them beside it: the passes that an objective needs before its update. B samples, T completion tokens,
M micro-batches.
"""

import jax
import jax.numpy as jnp

from jaxreason import critic as critics
from jaxreason import objective as objectives
from jaxreason import policy
from jaxreason.model import calls
from jaxreason.model.calls import AnyModel
from jaxreason.model.config import ModelConfig
from jaxreason.objective import Objective, PairObjective, pairs
from jaxreason.records import Batch
from jaxreason.truncation import Cut


def split(batch: Batch, micro_batches: int) -> Batch:
  """The batch with a leading axis of M micro-batches on every array."""
  return jax.tree.map(lambda x: x.reshape(micro_batches, x.shape[0] // micro_batches, *x.shape[1:]), batch)


def completions(
  params,
  batch: Batch,
  temperature,
  *,
  config: AnyModel,
  micro_batches: int = 1,
  chunk_tokens: int = 1024,
  truncation: Cut | None = None,
) -> tuple[jax.Array, jax.Array]:
  """(log-probs, entropy), [B, T] each, that `params` give the batch's tokens, without gradient; arguments as of `update`."""

  params = calls.computing(params, config)

  def found(part: Batch):
    return policy.completion_logprobs(
      params, config, part.tokens, part.prompt_lengths, part.lengths, part.mask.shape[1],
      temperature=temperature, chunk_tokens=chunk_tokens, layout=part.layout, truncation=truncation,
      experts=part.experts,
    )  # fmt: skip

  both = jax.lax.stop_gradient(jax.lax.map(found, split(batch, micro_batches)))
  return tuple(array.reshape(batch.mask.shape) for array in both)


def told(params, part: Batch, temperature, *, config, chunk_tokens: int, truncation: Cut | None):
  """What an objective is a function of: a policy's (log-probs, entropy), [n, T] each, or a reward model's (scores,), [n]."""
  shape = dict(config=config, chunk_tokens=chunk_tokens, truncation=truncation)
  return told_and_routed(params, part, temperature, **shape)[0]


def told_and_routed(params, part: Batch, temperature, *, config, chunk_tokens: int, truncation: Cut | None):
  """(`told`, what a policy's routers did: None of a dense one, and of a reward model)."""
  if isinstance(params, critics.Critic):
    score = critics.answer_scores(params, config, part.tokens, part.prompt_lengths, part.lengths, layout=part.layout)
    return (score,), None
  logprobs, entropy, routed = policy.completion_logprobs(
    params, config, part.tokens, part.prompt_lengths, part.lengths, part.mask.shape[1],
    temperature=temperature, chunk_tokens=chunk_tokens, layout=part.layout, truncation=truncation, experts=part.experts,
    routed=True,
  )  # fmt: skip
  # Beyond a row's end are log-probs of padding, which the mask drops; zeros keep them from overflowing.
  return (jnp.where(part.mask, logprobs, 0.0), entropy), routed


def of_batch(told):
  """Arrays [M, n, ...] as [B, ...]."""
  return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), told)


def chosen_across(params, batch: Batch, temperature, step, *, objective: Objective | PairObjective, **shape) -> Batch:
  """The batch with the tokens chosen that the objective chooses over all of it, if it does; arguments as of `update`."""
  if not objective.looks_across:
    return batch
  key = jax.random.fold_in(jax.random.key(0), step)
  return objectives.choose(objective, *completions(params, batch, temperature, **shape), batch, key)


def with_reference(params, batch: Batch, temperature, **shape) -> Batch:
  """The batch with the log-probs that `params`, the reference's, give its tokens; arguments as of `completions`."""
  return batch.replace(reference_logprobs=completions(params, batch.replace(experts=None), temperature, **shape)[0])


def with_old_policy(params, batch: Batch, temperature, **shape) -> Batch:
  """The batch with the log-probs of `params`, the policy's before the batch's first update; arguments as of `completions`."""
  logprobs, _ = completions(params, batch, temperature, **shape)
  return batch.replace(old_logprobs=jnp.where(batch.mask, logprobs, 0.0))


def with_teacher(params, batch: Batch, temperature, **shape) -> Batch:
  """The batch with the log-probs that a teacher gives its tokens, at the student's temperature."""
  return batch.replace(teacher_logprobs=completions(params, batch.replace(experts=None), temperature, **shape)[0])


def measured_pairs(
  params, batch: Batch, *, config: ModelConfig, objective: PairObjective, micro_batches: int = 1, chunk_tokens: int = 1024
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(loss, reward of the preferred answer, of the other one), [B/2] float32 each; see `objective.pairs`."""
  read = lambda part: told(params, part, 1.0, config=config, chunk_tokens=chunk_tokens, truncation=None)
  found = of_batch(jax.lax.map(read, split(batch, micro_batches)))
  return pairs.pair_losses(objective, found, batch), *pairs.rewards(objective, found, batch)


def scores(params: critics.Critic, batch: Batch, *, config: ModelConfig, micro_batches: int = 1) -> jax.Array:
  """[B] float32, a reward model's score of each sample, without gradient; arguments as of `update`."""
  read = lambda part: told(params, part, 1.0, config=config, chunk_tokens=0, truncation=None)
  return of_batch(jax.lax.map(read, split(batch, micro_batches)))[0]


def with_values(
  params: critics.Critic, batch: Batch, rewards, *, config: ModelConfig, objective: Objective, micro_batches: int = 1
) -> Batch:
  """The batch with the critic's values, and the advantages and returns that follow from them.

  Args:
    params: the critic's.
    batch: B samples.
    rewards: [P, G] or [B] float32.
    config: static; objective and micro_batches too.
  """
  parts = jax.lax.map(lambda part: values(params, part, config), split(batch, micro_batches))
  found = jnp.where(batch.mask, parts.reshape(batch.mask.shape), 0.0)
  advantages, returns = objectives.critic_advantages(objective, rewards.reshape(-1), found, batch)
  return batch.replace(values=found, advantages=advantages, returns=returns)


def values(params, part: Batch, config):
  width = part.mask.shape[1]
  return critics.completion_values(params, config, part.tokens, part.prompt_lengths, part.lengths, width, layout=part.layout)
