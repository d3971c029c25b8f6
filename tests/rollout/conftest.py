"""The many programs of one file are forgotten before the next: a process can hold only so many."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
  yield
  jax.clear_caches()
