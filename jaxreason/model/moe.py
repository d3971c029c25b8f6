"""Floor 2: a mixture of experts in the place of a block's MLP.

What enters: hidden states after a block's norm, its router and its experts. What leaves: for each token the sum of what its k
experts make of it, weighted by the router's probabilities, and what the router did. No token is dropped, however many choose
one expert: rows are sorted by expert and multiplied by `grouped.product`, whose groups are as long as they are.

Over a mesh's axis of experts each device holds a part of the experts and a part of the batch: it gathers the tokens of the
devices that share a set of experts, computes its own experts' rows, and the sums return to where their tokens are. Each device
has room for every row, so that shapes are static and no token is one too many.

B sequences, T tokens, M = B·T, D embed, E experts, k experts a token, F width of an expert, L layers, I and O sizes of
a matrix.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxreason import sharding
from jaxreason.masks import divide
from jaxreason.model import grouped, products, remat
from jaxreason.model.config import ModelConfig


@struct.dataclass
class Routed:
  """What a router did. Those of L layers are stacked: every field then has a leading axis."""

  chosen: Any  # [B, T, k] int32, the experts of each token
  load: Any  # [E] float32, real tokens that each expert had
  probability: Any  # [E] float32, the router's probability of each expert, summed over real tokens; gradients flow here
  entropy: Any  # [] float32, nats, of the router's distribution, summed over real tokens
  tokens: Any  # [] float32, real tokens


def mlp(
  config: ModelConfig, h, router, matrices, rows, gated, real=None, routing=None, axis: int = grouped.ROWS
) -> tuple[jax.Array, Routed]:
  """What a block's experts make of its tokens.

  Args:
    config: static.
    h: [B, T, D] in the compute dtype.
    router: [E, D].
    matrices: (gate [E, F, D], up [E, F, D], down [E, D, F]), or with `grouped.COLUMNS` each [E, in, out].
    rows: the logical names of B and T.
    gated: what a gate lets through, as `products.gated`.
    real: [B, T] bool, tokens that are counted; None for all. Others are computed too, and touch no other token.
    routing: [B, T, k] int32, experts to take in the place of the router's choice, or below 0 for its own; None for its own
      everywhere. Weights are the router's probabilities of them in either case, and gradients flow through these.
    axis: static, of the matrices that is summed over: of `grouped`.

  Returns:
    ([B, T, D] float32, what the router did).
  """
  weight, routed = route(config, h, router, real, routing)
  of_tokens = ((*rows, "embed"), (*rows, None), (*rows, None))
  to_inner, to_outer = ("expert", "mlp", "embed"), ("expert", "embed", "mlp")
  to_inner, to_outer = (to_inner, to_outer) if axis == grouped.ROWS else (to_outer, to_inner)
  of_matrices = (to_inner, to_inner, to_outer)
  computed = functools.partial(_computed, gated=gated, axis=axis)
  out = sharding.per_device(computed, (*of_tokens, *of_matrices), ((*rows, "embed"),))
  return out(h, routed.chosen, weight, *(matrix.astype(h.dtype) for matrix in matrices))[0], routed


def route(config: ModelConfig, h, router, real=None, routing=None) -> tuple[jax.Array, Routed]:
  """([B, T, k] float32 weights of the chosen experts, what the router did); arguments as of `mlp`.

  The softmax is over all experts and its k largest are taken; with `config.normalize_routing` these are divided by their sum.
  """
  logits = products.product(h, router.astype(h.dtype), products.ROWS, "highest")
  logs = jax.nn.log_softmax(logits)
  probabilities = jnp.exp(logs)
  chosen = jax.lax.top_k(logits, config.experts_per_token)[1]
  if routing is not None:
    chosen = jnp.where(routing >= 0, routing, chosen)
  weight = jnp.take_along_axis(probabilities, chosen, axis=-1)
  if config.normalize_routing:
    weight = weight / jnp.sum(weight, axis=-1, keepdims=True)
  counted = jnp.ones(h.shape[:2]) if real is None else real.astype(jnp.float32)
  experts = jnp.arange(config.experts, dtype=chosen.dtype)[None, None, None]
  takes = jnp.any(chosen[..., None] == experts, axis=2)
  routed = Routed(
    chosen=chosen,
    load=jnp.sum(takes * counted[..., None], axis=(0, 1)),
    probability=jnp.sum(probabilities * counted[..., None], axis=(0, 1)),
    entropy=jnp.sum(-jnp.sum(probabilities * logs, axis=-1) * counted),
    tokens=jnp.sum(counted),
  )
  return weight, routed


def _computed(x_BTD, chosen_BTk, weight_BTk, *matrices, gated, axis):
  """What one device does, with its experts: (out [B, T, D] float32,)."""
  own = lambda part: sharding.whole(part.reshape(-1, part.shape[-1]), 0, "expert")
  x, chosen, weight = own(x_BTD), own(chosen_BTk), own(weight_BTk)
  E, (M, k) = matrices[0].shape[0], chosen.shape
  # Rows of other devices' experts go behind the last group, where nothing is computed.
  local = chosen.reshape(-1) - sharding.part_of("expert") * E
  local = jnp.where((local >= 0) & (local < E), local, E)
  sizes = jnp.sum(local[:, None] == jnp.arange(E, dtype=local.dtype)[None], axis=0, dtype=jnp.int32)
  order = jnp.argsort(local)
  inside = (local[order] < E)[:, None]
  rows = jnp.where(inside, x[order // k], jnp.zeros((), x.dtype))
  out = jnp.where(inside, _of_rows(rows, sizes, matrices, gated, axis), 0.0) * weight.reshape(-1)[order][:, None]
  out = jnp.sum(out[jnp.argsort(order)].reshape(M, k, -1), axis=1)
  out = sharding.summed(sharding.summed_parts(out, 0, "expert"), "mlp")
  return (out.reshape(x_BTD.shape),)


def _of_rows(rows, sizes, matrices, gated, axis):
  """[m, D] float32: each row through the expert whose group it is in."""
  of_experts = functools.partial(grouped.product, sizes=sizes, axis=axis)
  gate, up = (remat.named(of_experts(rows, matrix), remat.PRODUCT) for matrix in matrices[:2])
  return of_experts(gated(gate, up, rows.dtype.name), matrices[2])


def balance(routed: Routed) -> jax.Array:
  """The load-balancing loss: how far tokens crowd into few experts.

    E Σₑ fₑ Pₑ,   fₑ = tokens that chose e / tokens,   Pₑ = the router's mean probability of e

  It is k where the load is even, and greater where probability follows load; gradients flow through Pₑ.

  Args:
    routed: of L layers. Layers and tokens are one pool, as in Hugging Face's `load_balancing_loss_func`; others sum the layers'
      own losses, which also asks for balance within each.

  Returns:
    [] float32.

  Source: Fedus et al. 2021, eq. 4-6, https://arxiv.org/abs/2101.03961.
  """
  tokens, experts = jnp.sum(routed.tokens), routed.load.shape[-1]
  load, probability = (divide(jnp.sum(part, axis=0), tokens) for part in (routed.load, routed.probability))
  return experts * jnp.sum(jax.lax.stop_gradient(load) * probability)


def numbers(routed: Routed, experts_per_token: int) -> dict:
  """Scalars of a batch, float32, from its `Routed` of L layers: the load of the busiest and of the idlest expert over the mean
  load, mean of the layers; the share of choices that no expert served; the routers' entropy in nats a token."""
  even = jnp.mean(routed.load, axis=-1)
  return {
    "router/load_max": jnp.mean(divide(jnp.max(routed.load, axis=-1), even)),
    "router/load_min": jnp.mean(divide(jnp.min(routed.load, axis=-1), even)),
    "router/dropped": 1 - divide(jnp.sum(routed.load), experts_per_token * jnp.sum(routed.tokens)),
    "router/entropy": divide(jnp.sum(routed.entropy), jnp.sum(routed.tokens)),
  }
