"""What every test runs under: eight CPU devices, set before JAX starts, and no silent broadcasting between ranks.

Tests of sharding use all eight; the others put everything on the first one and never notice the rest. Tests compile much
and compute little, so machine code is not optimised; the programs before it are.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
