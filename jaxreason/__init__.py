"""jaxreason: reinforcement learning that teaches language models to reason, in JAX.

Importing this package loads nothing but the standard library. The rooms are submodules and are imported on first use:
`jaxreason.losses`, `jaxreason.advantages`, `jaxreason.corrections`, `jaxreason.shaping`, `jaxreason.masks` and
`jaxreason.logprobs` need jax and chex alone.
"""

import importlib

__version__ = "0.1.0"

_ROOMS = (
  "advantages",
  "corrections",
  "losses",
  "masks",
  "logprobs",
  "model",
  "objective",
  "rewards",
  "rollout",
  "sampling",
  "shaping",
  "sharding",
)


def __getattr__(name: str):
  if name in _ROOMS:
    return importlib.import_module(f"jaxreason.{name}")
  raise AttributeError(f"module 'jaxreason' has no attribute {name!r}")


def __dir__():
  return sorted([*globals(), *_ROOMS])
