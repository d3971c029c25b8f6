"""A module that takes a second to import, as sympy does on a busy machine."""

import time

time.sleep(1.0)
