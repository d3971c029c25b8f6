"""Floor 3: from rollouts to the batch of one update.

What enters: `Rollouts` with rewards. What leaves: a `Batch`, prompts and completions joined into rows, advantages on every
token that the policy wrote, and a mask without the samples that could not be judged. Runs on the device, jitted by `build`.
B sequences = P prompts x G samples, Tp prompt columns, T completion columns, S = Tp + T.
"""

import jax.numpy as jnp

from jaxreason import objective as objectives
from jaxreason.objective import Objective
from jaxreason.records import Batch, Rollouts


def assemble(rollouts: Rollouts, *, objective: Objective, width: int) -> Batch:
  """Joins, scores and masks.

  Args:
    rollouts: P groups of G.
    objective: static; its advantage is used. Where it replays the sampler's truncation, behaviour log-probs are the truncated
      sampler's, logprobs - log_mass; else the policy's at sampling time.
    width: static T of the batch; the longest completion fits.

  Returns:
    A `Batch` of P·G samples, group after group.
  """
  P, G, _ = rollouts.tokens.shape
  B, Tp = P * G, rollouts.prompts.shape[1]
  flat = lambda x: x[..., :width].reshape(B, width)
  completions, logprobs = flat(rollouts.tokens), flat(rollouts.logprobs)
  if objective.replay_truncation:
    logprobs = logprobs - flat(rollouts.log_mass)
  lengths = rollouts.lengths.reshape(B)
  prompt_lengths = jnp.repeat(rollouts.prompt_lengths, G)
  written = flat(rollouts.own)
  advantages = objectives.advantages(objective, rollouts.rewards, rollouts.judged, written.reshape(P, G, width))
  steps = None
  if objective.step_coef:
    steps = objectives.step_advantages(objective, rollouts.step_values[..., :width], rollouts.judged)
    advantages, steps = advantages + steps, steps.reshape(B, width)
  counted = objectives.counted(objective, rollouts.rewards, rollouts.judged).reshape(B)
  mask = written & rollouts.judged.reshape(B, 1)
  prompt_tokens = jnp.sum((mask & counted[:, None]).reshape(P, G * width), axis=1).astype(jnp.float32)
  return Batch(
    tokens=join(jnp.repeat(rollouts.prompts, G, axis=0), prompt_lengths, completions, lengths),
    prompt_lengths=prompt_lengths,
    lengths=prompt_lengths + lengths,
    mask=mask,
    behavior_logprobs=logprobs,
    advantages=advantages.reshape(B, width),
    counted=counted if objective.zero_variance == "drop" else None,
    prompt_tokens=jnp.repeat(prompt_tokens, G),
    step_advantages=steps if objective.revises_advantages else None,
    experts=None if rollouts.experts is None else rollouts.experts[:, :, : Tp + width].reshape(B, Tp + width, -1),
  )


def join(prompts, prompt_lengths, completions, lengths):
  """[B, Tp] and [B, T], right-padded -> [B, Tp + T]: each completion starts where its prompt ends, zeros after it."""
  B, Tp = prompts.shape
  columns = jnp.broadcast_to(jnp.arange(Tp + completions.shape[1], dtype=jnp.int32)[None], (B, Tp + completions.shape[1]))
  place = columns - prompt_lengths[:, None]
  prompt = jnp.take_along_axis(prompts, jnp.minimum(columns, Tp - 1), axis=1)
  completion = jnp.take_along_axis(completions, jnp.clip(place, 0, completions.shape[1] - 1), axis=1)
  return jnp.where(place < 0, prompt, jnp.where(place < lengths[:, None], completion, 0))
