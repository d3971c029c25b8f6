"""Laws of the rollout's copy of the weights: the same numbers, in fewer and larger matrices of the compute dtype."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from jaxreason.model import decoder
from jaxreason.rollout.prepare import prepare_rollout_params

CONFIG = dataclasses.replace(tiny.CONFIG, qkv_bias=True, qk_norm=True, tie_embeddings=False)


def test_blocks_are_separate_and_hold_the_same_numbers():
  params = tiny.params(CONFIG)
  made = prepare_rollout_params(params, CONFIG)
  assert isinstance(made.blocks, tuple)
  for index, block in enumerate(made.blocks):
    old = decoder.layer(params.blocks, index)
    G = CONFIG.heads // CONFIG.kv_heads
    for head in range(CONFIG.kv_heads):
      queries = slice(head * G, head * G + G)
      for name, got in (("{}", np.moveaxis(block.query_key_value, 0, -1)), ("{}_bias", block.bias)):
        parts = [getattr(old, name.format(part)) for part in ("query", "key", "value")]
        np.testing.assert_array_equal(got[head], np.concatenate([parts[0][queries], *(p[head][None] for p in parts[1:])]))
    whole = lambda pieces: np.concatenate(pieces, axis=1)
    np.testing.assert_array_equal(whole(block.gate_up), np.stack([old.gate.T, old.up.T], axis=1))
    np.testing.assert_array_equal(whole(block.output), old.output.reshape(CONFIG.embed, -1).T)
    np.testing.assert_array_equal(whole(block.down), old.down.T)


@pytest.mark.parametrize("kernel, pieces", [("einsum", 2), ("pallas_gpu", 1)])
def test_products_are_divided_where_plain_xla_decodes(kernel, pieces):
  config = dataclasses.replace(CONFIG, decode_kernel=kernel)
  block = prepare_rollout_params(tiny.params(CONFIG), config).blocks[0]
  assert [len(matrix) for matrix in (block.output, block.gate_up, block.down)] == 3 * [pieces]


def test_matrices_are_cast_and_norms_and_biases_are_not():
  config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
  made = jax.eval_shape(lambda params: prepare_rollout_params(params, config), tiny.params(CONFIG))
  block = made.blocks[0]
  assert {
    x.dtype.name for x in (made.embedding, made.head, block.query_key_value, *block.gate_up, *block.output, *block.down)
  } == {"bfloat16"}
  assert {x.dtype.name for x in (made.final_norm, block.attention_norm, block.bias, block.key_norm)} == {"float32"}
