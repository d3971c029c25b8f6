"""Every public function of the arithmetic as a case that laws can be tried on: losses, advantages, corrections, masks, shaping.

Arrays are S stacks of P prompts of G samples of T tokens, and a function's unit says how many of the last axes it looks across
(1: a row [T] or one number; 2: rows [B, T]; 3: [P, G, T]).
"""

import dataclasses
import math

import jax
import numpy as np

from jaxreason import advantages, corrections, losses, masks, shaping

S, P, G, T = 2, 3, 4, 6
ROOMS = (losses, advantages, corrections, masks, shaping)


@dataclasses.dataclass(frozen=True)
class Case:
  function: object
  unit: int
  arrays: dict  # argument -> name of its array below
  settings: dict
  free: bool = True  # False: it looks over all axes, so that a stack takes vmap

  def __call__(self, arrays):
    """Of whole arrays."""
    return self.call(arrays) if self.free else self.mapped(arrays)

  def call(self, arrays):
    return self.function(**{argument: arrays[argument] for argument in self.arrays}, **self.settings)

  def mapped(self, arrays):
    """The same by vmap, unit by unit; in the shape of the stack."""
    axes = next(iter(arrays.values())).shape[: 4 - self.unit]
    flat = {argument: array.reshape(math.prod(axes), *array.shape[len(axes) :]) for argument, array in arrays.items()}
    return jax.tree.map(lambda out: out.reshape(*axes, *out.shape[1:]), jax.vmap(self.call)(flat))


def case(function, unit, arrays, free=True, **settings):
  """`arrays`: "argument=array" or "argument" where the array has its name."""
  named = dict(word.split("=") if "=" in word else (word, word) for word in arrays.split())
  return Case(function, unit, named, settings, free)


KEY = jax.random.key(0)
TRIPLE = "logprobs behavior_logprobs advantages"
PAIR = "logprobs sampler_logprobs mask"
KLS = losses.kl_k1, losses.kl_k2, losses.kl_k3, losses.kl_abs
DPO = "chosen_logprobs rejected_logprobs reference_chosen_logprobs reference_rejected_logprobs"

CASES = {
  "clipped": case(losses.clipped_surrogate, 1, TRIPLE),
  "clipped_dual": case(losses.clipped_surrogate, 1, TRIPLE, dual_clip=3.0, max_ratio=4.0),
  "clip_fractions": case(losses.clip_fractions, 1, TRIPLE, clip_low=0.2, clip_high=0.2),
  "cispo": case(losses.cispo, 1, TRIPLE),
  "sapo": case(losses.sapo, 1, TRIPLE),
  "dppo_tv": case(losses.dppo_tv, 1, TRIPLE),
  "dppo_kl": case(losses.dppo_kl, 1, TRIPLE),
  "dro": case(losses.dro, 1, TRIPLE),
  "kimi": case(losses.kimi_quadratic, 1, TRIPLE),
  "reinforce": case(losses.reinforce, 1, "logprobs advantages"),
  "gpg_loss": case(losses.gpg, 1, "logprobs advantages"),
  "sft": case(losses.sft, 1, "logprobs"),
  "topr": case(losses.topr, 1, TRIPLE + " mask"),
  "topr_token": case(losses.topr, 1, TRIPLE + " mask", level="token"),
  "ratio": case(losses.sequence_ratio, 1, "logprobs behavior_logprobs mask"),
  "gspo": case(losses.sequence_surrogate, 1, TRIPLE + " mask"),
  "gspo_answer": case(losses.sequence_surrogate, 1, "logprobs behavior_logprobs advantages=of_answers mask"),
  "gspo_token": case(losses.gspo_token, 1, TRIPLE + " mask"),
  "luspo": case(losses.luspo, 1, TRIPLE + " mask"),
  "gmpo": case(losses.geometric_mean_surrogate, 1, TRIPLE + " mask"),
  "vespo": case(losses.vespo, 1, TRIPLE + " mask"),
  "vespo_weight": case(losses.vespo_weight, 1, TRIPLE + " mask"),
  "clip_cov": case(losses.clip_cov, 1, TRIPLE + " chosen"),
  "kl_cov": case(losses.kl_cov, 1, TRIPLE + " chosen"),
  "covariance": case(losses.covariance, 2, "logprobs advantages mask", free=False),
  "clip_cov_choice": case(losses.clip_cov_choice, 2, TRIPLE + " mask", free=False, key=KEY, fraction=0.3, low=0.0),
  "kl_cov_choice": case(losses.kl_cov_choice, 2, "logprobs advantages mask", free=False, fraction=0.3),
  "high_entropy": case(losses.high_entropy_mask, 2, "entropy mask", free=False, fraction=0.4),
  "entropy": case(losses.policy_entropy, 1, "logits"),
  "decoupled": case(losses.decoupled_surrogate, 1, TRIPLE + " proximal_logprobs"),
  "prox": case(losses.prox_log_linear, 1, "logprobs behavior_logprobs versions", version=5),
  "distill": case(losses.distill, 1, "logprobs teacher_logprobs=reference_logprobs behavior_logprobs"),
  "distill_reverse": case(losses.distill, 1, "logprobs=student teacher_logprobs=teacher", form="reverse"),
  "distill_forward": case(losses.distill, 1, "logprobs=student teacher_logprobs=teacher", form="forward"),
  **{f.__name__: case(f, 1, "logprobs reference_logprobs") for f in KLS},
  **{f"{f.__name__}_unbiased": case(f, 1, "logprobs reference_logprobs behavior_logprobs", unbiased=True) for f in KLS},
  **{f"dpo_{form}": case(losses.dpo, 1, DPO, form=form) for form in ("sigmoid", "hinge", "ipo", "robust", "apo_zero")},
  **{f"dpo_{f}": case(losses.dpo, 1, DPO, divergence=f) for f in ("forward_kl", "js", "alpha")},
  "bradley_terry": case(losses.bradley_terry, 1, "chosen_scores=values rejected_scores=old_values"),
  "value_loss": case(losses.value_loss, 1, "values old_values returns=advantages"),
  "value_huber": case(losses.value_loss, 1, "values old_values returns=advantages", huber_delta=0.5),
  "group": case(advantages.group_relative, 3, "rewards valid"),
  "group_batch": case(advantages.group_relative, 3, "rewards valid", std="batch"),
  "group_loo": case(advantages.group_relative, 3, "rewards valid", leave_one_out=True),
  "centered": case(advantages.centered, 3, "rewards valid"),
  "leave_one_out": case(advantages.leave_one_out, 3, "rewards valid"),
  "lite_ppo": case(advantages.lite_ppo, 3, "rewards valid"),
  "opo": case(advantages.opo, 3, "rewards lengths valid"),
  "gpg": case(advantages.gpg, 3, "rewards valid"),
  "max_rl": case(advantages.max_rl, 3, "rewards valid"),
  "remax": case(advantages.remax, 3, "rewards greedy_rewards valid"),
  "pass_at_n": case(advantages.pass_at_k, 3, "rewards valid", std="group"),
  "pass_at_1": case(advantages.pass_at_k, 3, "rewards valid", k=1, baseline="mean", std="subsets"),
  "gdpo": case(advantages.gdpo, 3, "rewards=several valid=judged"),
  "gae": case(advantages.gae, 1, "token_rewards values mask valid bootstrap_values=of_answers", gamma=0.9),
  "returns": case(advantages.returns_to_go, 1, "token_rewards mask valid", gamma=0.9),
  "whiten": case(advantages.whiten, 2, "values mask"),
  "reinforce_pp": case(advantages.reinforce_plus_plus, 2, "token_rewards mask valid", gamma=0.9),
  "reinforce_pp_baseline": case(advantages.reinforce_plus_plus_baseline, 3, "rewards mask valid"),
  "otb": case(advantages.optimal_token_baseline, 3, "token_rewards logprobs sum_pi_squared mask valid importance_weights",
              align="count"),
  **{f"{f.__name__}_{level}": case(f, 1, PAIR, level=level, lower=0.5)
     for f in (corrections.truncated_importance_weights, corrections.masked_importance_weights)
     for level in ("token", "sequence", "geometric")},
  "truncated_normal": case(corrections.truncated_importance_weights, 2, PAIR, level="sequence", batch_normalize=True),
  "icepop": case(corrections.icepop, 1, PAIR),
  **{f"reject_{k}_{how}": case(corrections.rejection_mask, 1, PAIR, upper=0.1, estimator=k, level=how.split("_")[0],
                               aggregate=how.split("_")[-1])
     for k in ("k1", "k2", "k3") for how in ("token_mean", "sequence_mean", "sequence_sum", "sequence_max")},
  "opsm": case(corrections.opsm, 1, PAIR + " advantages=of_answers", threshold=0.01),
  "m2po": case(corrections.m2po_mask, 2, PAIR),
  "m2po_advantages": case(corrections.m2po_mask, 2, PAIR + " advantages"),
  "ess": case(corrections.effective_sample_size, 2, "weights=importance_weights mask"),
  "diagnostics": case(corrections.diagnostics, 2, PAIR, free=False),
  "masked_mean": case(masks.masked_mean, 2, "values mask", free=False),
  "token_mean": case(masks.token_mean, 2, "values mask", free=False),
  "sequence_mean": case(masks.sequence_mean, 2, "values mask", free=False),
  "sequence_sum": case(masks.sequence_sum, 2, "values mask", free=False),
  "constant_norm": case(masks.constant_norm, 2, "values mask", free=False, length=7.0),
  "prompt_mean": case(masks.prompt_mean, 3, "values mask", free=False),
  "divide": case(masks.divide, 1, "total=rewards denominator=lengths"),
  "overlong_penalty": case(shaping.overlong_penalty, 1, "lengths", max_length=5, cache=2),
  "overlong_filter": case(shaping.overlong_filter, 2, "mask truncated=valid"),
  "length_cosine": case(shaping.length_cosine, 1, "correct=rewards lengths", max_length=5),
  "reward_clip": case(shaping.reward_clip, 1, "rewards", low=-1.0, high=0.7),
  "turn_discount": case(shaping.turn_discount, 1, "rewards=token_rewards valid=mask"),
}  # fmt: skip

EMPTY = 2  # the sample of each group that has no token and no verdict


def example(stack=S, prompts=P, samples=G, tokens=T):
  """Every array by name. Rows have four tokens with holes between them, but for one of each group, which has none."""
  generator = np.random.default_rng(0)
  draw = lambda *shape: generator.normal(size=shape).astype(np.float32)
  token, sample, prompt = (stack, prompts, samples, tokens), (stack, prompts, samples), (stack, prompts)
  mask = np.argsort(generator.random(token), axis=-1) < 4
  valid = np.arange(samples) != EMPTY
  old, student, teacher = -generator.exponential(size=token).astype(np.float32), draw(*token), draw(*token)
  student[..., 1], teacher[..., 2] = -np.inf, -np.inf
  found = {
    "mask": mask & valid[:, None], "valid": np.broadcast_to(valid, sample).copy(),
    "judged": np.broadcast_to(valid[:, None], (*sample, 2)).copy(), "chosen": draw(*token) > 0.5,
    "versions": generator.integers(-1, 5, token, np.int32), "logits": student,
    "student": np.asarray(jax.nn.log_softmax(student)), "teacher": np.asarray(jax.nn.log_softmax(teacher)),
    "rewards": generator.random(sample).astype(np.float32), "several": generator.random((*sample, 2)).astype(np.float32),
    "greedy_rewards": generator.random(prompt).astype(np.float32), "of_answers": draw(*sample),
    "lengths": generator.integers(1, 9, sample).astype(np.float32),
    "sum_pi_squared": generator.random(token).astype(np.float32), "importance_weights": np.exp(draw(*token) / 3),
    **{name: draw(*token) for name in ("advantages", "values", "old_values", "token_rewards")},
    **{name: -3 * generator.random(sample).astype(np.float32) for name in DPO.split()},
    "entropy": generator.random(token).astype(np.float32), "behavior_logprobs": old,
  }  # fmt: skip
  for name in ("logprobs", "sampler_logprobs", "reference_logprobs", "proximal_logprobs"):
    found[name] = np.minimum(old + 0.3 * draw(*token), -1e-3)
  return found
