"""One program on any mesh: from the same seed, three steps from prompts to gradients tell the same on one device, on eight, and
on two processes of four.

The tokens are equal to the last one. They may differ where a draw is at a rounding's distance of a boundary between two tokens;
of this seed none is.
"""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import one_program
import pytest
import tiny

from jaxreason import phases, sharding
from jaxreason.checkpoint import Checkpoints
from jaxreason.data.characters import characters
from jaxreason.data.tasks import running_sums
from jaxreason.model import hf, weights
from jaxreason.model.config import ModelConfig
from jaxreason.progress import saved_tree

CONFIG = ModelConfig(vocab_size=18, embed=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=48, max_positions=64)
MESHES = {
  "8x1": dict(data=8),
  "4x2": dict(data=4, fsdp=2),
  "2x2x2": dict(data=2, fsdp=2, tensor=2),
  "2 slices of 2x1x2": dict(data=1, fsdp=2, tensor=2, dcn=2),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A checkpoint in slices, its vocabulary padded to an even number."""
  directory = tmp_path_factory.mktemp("one_program") / "model"
  tokenizer = characters(running_sums.ALPHABET)
  hf.save(weights.initialize(CONFIG, jax.random.key(1)), CONFIG, directory, tokenizer=tokenizer, max_shard_bytes=20_000)
  return directory


@functools.cache
def alone(source):
  return one_program.told_of(source, data=1)


def check_same(found, expected):
  steps = range(one_program.STEPS)
  assert any(np.any(expected[f"{step} advantages"]) for step in steps)
  for name, value in expected.items():
    if "tokens" in name:
      np.testing.assert_array_equal(found[name], value)
    elif "gradient" in name:
      assert np.linalg.norm(found[name] - value) <= 1e-5 * np.linalg.norm(value), name
    else:
      np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_eight_devices_do_what_one_does(source, sizes):
  check_same(one_program.told_of(source, **sizes), alone(source))


def test_two_processes_do_what_one_does(source, tmp_path):
  """Weights are cut across the processes; each reads its slices of the checkpoint, verifies half the groups and feeds half the
  rows."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
  here, result = Path(__file__).parent, tmp_path / "result.npz"
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
  told = [str(result), str(source), json.dumps(dict(data=1, fsdp=4, tensor=2))]
  both = [
    subprocess.Popen(
      [sys.executable, str(here / "one_program.py"), str(number), "2", port, *told],
      env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    for number in range(2)
  ]  # fmt: skip
  try:
    said = [process.communicate(timeout=240)[0] for process in both]
  finally:
    for process in both:
      process.kill()
  assert [process.returncode for process in both] == [0, 0], "\n".join(said)
  found = np.load(result)
  assert found["devices"] == 8 and found["met"] == "process 1: the disk is full"
  check_same(found, alone(source))
  check_restored(source, Path(f"{result}.checkpoints"), found)


def check_restored(source, directory, found):
  """What two processes saved, each its parts, is read by one on one device: the last gradients, bit for bit."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  like = phases.abstract_state(one_program.settings_of(source), CONFIG, mesh, "train")
  with Checkpoints(directory, read_only=True) as steps:
    step, tree, _ = steps.restore(saved_tree(like))
  assert step == one_program.STEPS
  (gradients,) = (leaf for leaf in jax.tree.leaves(tree["state"].opt_state, is_leaf=tiny.is_params) if tiny.is_params(leaf))
  for name, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    np.testing.assert_array_equal(leaf, found[f"{step - 1} gradient{jax.tree_util.keystr(name)}"])
