"""Laws of a rollout in eight bits: it draws from a policy that is nearly the trained one, says so, and is nowhere else.

B slots, T tokens, V vocab.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_run

from jaxreason import build, metrics, rollout_plan
from jaxreason.errors import UserError
from jaxreason.model import quantized
from jaxreason.model.weights import FusedBlock
from jaxreason.report.display import display
from jaxreason.train import train

kinds = pytest.mark.parametrize(("kind", "most"), [("int8", 0.012), ("fp8", 0.05)])


@kinds
def test_a_product_is_that_of_the_matrix_within_its_bits(kind, most):
  """A matrix with columns of very different sizes, and rows of which one is all zeros."""
  draw = np.random.default_rng(0).normal
  matrix, x = draw(size=(64, 3, 40)) * np.geomspace(1e-3, 1e3, 40), draw(size=(2, 3, 64))
  x[1, 2] = 0
  got = quantized.product(jnp.asarray(x, jnp.float32), quantized.quantized(jnp.asarray(matrix, jnp.float32), kind))
  exact = np.einsum("bti,ico->btco", x, matrix)
  assert got.dtype == jnp.float32
  assert (got[1, 2] == 0).all()
  size = lambda x: np.sqrt(np.sum(np.square(x), axis=(0, 1, 2)))
  distance = size(got - exact) / size(exact)
  assert 1e-3 < distance.mean() < most


@kinds
def test_the_copy_of_a_rollout_holds_its_matrices_in_eight_bits_and_nothing_else(kind, most):
  programs = rollout_plan.rollout_programs(tiny.CONFIG, kind)
  made, exact = programs.prepare_training(tiny.params()), programs.prepare(tiny.params())
  assert isinstance(made.blocks[0], FusedBlock)
  for block, other in zip(made.blocks, exact.blocks, strict=True):
    kept = {leaf.dtype for leaf in jax.tree.leaves((block.query_key_value, block.output, block.gate_up, block.down))}
    assert kept == {jnp.dtype(quantized.KINDS[kind]), jnp.dtype(jnp.float32)}
    jax.tree.map(np.testing.assert_array_equal, (block.attention_norm, block.bias), (other.attention_norm, other.bias))
  jax.tree.map(np.testing.assert_array_equal, (made.embedding, made.final_norm), (exact.embedding, exact.final_norm))


def test_without_few_bits_there_is_one_copy():
  programs = rollout_plan.rollout_programs(tiny.CONFIG)
  assert programs.prepare_training is programs.prepare


@pytest.mark.system
@pytest.mark.parametrize(("kind", "most"), [("int8", 0.012), ("fp8", 0.05)])
def test_a_run_records_what_its_sampler_drew_from_and_evaluates_the_policy(kind, most, tmp_path):
  """The update finds the sampler some hundredths of a nat away, where without few bits it finds it at rounding's distance."""
  changes = dict(sft__steps=20, train__steps=1, evaluation__every=0)
  rows, before = {}, {}
  for name in ("compute", kind):
    run = build.build(tiny_run.settings(**changes, rollout__matmul=name), devices=jax.devices()[:1])
    with display({}, quiet=True) as show:
      before[name] = train(run, tmp_path / name, show=show)["before"]
    (rows[name],) = (row for row in metrics.read(tmp_path / name) if row["phase"] == "train")
  assert before["compute"] == before[kind]
  far = {name: row["sampling/sampling_logp_difference/mean"] for name, row in rows.items()}
  assert far["compute"] < 1e-5 < 1e-4 < far[kind] < 0.2
  assert rows[kind]["skipped"] == 0


def test_an_unknown_kind_and_a_missing_package_are_told_in_one_line(monkeypatch):
  with pytest.raises(UserError, match=r"rollout.matmul expected compute, int8 or fp8, got 'int4'"):
    tiny_run.settings(rollout__matmul="int4")
  monkeypatch.setitem(sys.modules, "qwix", None)
  chosen = tiny_run.settings(rollout__matmul="int8")
  with pytest.raises(UserError, match=r"expected the package qwix.*pip install qwix"):
    build.read(dataclasses.replace(chosen))
