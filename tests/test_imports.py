"""Importing is light: a fresh interpreter loads what the room needs and nothing else."""

import subprocess
import sys

import pytest

HEAVY = {"flax", "optax", "orbax", "transformers", "grain", "tensorstore", "ml_collections", "math_verify", "sympy", "rich"}


def loaded_by(statement: str) -> set[str]:
  """Top-level modules that are loaded after `statement` in a fresh interpreter, and were not before it."""
  program = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  return {name.split(".")[0] for name in done.stdout.split()}


def test_the_package_itself_loads_only_the_standard_library():
  assert loaded_by("import jaxreason; dir(jaxreason)") - set(sys.stdlib_module_names) == {"jaxreason"}


@pytest.mark.parametrize("rooms", ["losses, advantages, corrections, shaping, masks, logprobs, sampling"])
def test_arithmetic_loads_jax_and_chex_alone(rooms):
  loaded = loaded_by(f"from jaxreason import {rooms}")
  assert {"jax", "jaxreason"} <= loaded
  assert loaded & HEAVY == set()


@pytest.mark.parametrize("room", ["losses", "advantages", "corrections"])
def test_a_room_is_reached_through_the_package(room):
  assert loaded_by(f"import jaxreason; jaxreason.{room}.__all__") & HEAVY == set()


@pytest.mark.parametrize("room", ["pool", "worker", "math_verifier"])
def test_rewards_load_no_jax(room):
  loaded = loaded_by(f"import jaxreason.rewards.{room}")
  assert loaded & (HEAVY | {"jax", "jaxlib", "numpy"}) == set()


def test_the_package_knows_no_other_rooms():
  with pytest.raises(subprocess.CalledProcessError) as error:
    loaded_by("import jaxreason; jaxreason.loses")
  assert "has no attribute 'loses'" in error.value.stderr
