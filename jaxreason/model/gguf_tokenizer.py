"""Floor 2: a tokenizer from the metadata of a GGUF file.

What enters: the values under "tokenizer." (tokens, merges, types, special ids, chat template). What leaves: a transformers
tokenizer, built with the tokenizers library alone. The file names its pre-tokenizer by a word; each word that is
supported is a line of one table, and any other is an error, since a near miss would tokenize differently in silence.
"""

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from jaxreason.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

# Qwen2's pattern: contractions, words, single digits, punctuation, line ends, spaces (QwenLM, tokenization_note.md).
QWEN2 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _gpt2():
  return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm():
  return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _qwen2():
  split = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated")
  return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# tokenizer.ggml.pre -> (normalizer, pre-tokenizer). Each is checked in the tests against token ids made by other programs.
PRE_TOKENIZERS = {
  "gpt-2": (None, _gpt2),
  "smollm": (None, _smollm),
  "qwen2": (normalizers.NFC, _qwen2),
}


def build(value: Callable[[str], Any], where: str) -> Any:
  """The tokenizer.

  Args:
    value: key below "tokenizer." -> its value, None when the file has none.
    where: the file, for errors.

  Returns:
    A transformers `PreTrainedTokenizerFast`.

  Raises:
    UserError: a tokenizer model or pre-tokenizer that is not supported, or metadata that is missing.
  """
  from transformers import PreTrainedTokenizerFast

  kind, pre = value("ggml.model"), value("ggml.pre")
  if kind != "gpt2":
    raise UserError(f"{where} expected tokenizer.ggml.model gpt2, got {kind!r}; use the checkpoint's own tokenizer files")
  if pre not in PRE_TOKENIZERS:
    known = " or ".join(PRE_TOKENIZERS)
    raise UserError(f"{where} expected tokenizer.ggml.pre {known}, got {pre!r}; use the checkpoint's own tokenizer files")
  tokens, merges = value("ggml.tokens"), value("ggml.merges")
  if not tokens or not merges:
    raise UserError(f"{where} expected tokenizer.ggml.tokens and tokenizer.ggml.merges, got none")

  vocabulary = {token: index for index, token in enumerate(tokens)}
  tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ", 1)) for merge in merges]))
  normalizer, pre_tokenizer = PRE_TOKENIZERS[pre]
  if normalizer is not None:
    tokenizer.normalizer = normalizer()
  tokenizer.pre_tokenizer = pre_tokenizer()
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
  types = value("ggml.token_type") or [NORMAL] * len(tokens)
  added = [
    AddedToken(token, special=kind == CONTROL, normalized=False)
    for token, kind in zip(tokens, types, strict=True)
    if kind in (CONTROL, USER_DEFINED)
  ]
  tokenizer.add_tokens(added)

  special = {
    name: tokens[index]
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding"))
    if (index := value(f"ggml.{key}_token_id")) is not None
  }
  if value("ggml.add_bos_token"):
    if "bos_token" not in special:
      raise UserError(f"{where} expected tokenizer.ggml.bos_token_id beside add_bos_token, got none")
    bos = special["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
      single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
    )
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, chat_template=value("chat_template"), clean_up_tokenization_spaces=False, **special
  )
