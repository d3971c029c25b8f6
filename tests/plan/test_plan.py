"""Topologies, published sizes, and what is read from a compiled program; plans themselves are compiled in tests/system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxreason.cli.main import main
from jaxreason.model import weights
from jaxreason.plan import chips, compiled, models


@pytest.mark.parametrize(("name", "parameters"), [
  ("Qwen/Qwen3-0.6B", 596_049_920), ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304), ("Qwen/Qwen3-8B", 8_190_735_360),
  ("Qwen/Qwen3-30B-A3B", 30_532_122_624),
])  # fmt: skip
def test_published_models_have_the_parameters_that_their_authors_count(name, parameters):
  assert name in models.known() and weights.count(models.config(name)) == parameters


@pytest.mark.parametrize(("name", "told"), [
  ("v9:2x4", "with a chip of v4, v5e"), ("v5e", "CHIP:GRID"), ("v5e:2by4", "CHIP:GRID"),
  ("h100:8x8", "expected partitions x hosts x GPUs of a host"),
])  # fmt: skip
def test_a_topology_that_is_none_is_told_in_one_line(name, told, capsys):
  assert main(["plan", "--config=pod_qwen3_0_6b", f"--topology={name}"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert told in line


def looped(mesh, trips):
  """A loop in which each device receives 7 parts of a matrix, and a sum after it."""

  def body(total, _):
    return total + jax.lax.all_gather(total[:1], ("slice", "chip")).sum(), None

  def run(x):
    total, _ = jax.lax.scan(body, x, None, length=trips)
    return jax.lax.psum(total, "chip")

  mapped = jax.shard_map(run, mesh=mesh, in_specs=P(("slice", "chip")), out_specs=P("slice"), check_vma=False)
  return jax.jit(mapped).lower(jax.ShapeDtypeStruct((8, 64), jnp.float32)).compile().as_text()


def test_collectives_of_a_loop_count_as_often_as_it_runs_and_where_they_go():
  mesh = jax.make_mesh((2, 4), ("slice", "chip"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  ids = [device.id for device in mesh.devices.flat]
  slice_of = np.repeat([0, 1], 4)[np.argsort(ids)].tolist()
  found = compiled.collectives(looped(mesh, 13), slice_of)
  assert found["all-gather"] == {"count": 13, "inside": 0, "between": 13 * 8 * 64 * 4}
  assert found["all-reduce"] == {"count": 1, "inside": 2 * 64 * 4, "between": 0}


@pytest.mark.parametrize(("groups", "crosses"), [
  ("{{0,1},{2,3}}", False), ("{{0,2},{1,3}}", True), ("[2,2]<=[4]", False), ("[2,2]<=[2,2]T(1,0)", True),
  ("mesh['a'=2,'b'=2] {'b'}", False), ("mesh['a'=2,'b'=2] {'a'}", True), ("mesh['a'=2,'b'=2] {'a','b'}", True),
])  # fmt: skip
def test_a_group_of_devices_in_every_notation(groups, crosses):
  text = f"ENTRY %main (x: f32[4]) -> f32[4] {{\n  %a = f32[4]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add\n}}"
  found = compiled.collectives(text, [0, 0, 1, 1])["all-reduce"]
  assert found == {"count": 1, "inside": 0 if crosses else 32, "between": 32 if crosses else 0}


def test_the_compilers_that_are_missing_are_named_with_their_install_line(monkeypatch, capsys):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'jaxreason\[plan-tpu\]'"):
    chips.environment(chips.parse("v5e:2x4"))
