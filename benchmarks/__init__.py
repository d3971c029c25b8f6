"""Measurements, printed as ratios from one run. `python -m benchmarks.step` is the first."""
