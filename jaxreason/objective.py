"""Floor 1: an objective is a choice of surrogate, KL, entropy bonus, advantage and reduction.

What enters: a frozen `Objective` and arrays. What leaves: one loss per token, the reduction's (sum, denominator), and
the per-token diagnostics that are logged. Strings become functions in the tables below and nowhere else.
"""

import dataclasses

import jax.numpy as jnp

from jaxreason import advantages as advantage_functions
from jaxreason import losses, masks
from jaxreason.errors import UserError, nearest
from jaxreason.records import Batch


@dataclasses.dataclass(frozen=True)
class Objective:
  """What the policy is trained to do.

  Attributes:
    surrogate: "clipped" (PPO's, on the behaviour policy's log-probs) or "sft" (negative log-likelihood).
    clip_low: ε_low of the clipped surrogate.
    clip_high: ε_high.
    kl_coef: β of the k3 KL to the reference; 0 needs no reference.
    entropy_coef: weight of the entropy bonus.
    advantage_std: "group", "batch" or "none": what centred rewards are divided by.
    reduction: "token_mean", "sequence_mean" or "constant_norm".
    norm_length: tokens that "constant_norm" divides each sequence's sum by. 0: `build` puts the completion budget here;
      without it the batch's own width counts, which changes from batch to batch.
  """

  surrogate: str = "clipped"
  clip_low: float = 0.2
  clip_high: float = 0.2
  kl_coef: float = 0.0
  entropy_coef: float = 0.0
  advantage_std: str = "group"
  reduction: str = "token_mean"
  norm_length: int = 0

  def __post_init__(self):
    for name, valid in (("surrogate", SURROGATES), ("advantage_std", ADVANTAGE_STD), ("reduction", REDUCTIONS)):
      value = getattr(self, name)
      if value not in valid:
        raise UserError(f"objective.{name} expected one of {', '.join(valid)}, got {value!r}{nearest(value, valid)}")
    if not (0 <= self.clip_low < 1 and self.clip_high >= 0):
      raise UserError(f"objective.clip_low expected in [0, 1) and clip_high >= 0, got {self.clip_low} and {self.clip_high}")
    if self.kl_coef < 0 or self.norm_length < 0:
      raise UserError(f"objective expected kl_coef and norm_length >= 0, got {self.kl_coef} and {self.norm_length}")


def _clipped(objective, logprobs, batch):
  return losses.clipped_surrogate(
    logprobs, batch.behavior_logprobs, batch.advantages, clip_low=objective.clip_low, clip_high=objective.clip_high
  )


SURROGATES = {
  "clipped": _clipped,
  "sft": lambda objective, logprobs, batch: losses.sft(logprobs),
}
ADVANTAGE_STD = {"group": "group", "batch": "batch", "none": None}
REDUCTIONS = {
  "token_mean": lambda objective, values, mask: masks.token_mean(values, mask),
  "sequence_mean": lambda objective, values, mask: masks.sequence_mean(values, mask),
  "constant_norm": lambda objective, values, mask: masks.constant_norm(
    values, mask, length=objective.norm_length or mask.shape[-1]
  ),
}

SFT = Objective(surrogate="sft")


def advantages(objective: Objective, rewards, judged):
  """[P, G] advantages from [P, G] rewards and validity."""
  return advantage_functions.group_relative(rewards, judged, std=ADVANTAGE_STD[objective.advantage_std])


def token_losses(objective: Objective, logprobs, entropy, batch: Batch):
  """[B, T] loss per token, all terms: surrogate + β KL - c entropy."""
  loss = SURROGATES[objective.surrogate](objective, logprobs, batch)
  if objective.kl_coef:
    loss = loss + objective.kl_coef * losses.kl_k3(logprobs, batch.reference_logprobs)
  if objective.entropy_coef:
    loss = loss - objective.entropy_coef * entropy
  return loss


def reduce(objective: Objective, values, mask):
  """(sum, denominator) of [B, T] values; the denominator depends on the mask alone."""
  return REDUCTIONS[objective.reduction](objective, values, mask)


def diagnostics(objective: Objective, logprobs, entropy, batch: Batch) -> dict:
  """Per-token numbers [B, T] whose token means are logged, under the names practitioners know."""
  if objective.surrogate == "sft":
    return {"entropy": entropy, "nll": -logprobs}
  low, high = losses.clip_fractions(
    logprobs, batch.behavior_logprobs, batch.advantages, clip_low=objective.clip_low, clip_high=objective.clip_high
  )
  numbers = {
    "entropy": entropy,
    "clip_ratio/low": low,
    "clip_ratio/high": high,
    "sampling/logprob_difference_mean": jnp.abs(logprobs - batch.behavior_logprobs),
    "sampling/kl_k3": losses.kl_k3(batch.behavior_logprobs, logprobs),
  }
  if objective.kl_coef:
    numbers["kl"] = losses.kl_k3(logprobs, batch.reference_logprobs)
  return numbers
