"""Floor 2: the one table of weights.

What enters: a `ModelConfig`. What leaves: a tree of `Weight(shape, axes, init, name)` in the very structure that the
parameters have, from which initialisation, abstract shapes, shardings, roles in the optimizer, the parameter count and the
Hugging Face names are all read with `jax.tree.map`.

Matrices are [out, in], as checkpoints store them; heads are an axis of their own. L layers, D embed, N heads, K kv heads,
H head dim, F mlp (of an expert, where there are E of them), V vocab.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxreason.model import frozen, lora
from jaxreason.model.config import ModelConfig
from jaxreason.records import joined
from jaxreason.sharding import RULES, shard, sharding

ADAPTERS = 2**20  # of the key that adapters are drawn from, beyond any parameter's place


@struct.dataclass
class Block:
  """One transformer block, or L of them stacked on a leading axis. Absent parts are None."""

  attention_norm: Any  # [D], before attention
  query: Any  # [N, H, D]
  key: Any  # [K, H, D]
  value: Any  # [K, H, D]
  output: Any  # [D, N, H]
  mlp_norm: Any  # [D], before the MLP
  gate: Any  # [F, D], or [E, F, D] of experts
  up: Any  # the same
  down: Any  # [D, F], or [E, D, F]
  query_bias: Any = None  # [N, H]
  key_bias: Any = None  # [K, H]
  value_bias: Any = None  # [K, H]
  query_norm: Any = None  # [H], or [N, H] over all heads
  key_norm: Any = None  # [H], or [K, H] over all heads
  attention_post_norm: Any = None  # [D], of what attention adds
  mlp_post_norm: Any = None  # [D], of what the MLP adds
  router: Any = None  # [E, D], of experts


@struct.dataclass
class FusedBlock:
  """One block of the rollout's copy: fewer and larger products, and matrices [in, out], which products of few rows read
  fastest. What the mesh cuts over heads or F is an axis of its own, so that no part of a result has to move. A matrix in pieces
  is cut along its second axis."""

  attention_norm: Any  # [D]
  query_key_value: Any  # [D, K, N/K + 2, H]: the queries of each kv head, its key, its value
  output: tuple  # pieces of [N·H, D]
  mlp_norm: Any  # [D]
  gate_up: tuple  # pieces of [D, 2, F]; of experts two, gate and up, [E, D, F]
  down: tuple  # pieces of [F, D]; of experts one, [E, F, D]
  bias: Any = None  # [K, N/K + 2, H]
  query_norm: Any = None  # [H], or [N, H] over all heads
  key_norm: Any = None  # [H], or [K, H] over all heads
  attention_post_norm: Any = None  # [D]
  mlp_post_norm: Any = None  # [D]
  router: Any = None  # [E, D], of experts


@struct.dataclass
class Params:
  """All parameters. `blocks` is one `Block` whose leaves are stacked [L, ...]; leaves are bare arrays."""

  embedding: Any  # [V, D]
  blocks: Block | tuple[FusedBlock, ...]
  final_norm: Any  # [D]
  head: Any = None  # [V, D], None when the embedding is tied


@dataclasses.dataclass(frozen=True)
class Weight:
  """One row of the table.

  Attributes:
    shape: of the parameter as we hold it, layers stacked first.
    axes: logical axis name of each dimension.
    init: standard deviation of the normal it is drawn from; 0.0 is zeros, None is ones. A norm has the one with which it
      scales by 1.
    name: its Hugging Face name; "{layer}" stands for the layer's number, "{expert}" for an expert's, and the file holds it with
      heads flattened.
    dtype: of one that is always held so; None is that of all parameters.
  """

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]
  init: float | None
  name: str
  dtype: str | None = None


@dataclasses.dataclass(frozen=True)
class Role:
  """What an optimizer has to know of a parameter.

  Attributes:
    name: its field in `Params` or `Block`; of an adapter that in `lora.Adapted`.
    decays: whether weight decay applies, that is to matrices, not to norms and biases.
    inputs: the axes that a block's matrix sums over; () of all that is no block's matrix: embedding, head, norms, biases.
    outputs: the other axes of that matrix. The layers' and the experts' axes are neither.
  """

  name: str
  decays: bool
  inputs: tuple[int, ...] = ()
  outputs: tuple[int, ...] = ()


# Of `config.norms`: what Hugging Face calls a block's norms before and after attention, before and after the MLP.
NORMS = {
  "pre": ("input_layernorm", None, "post_attention_layernorm", None),
  "post": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
  "both": ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
}


def weights(config: ModelConfig) -> Params:
  """The table: a `Params` whose leaves are `Weight`s.

  Projections start at 1/sqrt(fan-in), those that write to the residual stream a further 1/sqrt(2 L) smaller
  (Radford et al. 2019, section 2.3), and the embedding at 1/sqrt(D), so that a tied head starts with logits of order one.
  """
  L, D, N, K, H, V = config.layers, config.embed, config.heads, config.kv_heads, config.head_dim, config.vocab_size
  residual = 1 / math.sqrt(2 * L)
  layer = "model.layers.{layer}."
  attention = layer + "self_attn."

  def row(shape, axes, init, name):
    return Weight((L, *shape), ("layers", *axes), init, name)

  def bias(heads, axis, name):
    return row((heads, H), (axis, "head_dim"), 0.0, attention + name) if config.qkv_bias else None

  scale = 0.0 if config.norm_offset else None

  def head_norm(heads, axis, name):
    if not config.qk_norm:
      return None
    whole = config.qk_norm_heads
    return row((heads, H) if whole else (H,), (axis, "head_dim") if whole else ("head_dim",), scale, attention + name)

  def norm(name):
    return row((D,), (None,), scale, layer + name + ".weight") if name else None

  attention_norm, attention_post_norm, mlp_norm, mlp_post_norm = map(norm, NORMS[config.norms])
  blocks = Block(
    attention_norm=attention_norm,
    query=row((N, H, D), ("heads", "head_dim", "embed"), D**-0.5, attention + "q_proj.weight"),
    key=row((K, H, D), ("kv_heads", "head_dim", "embed"), D**-0.5, attention + "k_proj.weight"),
    value=row((K, H, D), ("kv_heads", "head_dim", "embed"), D**-0.5, attention + "v_proj.weight"),
    output=row((D, N, H), ("embed", "heads", "head_dim"), (N * H) ** -0.5 * residual, attention + "o_proj.weight"),
    mlp_norm=mlp_norm,
    **_mlp(config, row, layer + "mlp.", residual),
    query_bias=bias(N, "heads", "q_proj.bias"),
    key_bias=bias(K, "kv_heads", "k_proj.bias"),
    value_bias=bias(K, "kv_heads", "v_proj.bias"),
    query_norm=head_norm(N, "heads", "q_norm.weight"),
    key_norm=head_norm(K, "kv_heads", "k_norm.weight"),
    attention_post_norm=attention_post_norm,
    mlp_post_norm=mlp_post_norm,
  )
  table = Params(
    embedding=Weight((V, D), ("vocab", "embed"), D**-0.5, "model.embed_tokens.weight"),
    blocks=blocks,
    final_norm=Weight((D,), (None,), scale, "model.norm.weight"),
    head=None if config.tie_embeddings else Weight((V, D), ("vocab", "embed"), D**-0.5, "lm_head.weight"),
  )
  return lora.adapted(table, config.lora) if config.lora.rank else table


def _mlp(config: ModelConfig, row, name: str, residual: float) -> dict:
  """Rows of an MLP, or of a mixture's router and experts."""
  D, E, F = config.embed, config.experts, config.expert_mlp or config.mlp

  def inner(shape, axes, init, which):
    if not E:
      return row(shape, axes, init, name + which)
    return row((E, *shape), ("expert", *axes), init, name + "experts.{expert}." + which)

  return {
    "gate": inner((F, D), ("mlp", "embed"), D**-0.5, "gate_proj.weight"),
    "up": inner((F, D), ("mlp", "embed"), D**-0.5, "up_proj.weight"),
    "down": inner((D, F), ("embed", "mlp"), F**-0.5 * residual, "down_proj.weight"),
    "router": row((E, D), (None, "embed"), D**-0.5, name + "gate.weight") if E else None,
  }


def _is_weight(leaf) -> bool:
  return isinstance(leaf, Weight)


def dense(config: ModelConfig) -> ModelConfig:
  """The same model without adapters, all of it trained."""
  return dataclasses.replace(config, lora=lora.Lora())


def parts(tree, config: ModelConfig) -> tuple:
  """(what is trained, the base that is not): two trees with None for what is the other's; without adapters (tree, None)."""
  return (lora.trained(tree), lora.base(tree)) if config.lora.rank else (tree, None)


def initialize(config: ModelConfig, key: jax.Array, dtype=jnp.float32) -> Params:
  """Random parameters: each leaf drawn from a key of its own, numbered by its place in the table."""
  if config.lora.rank:
    return joined(initial_adapters(config, key, dtype), in_base_form(initialize(dense(config), key, dtype), config))
  return draw(weights(config), key, dtype)


def initial_adapters(config: ModelConfig, key: jax.Array, dtype=jnp.float32) -> Params:
  """Fresh adapters, with which the model is its base: what is trained, with None for the base."""
  return draw(lora.trained(weights(config)), jax.random.fold_in(key, ADAPTERS), dtype)


def draw(table, key: jax.Array, dtype=jnp.float32):
  """`initialize` of a table, or of a part of one."""
  table, treedef = jax.tree.flatten(table, is_leaf=_is_weight)

  def one(index, weight):
    if weight.init is None:
      return jnp.ones(weight.shape, dtype)
    if weight.init == 0.0:
      return jnp.zeros(weight.shape, dtype)
    return (weight.init * jax.random.normal(jax.random.fold_in(key, index), weight.shape)).astype(dtype)

  return treedef.unflatten([one(index, weight) for index, weight in enumerate(table)])


def in_base_form(params: Params, config: ModelConfig) -> Params:
  """Dense parameters as the base of a configuration with adapters, `parts(...)[1]`: matrices in its form."""
  table = lora.base(weights(config))
  form = lambda row, x: row.replace(base=based(row.base, x)) if lora.is_adapted(row) else based(row, x)
  return jax.tree.map(form, table, params, is_leaf=lambda node: _is_weight(node) or lora.is_special(node))


def based(row, matrix):
  """A dense parameter in the form that the table has for it; one that has it already as it is."""
  if not frozen.is_int8(row) or frozen.is_int8(matrix):
    return matrix
  return _quantize(matrix, len(row.values.shape) - len(row.scales.shape))


_quantize = jax.jit(frozen.quantize, static_argnums=1)


def forms(config: ModelConfig) -> Callable[[Weight, jax.Array], Any]:
  """(row, parameter) -> the parameter in the base's form, for a reader that has one of them at a time."""
  rows = jax.tree.leaves(lora.base(weights(config)), is_leaf=lambda row: _is_weight(row) or frozen.is_int8(row))
  held = {row.values.name: row for row in rows if frozen.is_int8(row)}
  return lambda weight, x: based(held.get(weight.name), x)


def abstract(config: ModelConfig, dtype=jnp.float32, mesh=None) -> Params:
  """The parameters as `jax.ShapeDtypeStruct`s, with shardings when a mesh is given."""

  def leaf(weight):
    return jax.ShapeDtypeStruct(weight.shape, weight.dtype or dtype, sharding=mesh and sharding(mesh, weight.axes))

  return jax.tree.map(leaf, weights(config), is_leaf=_is_weight)


def shardings(config: ModelConfig, mesh, rules: dict = RULES) -> Params:
  """A tree of `NamedSharding`s in the structure of the parameters."""
  return jax.tree.map(lambda weight: sharding(mesh, weight.axes, rules), weights(config), is_leaf=_is_weight)


def computing(params: Params, config: ModelConfig) -> Params:
  """The parameters with the blocks' matrices in the compute dtype, to be made once a step: the decoder would make them in each
  layer of each micro-batch. Norms, biases, embedding and head stay as they are."""

  def cast(weight, x):
    held = x is None or frozen.is_int8(x)  # of a part of the parameters, or exact in any dtype
    return x if held or not (weight.init and weight.axes[0] == "layers") else x.astype(config.compute_dtype)

  return jax.tree.map(cast, weights(config), params, is_leaf=lambda row: _is_weight(row) or frozen.is_int8(row))


def constrained(tree: Params, config: ModelConfig) -> Params:
  """A tree in the structure of what is trained, a gradient say, each leaf in its parameter's sharding; see `sharding.shard`."""
  table, _ = parts(weights(config), config)
  return jax.tree.map(lambda weight, x: shard(x, weight.axes, RULES), table, tree, is_leaf=_is_weight)


def roles(config: ModelConfig) -> Params:
  """A tree of `Role`s in the structure of what is trained."""

  def role(path, weight):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    if name in lora.FACTORS:
      split = 2 if name == lora.FACTORS[0] else len(weight.axes) - 1
      return Role(name, True, tuple(range(split, len(weight.axes))), tuple(range(1, split)))
    if weight.axes[0] != "layers" or "embed" not in weight.axes:
      return Role(name, bool(weight.init))
    # [L, out, in] or [L, E, out, in], and one of the two is D.
    embed, first = weight.axes.index("embed"), 2 if "expert" in weight.axes else 1
    others = tuple(axis for axis in range(first, len(weight.axes)) if axis != embed)
    return Role(name, bool(weight.init), *(((embed,), others) if embed > first else (others, (embed,))))

  return jax.tree_util.tree_map_with_path(role, parts(weights(config), config)[0], is_leaf=_is_weight)


def count(config: ModelConfig, trained: bool = False) -> int:
  """Number of parameters, a tied head counted once; of those that are trained, or of the dense model."""
  table = parts(weights(config), config)[0] if trained else weights(dense(config))
  return sum(math.prod(weight.shape) for weight in jax.tree.leaves(table, is_leaf=_is_weight))
