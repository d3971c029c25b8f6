"""Floor 1: an objective is a choice of surrogate, KL, entropy bonus, advantage and reduction.

What enters: a frozen `Objective` and arrays. What leaves: one loss per token, the reduction's (sum, denominator), and
the per-token diagnostics that are logged. Strings become functions in the tables below and nowhere else; `recipes` has the
published settings by name.

A surrogate that is about whole answers gives one loss an answer; it is spread over the answer's tokens, and the reduction that
its paper takes over answers is then "sequence_mean".
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
    surrogate: one of `SURROGATES`.
    clip_low: ε_low of its trust region, in the units of its paper: of the ratio (clipped, gspo, gspo_token, luspo), of the log
      ratio in nats (gmpo), of the divergence (dppo_tv, dppo_kl). Not read by cispo, sapo, vespo, reinforce, gpg, topr, dro and
      kimi_quadratic.
    clip_high: ε_high.
    dual_clip: of clipped, bound on -L / Â where Â < 0; 0 for none.
    max_ratio: cap of the ratio: of cispo and dppo, and of clipped in its two-sided form; 0 for none.
    kl_coef: β of the KL to the reference; 0 needs no reference.
    kl: its estimator, one of `KLS`.
    entropy_coef: weight of the entropy bonus.
    advantage: one of `ADVANTAGES`.
    advantage_std: of advantage "group_relative": "group", "batch" or "none", what centred rewards are divided by.
    reduction: one of `REDUCTIONS`.
    norm_length: tokens that "constant_norm" divides each sequence's sum by. 0: `build` puts the completion budget here;
      without it the batch's own width counts, which changes from batch to batch.
  """

  surrogate: str = "clipped"
  clip_low: float = 0.2
  clip_high: float = 0.2
  dual_clip: float = 0.0
  max_ratio: float = 0.0
  kl_coef: float = 0.0
  kl: str = "k3"
  entropy_coef: float = 0.0
  advantage: str = "group_relative"
  advantage_std: str = "group"
  reduction: str = "token_mean"
  norm_length: int = 0

  def __post_init__(self):
    for name, valid in (
      ("surrogate", SURROGATES), ("kl", KLS), ("advantage", ADVANTAGES), ("advantage_std", ADVANTAGE_STD),
      ("reduction", REDUCTIONS),
    ):  # fmt: skip
      value = getattr(self, name)
      if value not in valid:
        raise UserError(f"objective.{name} expected one of {', '.join(valid)}, got {value!r}{nearest(value, valid)}")
    if not (0 <= self.clip_low < 1 and self.clip_high >= 0):
      raise UserError(f"objective.clip_low expected in [0, 1) and clip_high >= 0, got {self.clip_low} and {self.clip_high}")
    for name in ("kl_coef", "norm_length", "max_ratio"):
      if getattr(self, name) < 0:
        raise UserError(f"objective.{name} expected >= 0, got {getattr(self, name)}")
    if self.dual_clip and not self.dual_clip > 1:
      raise UserError(f"objective.dual_clip expected above 1, or 0 for none, got {self.dual_clip}")
    if self.surrogate in ("cispo", "dppo_tv", "dppo_kl") and not self.max_ratio:
      raise UserError(f"objective.max_ratio expected above 0 for surrogate {self.surrogate}, got 0; 5 for cispo, 20 for dppo")


def _bounds(objective) -> dict:
  return dict(clip_low=objective.clip_low, clip_high=objective.clip_high)


def _thresholds(objective) -> dict:
  return dict(threshold_low=objective.clip_low, threshold_high=objective.clip_high, max_ratio=objective.max_ratio)


def _clipped(objective, logprobs, batch):
  return losses.clipped_surrogate(
    logprobs, batch.behavior_logprobs, batch.advantages, **_bounds(objective),
    dual_clip=objective.dual_clip or None, max_ratio=objective.max_ratio or None,
  )  # fmt: skip


def _tokens(function, options=lambda objective: {}):
  """A surrogate of (logprobs, behaviour, advantages) with options made from the objective."""
  return lambda objective, logprobs, batch: function(
    logprobs, batch.behavior_logprobs, batch.advantages, **options(objective)
  )


def _gradient(function):
  return lambda objective, logprobs, batch: function(logprobs, batch.advantages)


def _answers(function, bounds=_bounds):
  """A surrogate that needs the answer's mask; one value an answer is spread over its tokens."""

  def surrogate(objective, logprobs, batch):
    loss = function(logprobs, batch.behavior_logprobs, batch.advantages, batch.mask, **bounds(objective))
    return loss if loss.ndim == logprobs.ndim else jnp.broadcast_to(loss[..., None], logprobs.shape)

  return surrogate


SURROGATES = {
  "clipped": _clipped,
  "cispo": _tokens(losses.cispo, lambda objective: dict(max_ratio=objective.max_ratio)),
  "sapo": _tokens(losses.sapo),
  "gspo": _answers(losses.sequence_surrogate),
  "gspo_token": _answers(losses.gspo_token),
  "luspo": _answers(losses.luspo),
  "gmpo": _answers(losses.geometric_mean_surrogate),
  "vespo": _answers(losses.vespo, bounds=lambda objective: {}),
  "topr": _answers(losses.topr, bounds=lambda objective: {}),
  "dppo_tv": _tokens(losses.dppo_tv, _thresholds),
  "dppo_kl": _tokens(losses.dppo_kl, _thresholds),
  "reinforce": _gradient(losses.reinforce),
  "gpg": _gradient(losses.gpg),
  "dro": _tokens(losses.dro),
  "kimi_quadratic": _tokens(losses.kimi_quadratic),
  "sft": lambda objective, logprobs, batch: losses.sft(logprobs),
}
KLS = {"k1": losses.kl_k1, "k2": losses.kl_k2, "k3": losses.kl_k3, "abs": losses.kl_abs}
ADVANTAGE_STD = {"group": "group", "batch": "batch", "none": None}
# (objective, rewards [P, G], judged [P, G], mask [P, G, T]) -> [P, G] or [P, G, T].
ADVANTAGES = {
  "group_relative": lambda objective, rewards, judged, mask: advantage_functions.group_relative(
    rewards, judged, std=ADVANTAGE_STD[objective.advantage_std]
  ),
  "leave_one_out": lambda objective, rewards, judged, mask: advantage_functions.leave_one_out(rewards, judged),
  "lite_ppo": lambda objective, rewards, judged, mask: advantage_functions.lite_ppo(rewards, judged),
  "max_rl": lambda objective, rewards, judged, mask: advantage_functions.max_rl(rewards, judged),
  "opo": lambda objective, rewards, judged, mask: advantage_functions.opo(
    rewards, jnp.sum(mask, axis=-1).astype(rewards.dtype), judged
  ),
  "gpg": lambda objective, rewards, judged, mask: advantage_functions.gpg(rewards, judged),
  "reinforce_plus_plus": lambda objective, rewards, judged, mask: advantage_functions.reinforce_plus_plus(
    _at_the_end(rewards, mask), mask, judged
  ),
  "reinforce_plus_plus_baseline": lambda objective, rewards, judged, mask: (
    advantage_functions.reinforce_plus_plus_baseline(rewards, mask, judged)
  ),
}
REDUCTIONS = {
  "token_mean": lambda objective, values, mask: masks.token_mean(values, mask),
  "sequence_mean": lambda objective, values, mask: masks.sequence_mean(values, mask),
  "sequence_sum": lambda objective, values, mask: masks.sequence_sum(values, mask),
  "constant_norm": lambda objective, values, mask: masks.constant_norm(
    values, mask, length=objective.norm_length or mask.shape[-1]
  ),
}

SFT = Objective(surrogate="sft")
# Whose gradient the clip of `losses.clip_fractions` silences.
CLIPPED = ("clipped",)


def _at_the_end(rewards, mask):
  """[P, G] rewards on the last token of each answer: [P, G, T]."""
  last = jnp.cumsum(mask, axis=-1) == jnp.sum(mask, axis=-1, keepdims=True)
  return jnp.where(last & mask, rewards[..., None], 0.0)


def advantages(objective: Objective, rewards, judged, mask):
  """Advantages of every token.

  Args:
    objective: static.
    rewards: [P, G] float32.
    judged: [P, G] bool.
    mask: [P, G, T] bool, the tokens that were written.

  Returns:
    [P, G, T] float32.
  """
  found = ADVANTAGES[objective.advantage](objective, rewards, judged, mask)
  return jnp.broadcast_to(found.reshape(*found.shape[:2], -1), mask.shape)


def token_losses(objective: Objective, logprobs, entropy, batch: Batch):
  """[B, T] loss per token, all terms: surrogate + β KL - c entropy."""
  loss = SURROGATES[objective.surrogate](objective, logprobs, batch)
  if objective.kl_coef:
    loss = loss + objective.kl_coef * KLS[objective.kl](logprobs, batch.reference_logprobs)
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
  numbers = {
    "entropy": entropy,
    "sampling/logprob_difference_mean": jnp.abs(logprobs - batch.behavior_logprobs),
    "sampling/kl_k3": losses.kl_k3(batch.behavior_logprobs, logprobs),
  }
  if objective.surrogate in CLIPPED:
    low, high = losses.clip_fractions(logprobs, batch.behavior_logprobs, batch.advantages, **_bounds(objective))
    numbers |= {"clip_ratio/low": low, "clip_ratio/high": high}
  if objective.kl_coef:
    numbers["kl"] = losses.kl_k3(logprobs, batch.reference_logprobs)
  return numbers
