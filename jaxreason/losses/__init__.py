"""Floor 0, losses: per-token values to be minimised, as pure functions of arrays.

What enters: log-probabilities and advantages. What leaves: one value a token; reductions are in `jaxreason.masks`.
"""

from jaxreason.losses.divergences import kl_k1, kl_k2, kl_k3
from jaxreason.losses.supervised import sft
from jaxreason.losses.surrogates import clip_fractions, clipped_surrogate

__all__ = ["clip_fractions", "clipped_surrogate", "kl_k1", "kl_k2", "kl_k3", "sft"]
