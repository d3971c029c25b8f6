"""The law of the sampler, written out by sorting in float64, and a test of whether draws follow a law.

Nothing here is shared with `jaxreason.sampling` or `jaxreason.truncation` but their definition. V vocab.
"""

import math

import numpy as np


def law(logits, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, banned=()):
  """(policy, sampler's) probabilities of logits [V], float64: banned tokens out, temperature, top-k, top-p, min-p."""
  powers = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
  allowed = powers.copy()
  allowed[[token for token in banned if token >= 0]] = 0
  order = sorted(np.flatnonzero(allowed).tolist(), key=lambda token: -allowed[token])
  if top_k:
    order = order[:top_k]
  enough, kept, reached = top_p * allowed[order].sum(), [], 0.0
  for token in order:
    if reached >= enough and top_p < 1:
      break
    kept.append(token)
    reached += allowed[token]
  kept = [token for token in kept if allowed[token] >= min_p * allowed.max()]
  drawn = np.zeros_like(powers)
  drawn[kept] = powers[kept]
  return powers / powers.sum(), drawn / drawn.sum()


def chance(tokens, probabilities) -> float:
  """How likely draws from `probabilities` [V] are to lie at least as far from them as `tokens` [N] do.

  Pearson's χ² with tokens of fewer than ten expected draws in a cell of their own together; its upper tail by the cube root,
  which is normal to three digits (Wilson and Hilferty 1931). 0 where a token that has no probability was drawn.
  """
  counts = np.bincount(tokens, minlength=len(probabilities))
  expected = probabilities * len(tokens)
  if counts[expected == 0].any():
    return 0.0
  rare = expected < 10
  cells = [(counts[~rare], expected[~rare])]
  if expected[rare].sum() > 0:
    cells.append((counts[rare].sum(keepdims=True), expected[rare].sum(keepdims=True)))
  counts, expected = (np.concatenate(parts) for parts in zip(*cells, strict=True))
  freedom = len(expected) - 1
  statistic = np.sum((counts - expected) ** 2 / expected)
  spread = 2 / (9 * freedom)
  return 0.5 * math.erfc(((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(2 * spread))
