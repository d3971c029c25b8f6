"""Floor 0, losses: per-token values to be minimised, as pure functions of arrays.

What enters: log-probabilities and advantages. What leaves: one value a token, [..., T], or one an answer, [...], where the
method is about whole answers; reductions are in `jaxreason.masks`. Every log ratio is clipped to ±20 nats unless
`log_ratio_cap` says otherwise, which keeps values and gradients finite whatever the policies are; log-probabilities
themselves are held to ±1e6 nats, so that an impossible token (-∞) is a very unlikely one, without gradient. What a mask that
is given leaves out is never read; where none is taken, advantages at padding must be finite (those of `advantages` are 0).
"""

from jaxreason.losses.decoupled import decoupled_surrogate, prox_log_linear
from jaxreason.losses.distillation import distill
from jaxreason.losses.divergences import kl_abs, kl_k1, kl_k2, kl_k3
from jaxreason.losses.entropy import (
  clip_cov,
  clip_cov_choice,
  covariance,
  high_entropy_mask,
  kl_cov,
  kl_cov_choice,
  policy_entropy,
)
from jaxreason.losses.policy_gradients import dro, gpg, kimi_quadratic, reinforce, topr
from jaxreason.losses.preferences import bradley_terry, dpo
from jaxreason.losses.sequence import (
  geometric_mean_surrogate,
  gspo_token,
  luspo,
  sequence_ratio,
  sequence_surrogate,
  vespo,
  vespo_weight,
)
from jaxreason.losses.supervised import sft
from jaxreason.losses.surrogates import cispo, clip_fractions, clipped_surrogate, sapo
from jaxreason.losses.trust_regions import dppo_kl, dppo_tv
from jaxreason.losses.values import value_loss

__all__ = [
  "bradley_terry",
  "cispo",
  "clip_cov",
  "clip_cov_choice",
  "clip_fractions",
  "clipped_surrogate",
  "covariance",
  "decoupled_surrogate",
  "distill",
  "dpo",
  "dppo_kl",
  "dppo_tv",
  "dro",
  "geometric_mean_surrogate",
  "gpg",
  "gspo_token",
  "high_entropy_mask",
  "kimi_quadratic",
  "kl_abs",
  "kl_cov",
  "kl_cov_choice",
  "kl_k1",
  "kl_k2",
  "kl_k3",
  "luspo",
  "policy_entropy",
  "prox_log_linear",
  "reinforce",
  "sapo",
  "sequence_ratio",
  "sequence_surrogate",
  "sft",
  "topr",
  "value_loss",
  "vespo",
  "vespo_weight",
]
