"""What every test runs under: eight CPU devices, set before JAX starts, and no silent broadcasting between ranks.

Tests of sharding use all eight; the others put everything on the first one and never notice the rest. Tests compile much
and compute little, so machine code is made in the quickest way; the programs before it are optimised as always.
"""

import importlib.metadata
import os
from pathlib import Path

import pytest

flags = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones have no such switch and refuse to start
  flags.append("--xla_cpu_use_fusion_emitters=false")

ON_GPU = "JAXREASON_TEST_GPU" in os.environ  # make test-gpu

if not ON_GPU:
  os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Many files compile the same tiny programs. One that comes from here is still one that had to be asked for: tests that count
# compilations count it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
if ON_GPU:  # to try each product in many ways takes most of a test's time
  flags = ["--xla_gpu_autotune_level=0"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()


@pytest.fixture(scope="module")
def sandbox():
  """A jail for tests that run programs; where the machine has none they fail, and say why."""
  from jaxreason.rewards.sandbox import Sandbox

  with Sandbox() as one:
    assert one.backend != "none", one.refusal
    yield one
