"""Floor 3: one optimizer step.

What enters: a `TrainState` and a `Batch`. What leaves: the next state and the step's numbers, still on the device. The
batch goes through in micro-batches under `lax.scan`; losses are sums whose denominators belong to the whole batch, so
that the split changes nothing but memory. A step whose gradient is not finite leaves parameters and optimizer untouched
and is counted. B sequences, T completion tokens, M micro-batches.
"""

import jax
import jax.numpy as jnp
import optax

from jaxreason import objective as objectives
from jaxreason import policy
from jaxreason.masks import divide
from jaxreason.model.config import ModelConfig
from jaxreason.objective import Objective
from jaxreason.records import Batch, TrainState


def initialize(params, transformation: optax.GradientTransformation) -> TrainState:
  """A state before its first update; `opt_state` is made in the structure and sharding of the parameters."""
  return TrainState(params, transformation.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def update(
  state: TrainState,
  batch: Batch,
  temperature,
  *,
  config: ModelConfig,
  objective: Objective,
  transformation: optax.GradientTransformation,
  micro_batches: int = 1,
  chunk_tokens: int = 1024,
) -> tuple[TrainState, dict]:
  """One step of gradient descent on the objective.

  Args:
    state: donated by the caller's jit.
    batch: B samples; B is a multiple of micro_batches.
    temperature: scalar > 0, what the samples were drawn at.
    config: static.
    objective: static.
    transformation: static, optax.
    micro_batches: static M.
    chunk_tokens: static, see `logprobs.from_hidden`.

  Returns:
    (state, stats): stats are float32 scalars, among them loss, grad_norm, update_norm, skipped (0 or 1) and the token
    means of `objective.diagnostics`.
  """
  gradients, stats = value_and_gradients(
    state.params, batch, temperature, config=config, objective=objective, micro_batches=micro_batches, chunk_tokens=chunk_tokens
  )
  norm = optax.tree.norm(gradients)
  finite = jnp.isfinite(norm) & jnp.isfinite(stats["loss"])
  updates, opt_state = transformation.update(gradients, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
  skipped = (~finite).astype(jnp.int32)
  stats |= {"grad_norm": norm, "update_norm": optax.tree.norm(updates), "skipped": skipped.astype(jnp.float32)}
  state = state.replace(
    params=keep(params, state.params),
    opt_state=keep(opt_state, state.opt_state),
    step=state.step + 1,
    skipped=state.skipped + skipped,
  )
  return state, stats


def value_and_gradients(
  params,
  batch: Batch,
  temperature,
  *,
  config: ModelConfig,
  objective: Objective,
  micro_batches: int = 1,
  chunk_tokens: int = 1024,
):
  """Gradients of the batch's loss (tree of float32, like params) and its numbers; see `update`."""
  _, denominator = objectives.reduce(objective, jnp.zeros(batch.mask.shape), batch.mask)
  tokens = jnp.sum(batch.mask.astype(jnp.float32))

  def loss_sum(params, part: Batch):
    logprobs, entropy = policy.completion_logprobs(
      params, config, part.tokens, part.prompt_lengths, part.lengths, part.mask.shape[1],
      temperature=temperature, chunk_tokens=chunk_tokens, layout=part.layout,
    )  # fmt: skip
    # Columns beyond a row's end hold log-probs of padding, which the mask drops; zeros keep them from overflowing.
    logprobs = jnp.where(part.mask, logprobs, 0.0)
    total, _ = objectives.reduce(objective, objectives.token_losses(objective, logprobs, entropy, part), part.mask)
    numbers = objectives.diagnostics(objective, logprobs, entropy, part)
    sums = {name: jnp.sum(jnp.where(part.mask, value, 0.0)) for name, value in numbers.items()}
    difference = jnp.max(jnp.where(part.mask, jnp.abs(logprobs - part.behavior_logprobs), 0.0))
    return divide(total, denominator), (sums, difference)

  def one(carry, part):
    gradients, loss, sums, difference = carry
    (value, (more, worst)), gradient = jax.value_and_grad(loss_sum, has_aux=True)(params, part)
    gradient = jax.tree.map(lambda g: g.astype(jnp.float32), gradient)
    carry = (
      jax.tree.map(jnp.add, gradients, gradient),
      loss + value,
      jax.tree.map(jnp.add, sums, more),
      jnp.maximum(difference, worst),
    )
    return carry, None

  parts = split(batch, micro_batches)
  first = jax.tree.map(lambda x: x[0], parts)
  zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), tree)
  (_, (sums, _)) = jax.eval_shape(loss_sum, params, first)
  start = (zeros(params), jnp.zeros(()), zeros(sums), jnp.zeros(()))
  (gradients, loss, sums, difference), _ = jax.lax.scan(one, start, parts)

  stats = {name: divide(value, tokens) for name, value in sums.items()}
  stats |= {"loss": loss, "tokens": tokens}
  if objective.surrogate != "sft":
    stats["sampling/logprob_difference_max"] = difference
  return gradients, stats


def split(batch: Batch, micro_batches: int) -> Batch:
  """The batch with a leading axis of M micro-batches on every array."""
  return jax.tree.map(lambda x: x.reshape(micro_batches, x.shape[0] // micro_batches, *x.shape[1:]), batch)


def with_reference(
  params, batch: Batch, temperature, *, config: ModelConfig, micro_batches: int = 1, chunk_tokens: int = 1024
) -> Batch:
  """The batch with the log-probs that `params`, the reference's, give its tokens; arguments as of `update`."""

  def logprobs(part: Batch):
    return policy.completion_logprobs(
      params, config, part.tokens, part.prompt_lengths, part.lengths, part.mask.shape[1],
      temperature=temperature, chunk_tokens=chunk_tokens, layout=part.layout,
    )[0]  # fmt: skip

  return batch.replace(reference_logprobs=jax.lax.map(logprobs, split(batch, micro_batches)).reshape(batch.mask.shape))
