"""Floor 3: the rollout's copy of the weights, made once per policy version by one jitted function.

What enters: the training parameters, layers stacked, float32. What leaves: the same numbers as a tuple of blocks (slicing
stacked weights inside the decode loop costs 1.6-2.5x), in the compute dtype, query/key/value and gate/up fused.
N heads, K kv heads, H head dim, F mlp, D embed.
"""

import jax.numpy as jnp

from jaxreason.model import decoder
from jaxreason.model.config import ModelConfig
from jaxreason.model.weights import Block, Params
from jaxreason.sharding import shard


def prepare_rollout_params(params: Params, config: ModelConfig) -> Params:
  """Params with `blocks` a tuple of L fused `Block`s, matrices in the compute dtype, norms and biases as they were.

  Matrices are cut over the mesh as activations are, D whole: what training shards over D is gathered once for a policy version,
  not at every chunk.
  """
  dtype = jnp.dtype(config.compute_dtype)
  cast = lambda matrix: matrix.astype(dtype)
  blocks = tuple(_fuse(decoder.layer(params.blocks, index), cast) for index in range(config.layers))
  rows = lambda matrix: shard(cast(matrix), ("vocab", "embed"))
  return params.replace(
    embedding=rows(params.embedding), blocks=blocks, head=None if params.head is None else rows(params.head)
  )


def _fuse(block: Block, cast) -> Block:
  return block.replace(
    query=None,
    key=None,
    value=None,
    gate=None,
    up=None,
    query_key_value=shard(cast(jnp.concatenate([block.query, block.key, block.value])), ("heads", None, "embed")),
    gate_up=shard(cast(jnp.stack([block.gate, block.up], axis=1)), ("mlp", None, "embed")),
    output=shard(cast(block.output), ("embed", "heads", None)),
    down=shard(cast(block.down), ("embed", "mlp")),
  )
