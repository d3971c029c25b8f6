"""Floor 3: one optimizer step.

What enters: a `TrainState` and a `Batch`. What leaves: the next state and the step's numbers, still on the device. The
batch goes through in micro-batches under `lax.scan`; losses are sums whose denominators belong to the whole batch, so
that the split changes nothing but memory. A step whose gradient is not finite, or whose batch has no token to train on, leaves
parameters, optimizer and average untouched and is counted. B sequences, T completion tokens, M micro-batches.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreason import critic as critics
from jaxreason import losses, masks, passes, sharding
from jaxreason import objective as objectives
from jaxreason.masks import divide
from jaxreason.model import calls, moe, weights
from jaxreason.model.calls import AnyModel
from jaxreason.model.config import ModelConfig
from jaxreason.objective import Objective, PairObjective
from jaxreason.records import Batch, CriticState, TrainState, joined
from jaxreason.truncation import Cut


def initialize(
  params,
  transformation: optax.GradientTransformation,
  critic_transformation: optax.GradientTransformation | None = None,
  averaged: bool = False,
  embed: int | None = None,
) -> TrainState:
  """A state before its first update; `opt_state` is made in the structure and sharding of the parameters.

  With `critic_transformation` it has a critic, which begins as a copy of `params`; so does the average of an `averaged` one.
  Where `params` are adapters, the base is the caller's to put beside them, and `embed` is the width D of a critic.
  """
  state = TrainState(params, transformation.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
  if averaged:
    state = state.replace(average=jax.tree.map(jnp.copy, params))
  if critic_transformation is None:
    return state
  critic = critics.initialize(params, embed)
  return state.replace(critic=CriticState(critic, critic_transformation.init(critic)))


def update(
  state: TrainState,
  batch: Batch,
  temperature,
  *,
  config: AnyModel,
  objective: Objective | PairObjective,
  transformation: optax.GradientTransformation,
  critic_transformation: optax.GradientTransformation | None = None,
  micro_batches: int = 1,
  chunk_tokens: int = 1024,
  truncation: Cut | None = None,
  average_decay: float = 0.0,
  max_kl: float = 0.0,
  moments_on_host: bool = False,
) -> tuple[TrainState, dict]:
  """One step of gradient descent on the objective, and one of the critic where the state has one.

  Args:
    state: donated by the caller's jit.
    batch: B samples; B is a multiple of micro_batches. A pair is samples 2i, the preferred, and 2i + 1.
    temperature: scalar > 0, what the samples were drawn at.
    config: static, and so is what follows; of our decoder, or an `OwnModel`, whose params are any tree.
    objective: of tokens or of pairs.
    transformation: the optimizer; critic_transformation, that of a state with a critic.
    micro_batches: M.
    chunk_tokens: see `logprobs.from_hidden`.
    truncation: the sampler's where the objective replays it; see `policy.completion_logprobs`.
    average_decay: of the average of a state that has one: average <- decay · average + (1 - decay) · params.
    max_kl: nats a token: where the policy has moved further than this from that of the batch's `old_logprobs`, nothing is
      changed or counted, and `stopped` is 1. 0 for no bound.
    moments_on_host: whether the optimizer's moments come from the host's memory; the caller's jit puts them back there.

  Returns:
    (state, stats): float32 scalars, among them loss, grad_norm, update_norm, skipped (0 or 1), empty (1: no token counts, which
    is why it was skipped), with max_kl stopped, and `objective.diagnostics`.
  """
  shape, critic = dict(config=config, objective=objective, micro_batches=micro_batches), state.critic
  gradients, stats = value_and_gradients(
    state.params, batch, temperature, state.step, base=state.base, chunk_tokens=chunk_tokens, truncation=truncation, **shape
  )
  stepped = [_stepped(transformation, gradients, state, moments_on_host)]
  stats |= {"grad_norm": optax.tree.norm(gradients), "update_norm": stepped[0].norm}
  if critic is not None:
    beside = state.base and critics.like(state.base, None)
    gradients, critic_stats = critic_value_and_gradients(critic.params, batch, base=beside, **shape)
    stepped.append(_stepped(critic_transformation, gradients, critic, moments_on_host))
    stats |= critic_stats
  good, stopped = _is_good(stats, *(one.norm for one in stepped)), jnp.zeros((), bool)
  if max_kl:  # NaN is no reason to stop: such a step is skipped
    stopped = stats["ppo_kl"] > max_kl
    stats["stopped"] = stopped.astype(jnp.float32)
  keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good & ~stopped, n, o), new, old)
  params, opt_state = keep(stepped[0].new, stepped[0].old)
  if critic is not None:
    critic = CriticState(*keep(stepped[1].new, stepped[1].old))
  skipped = ~good & ~stopped
  stats["skipped"] = skipped.astype(jnp.float32)
  average = state.average and keep(optax.incremental_update(params, state.average, 1 - average_decay), state.average)
  return TrainState(params, opt_state, state.step + ~stopped, state.skipped + skipped, critic, average, state.base), stats


def _is_good(stats: dict, *norms):
  """Whether a step may be taken: something to learn from, and nothing that is not finite; `norms` of what would be added."""
  # The entropy too: a clipped loss may hide a model whose log-probs are NaN, its entropy cannot. A reward model has none.
  names = ("loss", "grad_norm", "entropy", "critic/vf_loss", "critic/grad_norm")
  finite = [jnp.isfinite(value) for value in (*(stats[name] for name in names if name in stats), *norms)]
  return functools.reduce(jnp.logical_and, finite, stats["empty"] == 0)


class _Stepped(NamedTuple):
  """A step that may yet be left out."""

  new: tuple  # (params, opt_state)
  old: tuple
  norm: jax.Array  # of what was added to params


def _stepped(transformation, gradients, held, moments_on_host: bool) -> _Stepped:
  moments = sharding.on_device(held.opt_state) if moments_on_host else held.opt_state
  updates, opt_state = transformation.update(gradients, moments, held.params)
  params = optax.apply_updates(held.params, updates)
  return _Stepped((params, opt_state), (held.params, moments), optax.tree.norm(updates))


def value_and_gradients(
  params,
  batch: Batch,
  temperature,
  step=0,
  *,
  config: AnyModel,
  objective: Objective | PairObjective,
  base=None,
  micro_batches: int = 1,
  chunk_tokens: int = 1024,
  truncation: Cut | None = None,
):
  """Gradients of the batch's loss (tree of float32, like params and in their shardings) and its numbers; see `update`.

  A mixture of experts adds config.balance_coef times `moe.balance`, of each micro-batch by itself, weighted by its share of
  the batch's tokens: loads over the whole batch would take a pass of their own. Every token that is computed counts, of prompts
  too, but no padding; a prompt that packed samples share counts once.

  `step` is the number of updates that params have seen: a choice of tokens at random is drawn from it. `base` are the weights
  beside params that have no gradient.
  """
  params, base = (tree and _trunk(calls.computing, tree, config) for tree in (params, base))
  shape = dict(config=config, chunk_tokens=chunk_tokens, truncation=truncation)
  whole = joined(params, base)
  batch = passes.chosen_across(whole, batch, temperature, step, objective=objective, micro_batches=micro_batches, **shape)
  denominator = objectives.denominator(objective, batch)

  def loss_sum(params, part: Batch):
    told, routed = passes.told_and_routed(joined(params, base), part, temperature, **shape)
    loss = divide(objectives.loss_sum(objective, told, part), denominator)
    if routed is None:
      return loss, (told, None)
    balance = moe.balance(routed) * divide(jnp.sum(routed.tokens), config.layers * _computed_tokens(batch, micro_batches))
    return loss + config.balance_coef * balance, (told, (balance, routed.replace(chosen=None)))

  loss, gradients, (told, routed) = _accumulated(loss_sum, params, batch, micro_batches, config)
  stats = objectives.numbers(objective, passes.of_batch(told), batch)
  if routed is not None:
    balance, routed = jax.tree.map(lambda parts: jnp.sum(parts, axis=0), routed)
    stats |= moe.numbers(routed, config.experts_per_token) | {"router/balance_loss": balance}
  trained = batch.mask if batch.counted is None else batch.mask & batch.counted[:, None]
  counts = {"tokens": jnp.sum(batch.mask.astype(jnp.float32)), "empty": (~jnp.any(trained)).astype(jnp.float32)}
  return gradients, stats | counts | {"loss": loss}


def _computed_tokens(batch: Batch, micro_batches: int):
  """Tokens of the rows that are computed, without padding; a prompt that packed samples share once."""
  if batch.layout is None:
    return jnp.sum(batch.lengths)
  B, S = batch.tokens.shape
  return jnp.sum(batch.layout.rows < B // micro_batches * S)


def critic_value_and_gradients(
  params: critics.Critic, batch: Batch, *, config: ModelConfig, objective: Objective, base=None, micro_batches: int = 1
):
  """Gradients of the critic's loss, a mean over the batch's tokens, and its numbers; the batch is one of `with_values`. `base`
  is what of a `Critic` beside params has no gradient."""
  _, denominator = masks.token_mean(jnp.zeros(batch.mask.shape), batch.mask)

  def loss_sum(params, part: Batch):
    values = jnp.where(part.mask, passes.values(joined(params, base), part, config), 0.0)
    loss = losses.value_loss(values, part.values, part.returns, clip=objective.value_clip or None)
    return divide(masks.token_mean(loss, part.mask)[0], denominator), ()

  loss, gradients, _ = _accumulated(loss_sum, params, batch, micro_batches, config)
  stats = {"critic/vf_loss": loss, "critic/grad_norm": optax.tree.norm(gradients)}
  return gradients, stats | objectives.critic_diagnostics(batch.values, batch)


def parts(params, config: ModelConfig) -> tuple:
  """(what is trained, the base or None) of all weights, a policy's or a critic's; see `weights.parts`."""
  if not isinstance(params, critics.Critic):
    return weights.parts(params, config)
  trunk, base = weights.parts(params.trunk, config)
  return params.replace(trunk=trunk), base and params.replace(trunk=base, value=None)


def _trunk(function, params, config: AnyModel):
  """`function(params, config)` of a policy's parameters, or of a critic's decoder, which has no output matrix."""
  if not isinstance(params, critics.Critic):
    return function(params, config)
  return params.replace(trunk=function(params.trunk, dataclasses.replace(config, tie_embeddings=True)))


def _accumulated(loss_sum, params, batch: Batch, micro_batches: int, config: AnyModel):
  """(loss, gradients in float32, what else each micro-batch told, [M, ...]), one micro-batch after the other.

  Gradients are held in the parameters' shardings: by itself the partitioner may keep their sum whole on every device.
  """
  constrain = lambda tree: _trunk(calls.constrained, tree, config)

  def one(carry, part):
    (value, told), gradient = jax.value_and_grad(loss_sum, has_aux=True)(params, part)
    loss, total = carry
    total = jax.tree.map(lambda total, more: total + more.astype(jnp.float32), total, gradient)
    return (loss + value, constrain(total)), told

  start = (jnp.zeros(()), constrain(jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)))
  (loss, gradients), told = jax.lax.scan(one, start, passes.split(batch, micro_batches))
  return loss, gradients, told
