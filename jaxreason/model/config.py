"""Floor 2: the sizes and switches of one decoder, as a frozen, hashable value.

What enters: numbers. What leaves: `ModelConfig`, a static argument of every program. Reading a checkpoint's own
configuration file into it is `hf`'s and `gguf`'s business.
"""

import dataclasses

from jaxreason.errors import UserError, nearest
from jaxreason.model.lora import Lora
from jaxreason.model.remat import POLICIES

KINDS = ("full", "window", "nope")

# Fields that are one of some names.
_NAMES = {
  "norms": ("pre", "post", "both"),
  "activation": ("silu", "gelu_tanh"),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder with RMSNorm, rotary positions, grouped-query attention and a gated MLP. The defaults are Llama's shape; the
  switches are what sets other families apart (docs/models.md has the table).

  Attributes:
    vocab_size: V, rows of the embedding.
    embed: D, width of the residual stream.
    layers: L.
    heads: N, query heads.
    kv_heads: K, key/value heads; N is a multiple of K.
    head_dim: H, even.
    mlp: F, width of the gated MLP.
    rope_theta: base of the rotary frequencies.
    rope_scaling: () for frequencies as they are; (factor,) divides them all (linear); (factor, low, high, original) divides the
      slow ones (Llama 3): see `attention.frequencies`.
    layer_kinds: of each layer one of `KINDS`: "full" attention, "window" of the last `window` positions, "nope", full attention
      without rotation; () where all are full.
    window: how many positions, its own among them, a query of a "window" layer sees.
    window_rope_theta: base of the rotary frequencies of "window" layers, without scaling; 0 is those of the other layers.
    norm_eps: added to the mean square in RMSNorm.
    tie_embeddings: whether the embedding is also the output matrix.
    qkv_bias: biases on the query, key and value projections (Qwen2).
    qk_norm: RMSNorm over H on queries and keys (Qwen3).
    qk_norm_heads: that norm is over all heads together (OLMo 2), with `qk_norm` only.
    norms: of a block's two halves, "pre" before each (Llama), "post" after each (OLMo 2), "both" (Gemma's sandwich).
    norm_offset: norms scale by 1 + weight (Gemma).
    activation: of the gated MLP, "silu" or "gelu_tanh" (Gemma).
    scale_embedding: embeddings are multiplied by √D (Gemma).
    query_scale: scores are divided by √query_scale; 0 is H (Gemma states it).
    attention_cap: scores are cap · tanh(score / cap) where above 0 (Gemma 2).
    logit_cap: logits are cap · tanh(logit / cap) where above 0 (Gemma 2): part of the policy, before any temperature.
    experts: E, of a mixture of experts in the place of each block's MLP; 0 for a dense model.
    experts_per_token: k, how many of them a token goes through; from 1 to E, 0 for a dense model.
    expert_mlp: width of each expert's gated MLP; 0 for a dense model.
    normalize_routing: whether the weights of a token's k experts are divided by their sum.
    balance_coef: of the load-balancing loss in an update; see `moe.balance`.
    max_positions: the longest sequence the checkpoint declares.
    compute_dtype: dtype of the matrix products; softmax, norms and logits are float32 whatever this says.
    head_dtype: dtype in which hidden states and the output matrix enter their product: "auto" is the compute dtype, "float32"
      is float32, multiplied as such on every platform.
    decode_kernel: of a decode step's attention, one of `decode_attention`'s; "einsum", plain XLA, runs anywhere. The layout of
      the cache's keys and of the rollout's copy of the weights goes with it.
    attention: of rows without a cache, one of `training_attention`'s kernels; "einsum", plain XLA, runs anywhere.
    remat: what of a block is kept for the backward pass, a name of `remat.POLICIES`: "none" every activation; the others its
      input, and "block" nothing else, "dots" the products with weights, "attention" what attention gave; "offload" its input
      alone, in the memory of the host.
    lora: low-rank adapters beside a frozen base; with rank 0 none, and all is trained.
  """

  vocab_size: int
  embed: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  rope_theta: float = 10_000.0
  rope_scaling: tuple[float, ...] = ()
  layer_kinds: tuple[str, ...] = ()
  window: int = 0
  window_rope_theta: float = 0.0
  norm_eps: float = 1e-5
  tie_embeddings: bool = True
  qkv_bias: bool = False
  qk_norm: bool = False
  qk_norm_heads: bool = False
  norms: str = "pre"
  norm_offset: bool = False
  activation: str = "silu"
  scale_embedding: bool = False
  query_scale: float = 0.0
  attention_cap: float = 0.0
  logit_cap: float = 0.0
  experts: int = 0
  experts_per_token: int = 0
  expert_mlp: int = 0
  normalize_routing: bool = False
  balance_coef: float = 0.0
  max_positions: int = 2048
  compute_dtype: str = "float32"
  head_dtype: str = "auto"
  decode_kernel: str = "einsum"
  attention: str = "einsum"
  remat: str = "none"
  lora: Lora = Lora()

  def __post_init__(self):
    for name in ("rope_scaling", "layer_kinds"):
      object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, where it was read from JSON
    for name in ("vocab_size", "embed", "layers", "heads", "kv_heads", "head_dim", "mlp", "max_positions"):
      if getattr(self, name) < 1:
        raise UserError(f"model.{name} expected at least 1, got {getattr(self, name)}")
    if self.heads % self.kv_heads:
      raise UserError(f"model.heads expected a multiple of kv_heads={self.kv_heads}, got {self.heads}")
    if self.head_dim % 2:
      raise UserError(f"model.head_dim expected even (rotary pairs), got {self.head_dim}")
    for name, known in _NAMES.items():
      if getattr(self, name) not in known:
        raise UserError(f"model.{name} expected {', '.join(known)}, got {getattr(self, name)!r}")
    if self.qk_norm_heads and not self.qk_norm:
      raise UserError("model.qk_norm_heads expected with qk_norm only")
    self._check_layers()
    if not (1 <= self.experts_per_token <= self.experts and self.expert_mlp > 0) and self.routing != (0, 0, 0):
      raise UserError(
        "model.experts, experts_per_token and expert_mlp expected all 0, or experts_per_token from 1 to experts and expert_mlp "
        f"at least 1; got {', '.join(map(str, self.routing))}"
      )
    if self.balance_coef < 0 or (self.balance_coef and not self.experts):
      raise UserError(f"model.balance_coef expected 0 without experts, and at least 0 with them, got {self.balance_coef}")
    if self.compute_dtype not in ("float32", "bfloat16", "float16"):
      raise UserError(f"model.compute_dtype expected float32, bfloat16 or float16, got {self.compute_dtype!r}")
    if self.head_dtype not in ("auto", "float32"):
      raise UserError(f"model.head_dtype expected auto or float32, got {self.head_dtype!r}")
    if self.remat not in POLICIES:
      raise UserError(f"model.remat expected {', '.join(POLICIES)}, got {self.remat!r}{nearest(self.remat, POLICIES)}")

  def _check_layers(self) -> None:
    if len(self.rope_scaling) not in (0, 1, 4):
      raise UserError(f"model.rope_scaling expected (factor,) or (factor, low, high, original), got {self.rope_scaling}")
    if self.layer_kinds and len(self.layer_kinds) != self.layers:
      raise UserError(f"model.layer_kinds expected one for each of {self.layers} layers, got {len(self.layer_kinds)}")
    if not set(self.layer_kinds) <= set(KINDS):
      raise UserError(f"model.layer_kinds expected {', '.join(KINDS)}, got {', '.join(sorted(set(self.layer_kinds)))}")
    if ("window" in self.layer_kinds) != (self.window > 0):
      raise UserError(f"model.window expected above 0 with layers of that kind and 0 without, got {self.window}")

  @property
  def kinds(self) -> tuple[str, ...]:
    """`layer_kinds`, one for each layer."""
    return self.layer_kinds or ("full",) * self.layers

  @property
  def period(self) -> int:
    """The least number of layers after which their kinds repeat; 1 where all are alike."""
    kinds = self.kinds
    return next(p for p in range(1, self.layers + 1) if all(kind == kinds[i % p] for i, kind in enumerate(kinds)))

  def window_of(self, kind: str) -> int:
    """How many positions a layer of this kind sees, 0 for all."""
    return self.window if kind == "window" else 0

  @property
  def routing(self) -> tuple[int, int, int]:
    """(experts, experts_per_token, expert_mlp): zeros of a dense model."""
    return self.experts, self.experts_per_token, self.expert_mlp

  @property
  def output_dtype(self) -> str:
    """`head_dtype`, settled."""
    return self.compute_dtype if self.head_dtype == "auto" else self.head_dtype

  @property
  def head_precision(self) -> str | None:
    """Of the products with the output matrix: where float32 was asked for, an accelerator's default would be coarser."""
    return None if self.head_dtype == "auto" else "highest"
