"""What someone does who has jax, chex and this package, and nothing else: imports each arithmetic room and uses it once.

Run by `test_fresh_environment` under another interpreter; it says "fine" at its end.
"""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxreason
from jaxreason import advantages, corrections, logprobs, losses, masks, sampling, shaping

ABSENT = ("flax", "optax", "orbax", "transformers", "grain", "tensorstore", "ml_collections", "math_verify", "rich", "gguf")


def train_step(hidden, unembed, tokens, behavior, mask, rewards, lengths):
  """A policy loss from hidden states on, by way of every room but sampling."""
  shaped = rewards + shaping.overlong_penalty(lengths, max_length=8, cache=4)
  advantage = advantages.group_relative(shaped.reshape(2, 2)).reshape(-1)
  new, entropy = logprobs.from_hidden(hidden, unembed, tokens)
  weights = corrections.truncated_importance_weights(new, behavior, mask)
  loss = weights * losses.clipped_surrogate(new, behavior, jnp.broadcast_to(advantage[:, None], new.shape))
  loss = loss + 0.1 * losses.kl_k3(new, behavior) - 0.01 * entropy
  return masks.divide(*masks.token_mean(loss, mask))


def main():
  assert jaxreason.__file__.startswith(sys.prefix), f"expected the installed package, got {jaxreason.__file__}"
  present = [name for name in ABSENT if importlib.util.find_spec(name)]
  assert present == [], f"expected an environment without these, got {present}"
  keys = jax.random.split(jax.random.key(0), 4)
  hidden, unembed = jax.random.normal(keys[0], (4, 5, 8)), jax.random.normal(keys[1], (11, 8))
  tokens = jax.random.randint(keys[2], (4, 5), 0, 11)
  mask = jnp.arange(5)[None] < jnp.asarray([5, 3, 1, 0])[:, None]
  behavior = -jnp.ones((4, 5))
  arrays = hidden, unembed, tokens, behavior, mask, jnp.asarray([1.0, 0.0, 0.0, 1.0]), jnp.asarray([5, 3, 1, 0])
  value, gradient = jax.jit(jax.value_and_grad(train_step))(*arrays)
  assert np.isfinite(value) and value != 0
  assert np.isfinite(gradient).all() and np.asarray(gradient).any()
  assert sampling.__doc__ and sorted(jaxreason.losses.__all__) == jaxreason.losses.__all__
  print("fine")


if __name__ == "__main__":
  main()
