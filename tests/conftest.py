"""What every test runs under: eight CPU devices, set before JAX starts, and no silent broadcasting between ranks.

Tests of sharding use all eight; the others put everything on the first one and never notice the rest.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
