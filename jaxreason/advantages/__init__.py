"""Floor 0, advantages: from the rewards of a group of samples to one advantage each, or one for each token."""

from jaxreason.advantages.baselines import gpg, opo, remax
from jaxreason.advantages.critic import gae
from jaxreason.advantages.group import centered, group_relative, leave_one_out, lite_ppo
from jaxreason.advantages.passing import max_rl, pass_at_k
from jaxreason.advantages.statistics import returns_to_go, whiten
from jaxreason.advantages.token_level import optimal_token_baseline
from jaxreason.advantages.whitened import gdpo, reinforce_plus_plus, reinforce_plus_plus_baseline

__all__ = [
  "centered",
  "gae",
  "gdpo",
  "gpg",
  "group_relative",
  "leave_one_out",
  "lite_ppo",
  "max_rl",
  "opo",
  "optimal_token_baseline",
  "pass_at_k",
  "reinforce_plus_plus",
  "reinforce_plus_plus_baseline",
  "remax",
  "returns_to_go",
  "whiten",
]
