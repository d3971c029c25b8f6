"""Floor 4: chips that a plan may be for.

What enters: a topology such as `v5e:2x4` or `h100:1x1x8`. What leaves: what one of its chips has, and the environment in which
its compiler runs without it. Imports no jax: the environment has to be there first.

TPUs: J. Austin et al., How to Scale Your Model (2025), chapter "TPUs", https://jax-ml.github.io/scaling-book/tpus. H100 SXM:
NVIDIA H100 datasheet (2023), dense bfloat16; NVLink 450 GB/s and InfiniBand 50 GB/s a GPU, each way.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import NamedTuple

from jaxreason.errors import UserError

GIB = 1 << 30


class Chip(NamedTuple):
  """One device of a topology."""

  platform: str  # "tpu" or "cuda"
  memory: int  # bytes of HBM that programs may use
  flops: float  # a second, bfloat16, dense
  bandwidth: float  # bytes a second of HBM
  link: float  # bytes a second and direction of one axis of the interconnect inside a slice, or NVLink
  network: float  # the same between slices or hosts


CHIPS = {
  "v4": Chip("tpu", 32 * GIB, 2.75e14, 1.2e12, 9.0e10, 6.25e9),
  "v5e": Chip("tpu", int(15.75 * GIB), 1.97e14, 8.1e11, 9.0e10, 3.125e9),
  "v5p": Chip("tpu", int(95.74 * GIB), 4.59e14, 2.8e12, 1.8e11, 6.25e9),
  "v6e": Chip("tpu", int(31.25 * GIB), 9.2e14, 1.6e12, 1.8e11, 1.25e10),
  "h100": Chip("cuda", 84_929_347_584, 9.89e14, 3.35e12, 4.5e11, 5.0e10),
}
_NAME = re.compile(r"([a-z0-9]+):(\d+(?:x\d+){1,2})")
_WHEELS = {"tpu": ("libtpu", "plan-tpu"), "cuda": ("jax_cuda12_plugin", "plan-gpu")}


class Topology(NamedTuple):
  """Chips in a grid: of a TPU slice its sides, of GPUs partitions x hosts x devices of a host."""

  name: str
  chip: Chip
  grid: tuple[int, ...]

  @property
  def compiler_name(self) -> str:
    """As the compiler calls it: TPU grids have three sides."""
    sides = "x".join(map(str, self.grid))
    kind = self.name.partition(":")[0]
    return f"{kind}:{sides}{'x1' * (3 - len(self.grid))}" if self.chip.platform == "tpu" else sides


def parse(name: str) -> Topology:
  """A topology by name.

  Raises:
    UserError: no such chip or grid.

  >>> parse("v5e:2x4").compiler_name, parse("h100:1x1x8").grid
  ('v5e:2x4x1', (1, 1, 8))
  """
  found = _NAME.fullmatch(name)
  if not found or found[1] not in CHIPS:
    raise UserError(
      f"--topology expected CHIP:GRID with a chip of {', '.join(CHIPS)}, such as v5e:2x4, v5p:4x4x4 or h100:1x1x8 "
      f"(partitions x hosts x GPUs of a host), got {name!r}"
    )
  grid = tuple(map(int, found[2].split("x")))
  if CHIPS[found[1]].platform == "cuda" and len(grid) != 3:
    raise UserError(f"--topology of GPUs expected partitions x hosts x GPUs of a host, got {name!r}; say h100:1x1x8")
  return Topology(name, CHIPS[found[1]], grid)


def environment(topology: Topology) -> dict[str, str]:
  """What the compiler of a chip that is not here needs in the environment.

  Raises:
    UserError: the compiler is not installed.
  """
  wheel, extra = _WHEELS[topology.chip.platform]
  if importlib.util.find_spec(wheel) is None:
    raise UserError(f"a plan for {topology.name} expected {wheel}, which is not installed; pip install 'jaxreason[{extra}]'")
  if topology.chip.platform == "tpu":
    alone = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # it would lock itself as if the chips were here
    return {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5e-4"} | alone
  spec = importlib.util.find_spec("nvidia.cuda_nvcc")
  if spec is None or not spec.submodule_search_locations:
    raise UserError(
      f"a plan for {topology.name} expected nvidia-cuda-nvcc-cu12, which is not installed; pip install 'jaxreason[{extra}]'"
    )
  cuda = Path(next(iter(spec.submodule_search_locations)))
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_cuda_data_dir={cuda}".strip()
  path = f"{cuda / 'bin'}{os.pathsep}{os.environ['PATH']}"
  return {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "CUDA_VISIBLE_DEVICES": "-1", "XLA_FLAGS": flags, "PATH": path}


H100_TARGET = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
device_memory_size: 84929347584 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
registers_per_core_limit: 65536 registers_per_block_limit: 65536 } platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 } runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3" """
