"""Floor 3: the rollout's copy of the weights, made once per policy version by one jitted function.

What enters: the training parameters, layers stacked, float32. What leaves: the same numbers as a tuple of blocks (slicing
stacked weights inside the decode loop costs 1.6-2.5x), in the compute dtype, query/key/value and gate/up fused, [in, out].
Adapters are merged into their matrices here, so that decoding knows nothing of them.
"""

import jax
import jax.numpy as jnp

from jaxreason.errors import UserError
from jaxreason.model import decoder, lora, quantized
from jaxreason.model.calls import AnyModel
from jaxreason.model.own import OwnModel
from jaxreason.model.weights import Block, FusedBlock, Params
from jaxreason.sharding import shard


def prepare_rollout_params(params, config: AnyModel, matmul: str = "compute") -> Params:
  """Params with `blocks` a tuple of L `FusedBlock`s, matrices in the compute dtype, the output matrix in the head's, norms
  and biases as they were.

  Matrices are cut over the mesh as activations are, D whole: what training shards over D is gathered once for a policy version,
  not at every chunk. With `matmul` "int8" or "fp8" the blocks' matrices are `model.quantized`. Those of an `OwnModel`
  stay as they are.
  """
  if isinstance(config, OwnModel):
    if matmul != "compute":
      raise UserError(f"an OwnModel expected matmul=compute, got {matmul}: its products are its own")
    return params
  dtype = jnp.dtype(config.compute_dtype)
  cast = lambda matrix: matrix.astype(dtype)
  # XLA on CPU divides a product of few rows over threads at a loss, and runs two beside each other at none.
  pieces = 2 if config.decode_kernel == "einsum" else 1
  layers = (lora.merged(decoder.layer(params.blocks, index)) for index in range(config.layers))
  blocks = tuple(_fuse(layer, cast, config.kv_heads, pieces) for layer in layers)
  if matmul != "compute":
    blocks = tuple(_of_few_bits(block, matmul) for block in blocks)
  rows = lambda matrix, dtype: shard(matrix.astype(dtype), ("vocab", "embed"))
  tied = params.head is None
  embedding = rows(params.embedding, config.output_dtype if tied else dtype)
  return params.replace(embedding=embedding, blocks=blocks, head=None if tied else rows(params.head, config.output_dtype))


def _of_few_bits(block: FusedBlock, kind: str) -> FusedBlock:
  matrices = {name: getattr(block, name) for name in ("query_key_value", "output", "gate_up", "down")}
  return block.replace(**jax.tree.map(lambda matrix: quantized.quantized(matrix, kind), matrices))


def _fuse(block: Block, cast, kv_heads: int, pieces: int) -> FusedBlock:
  by_kv_head = lambda rows: rows.reshape(kv_heads, -1, *rows.shape[1:])
  together = lambda *parts: jnp.concatenate([by_kv_head(part) for part in parts], axis=1)
  query_key_value = jnp.moveaxis(cast(together(block.query, block.key, block.value)), -1, 0)
  output = cast(block.output).reshape(block.output.shape[0], -1).T
  cut = lambda matrix, axes: tuple(shard(piece, axes) for piece in jnp.array_split(matrix, pieces, axis=1))
  return FusedBlock(
    attention_norm=block.attention_norm,
    query_key_value=shard(query_key_value, ("embed", "kv_heads", None, None)),
    output=cut(output, ("heads", "embed")),
    mlp_norm=block.mlp_norm,
    **(_dense if block.router is None else _experts)(block, cast, cut),
    bias=None if block.query_bias is None else together(block.query_bias, block.key_bias, block.value_bias),
    query_norm=block.query_norm,
    key_norm=block.key_norm,
    attention_post_norm=block.attention_post_norm,
    mlp_post_norm=block.mlp_post_norm,
    router=block.router,
  )


def _dense(block: Block, cast, cut) -> dict:
  gate_up = jnp.stack([cast(block.gate).T, cast(block.up).T], axis=1)
  return {"gate_up": cut(gate_up, ("embed", None, "mlp")), "down": cut(cast(block.down).T, ("mlp", "embed"))}


def _experts(block: Block, cast, _) -> dict:
  inward = lambda matrix: jnp.swapaxes(cast(matrix), 1, 2)
  # Apart, for a TPU's grouped product takes whole arrays: of both in one it would make a copy.
  return {
    "gate_up": tuple(shard(inward(matrix), ("expert", "embed", "mlp")) for matrix in (block.gate, block.up)),
    "down": (shard(inward(block.down), ("expert", "mlp", "embed")),),
  }
