"""Floor 1: from rewards to the advantage of every token, by the objective's choice.

What enters: an `Objective`, the rewards of P prompts x G samples and the mask of what was written; with a critic, its values.
What leaves: advantages, and which samples are trained on. T tokens.
"""

import jax.numpy as jnp

from jaxreason import advantages as functions
from jaxreason.records import Batch

ADVANTAGE_STD = {"group": "group", "batch": "batch", "none": None}


def _of_samples(function):
  return lambda objective, rewards, judged, mask: function(rewards, judged)


# (objective, rewards [P, G], judged [P, G], mask [P, G, T]) -> [P, G] or [P, G, T].
ADVANTAGES = {
  "group_relative": lambda objective, rewards, judged, mask: functions.group_relative(
    rewards, judged, std=ADVANTAGE_STD[objective.advantage_std]
  ),
  "leave_one_out": _of_samples(functions.leave_one_out),
  "lite_ppo": _of_samples(functions.lite_ppo),
  "scalerl": lambda objective, rewards, judged, mask: functions.whiten(
    functions.centered(rewards, judged), judged, shift_mean=False
  ),
  # ±1 for right and wrong, with no baseline.
  "signed": lambda objective, rewards, judged, mask: jnp.where(judged, 2 * rewards - 1, 0.0),
  "max_rl": _of_samples(functions.max_rl),
  "opo": lambda objective, rewards, judged, mask: functions.opo(
    rewards, jnp.sum(mask, axis=-1).astype(rewards.dtype), judged
  ),
  "gpg": _of_samples(functions.gpg),
  "reinforce_plus_plus": lambda objective, rewards, judged, mask: functions.reinforce_plus_plus(
    at_the_end(rewards, mask), mask, judged, gamma=objective.gamma
  ),
  "reinforce_plus_plus_baseline": lambda objective, rewards, judged, mask: functions.reinforce_plus_plus_baseline(
    rewards, mask, judged
  ),
  # The critic's values are not there yet: `critic_advantages` takes them once they are.
  "gae": lambda objective, rewards, judged, mask: jnp.zeros_like(rewards),
}
# Those that need no second answer to the same prompt.
ALONE = ("reinforce_plus_plus", "signed", "gae")


def advantages(objective, rewards, judged, mask):
  """Advantages of every token.

  Args:
    objective: static.
    rewards: [P, G] float32.
    judged: [P, G] bool.
    mask: [P, G, T] bool, the tokens that were written.

  Returns:
    [P, G, T] float32; zeros where a critic is still to give them.
  """
  found = ADVANTAGES[objective.advantage](objective, rewards, judged, mask)
  return jnp.broadcast_to(found.reshape(*found.shape[:2], -1), mask.shape)


def counted(objective, rewards, judged):
  """[P, G] bool: the judged samples, less those of prompts that teach nothing where the objective drops them."""
  if objective.zero_variance == "keep":
    return judged
  high = jnp.max(jnp.where(judged, rewards, -jnp.inf), axis=-1, keepdims=True)
  low = jnp.min(jnp.where(judged, rewards, jnp.inf), axis=-1, keepdims=True)
  return judged & (high - low > 1e-6)  # rewards are in [0, 1]; sums of parts may differ by rounding


def critic_advantages(objective, rewards, values, batch: Batch):
  """Generalised advantages from a critic's values, whitened over the batch's tokens.

  Args:
    objective: static.
    rewards: [B] float32, given at the last token of each answer. A cut-off answer ends there too: nothing is bootstrapped.
    values: [B, T] float32, before each token is taken.
    batch: its mask is read.

  Returns:
    (advantages, returns), [B, T] float32 each.
  """
  found, returns = functions.gae(
    at_the_end(rewards, batch.mask), values, batch.mask, gamma=objective.gamma, lam=objective.lam
  )
  return functions.whiten(found, batch.mask), returns


def at_the_end(rewards, mask):
  """[...] rewards on the last token of each answer: [..., T]."""
  last = jnp.cumsum(mask, axis=-1) == jnp.sum(mask, axis=-1, keepdims=True)
  return jnp.where(last & mask, rewards[..., None], 0.0)
