"""DAPO on the quickstart's problems: clip-higher, the mean over tokens, and dynamic sampling.

Prompts whose answers are all right or all wrong teach nothing and are replaced by further ones until 32 of them differ (Yu et
al. 2025, section 3.2, https://arxiv.org/abs/2503.14476). 256 slots are filled again as answers end. For another task or model,
set `config.data` and `config.model`; the rest is DAPO's.
"""

from quickstart import get_config as quickstart


def get_config():
  config = quickstart()
  config.name = "dapo"
  config.objective = "dapo"
  config.rollout.update(slots=256, oversample=1.5, refill_zero_variance=True, max_waves=10)
  return config
