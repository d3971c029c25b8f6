"""Which platform a command runs on, and that nobody lands on the CPU unawares."""

import os

import jax
import pytest

from jaxreason.cli import devices
from jaxreason.errors import UserError


def test_a_fall_back_to_the_cpu_is_told_in_one_line_and_a_choice_is_not(monkeypatch):
  told = []
  assert devices.start("cpu", told.append) == jax.devices()
  assert devices.start(None, told.append) and told == [], "JAX_PLATFORMS asked for it"
  monkeypatch.delenv("JAX_PLATFORMS")
  devices.start(None, told.append)
  assert len(told) == 1 and "running on the CPU" in told[0] and "\n" not in told[0]


@pytest.mark.parametrize(("platform", "variable"), [("cpu", "cpu"), ("gpu", "cuda,cpu"), ("tpu", "tpu,cpu"), (None, "kept")])
def test_a_platform_is_handed_to_jax_with_the_host_beside_it(monkeypatch, platform, variable):
  before = jax.config.jax_platforms
  monkeypatch.setenv("JAX_PLATFORMS", "kept")
  try:
    devices.choose(platform)
    assert os.environ["JAX_PLATFORMS"] == variable
  finally:
    jax.config.update("jax_platforms", before)


def test_a_platform_that_is_not_there_is_never_replaced_by_another():
  with pytest.raises(UserError, match="--platform=gpu expected such a device, got cpu only"):
    devices.start("gpu", print)


def test_devices_are_described_in_a_few_words():
  class Device:
    device_kind, platform = "NVIDIA H100 80GB HBM3", "gpu"

  assert devices.described(jax.devices()[:1]) == "1 x cpu"
  assert devices.described([Device(), Device()]) == "2 x NVIDIA H100 80GB HBM3 (gpu)"
