"""Floor 0, corrections: for samples that another policy made than the one that is trained.

What enters: log-probs of the same tokens under the trainer's policy and the sampler's, and a mask. What leaves: weights,
smaller masks and diagnostics, all without gradient.
"""

from jaxreason.corrections.diagnostics import diagnostics, effective_sample_size
from jaxreason.corrections.rejection import m2po_mask, opsm, rejection_mask
from jaxreason.corrections.weights import icepop, masked_importance_weights, truncated_importance_weights

__all__ = [
  "diagnostics",
  "effective_sample_size",
  "icepop",
  "m2po_mask",
  "masked_importance_weights",
  "opsm",
  "rejection_mask",
  "truncated_importance_weights",
]
