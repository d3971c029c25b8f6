"""Floor 4: sizes of published models, so that a plan needs no network.

What enters: the name of a model on the hub. What leaves: the fields of its `config.json` (https://huggingface.co/Qwen), as
`model.hf` reads them from a checkpoint.
"""

from jaxreason.model import hf_config
from jaxreason.model.config import ModelConfig

_QWEN = {"vocab_size": 151_936, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "use_sliding_window": False}
_QWEN3 = _QWEN | {"model_type": "qwen3", "head_dim": 128, "attention_bias": False, "max_position_embeddings": 40_960}
_MODELS = {
  "Qwen/Qwen3-0.6B": _QWEN3 | {
    "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
    "intermediate_size": 3072, "tie_word_embeddings": True,
  },
  "Qwen/Qwen2.5-1.5B-Instruct": _QWEN | {
    "model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
    "intermediate_size": 8960, "tie_word_embeddings": True, "max_position_embeddings": 32_768,
  },
  "Qwen/Qwen3-8B": _QWEN3 | {
    "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 12_288, "tie_word_embeddings": False,
  },
  "Qwen/Qwen3-30B-A3B": _QWEN3 | {
    "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "intermediate_size": 6144, "tie_word_embeddings": False, "num_experts": 128,
    "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True, "router_aux_loss_coef": 0.001,
    "decoder_sparse_step": 1, "mlp_only_layers": [],
  },
}  # fmt: skip


def known() -> list[str]:
  """The names."""
  return list(_MODELS)


def config(name: str) -> ModelConfig | None:
  """The sizes of a model, or None where its name is not known here."""
  return hf_config.read(_MODELS[name]) if name in _MODELS else None
