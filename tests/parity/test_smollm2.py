"""The real model against torch: SmolLM2-135M-Instruct here and in transformers, on the same prompts.

`make parity` fetches the file, installs torch in an environment of its own and runs this; each test prints what it measured.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreason.model import cache as caches
from jaxreason.model import decoder, gguf, hf

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
MODELS = ROOT / "tests" / "fixtures" / "models"
NEW = 64
COLUMNS = 320  # of the cache and of the full pass: enough for every prompt and its continuation


def report(name, value):
  print(f"\nparity: {name}: {value}")


@pytest.fixture(scope="module")
def torch():
  import torch

  return torch


@pytest.fixture(scope="module")
def tokenizer():
  return gguf.tokenizer(MODEL)


@pytest.fixture(scope="module")
def ours():
  return gguf.load(MODEL)


@pytest.fixture(scope="module")
def theirs(torch):
  from transformers import AutoModelForCausalLM

  return AutoModelForCausalLM.from_pretrained(MODEL.parent, gguf_file=MODEL.name, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts(tokenizer):
  texts = json.loads(Path(__file__).with_name("prompts.json").read_text())
  chats = [[{"role": "user", "content": text}] for text in texts]
  ids = [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]
  assert len(ids) == 8 and min(map(len, ids)) >= 100
  return ids


@pytest.fixture(scope="module")
def generated(ours, prompts):
  """Our greedy continuations by prefill and decode, all prompts in one padded batch, and the hidden state behind each
  token: [8, NEW], [8, NEW, D]. Prompts and what follows share one cache: decode writes over the prompts' padding."""
  params, config = ours
  lengths = np.array([len(ids) for ids in prompts])
  tokens, _ = padded(prompts)
  T = tokens.shape[1]

  @functools.partial(jax.jit, donate_argnums=1)
  def step(params, cache, tokens, positions, last):
    output = decoder.apply(params, config, tokens, positions, cache=cache)
    hidden = output.hidden[jnp.arange(tokens.shape[0]), last]
    return hidden, decoder.unembed(params, config, hidden).argmax(-1), output.cache

  cache = caches.empty(config, len(prompts), COLUMNS)
  positions = np.broadcast_to(np.arange(T), tokens.shape)
  hidden, chosen, cache = step(params, cache, tokens, positions, lengths - 1)
  cache = cache.replace(used=jnp.asarray(lengths, jnp.int32))
  states, rows = [np.asarray(hidden)], [np.asarray(chosen)]
  for i in range(NEW - 1):
    hidden, chosen, cache = step(params, cache, rows[-1][:, None], (lengths + i)[:, None], 0 * lengths)
    states.append(np.asarray(hidden))
    rows.append(np.asarray(chosen))
  return np.stack(rows, 1), np.stack(states, 1)


def padded(rows):
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  segments = np.zeros_like(tokens)
  for row, ids in enumerate(rows):
    tokens[row, : len(ids)] = ids
    segments[row, : len(ids)] = 1
  return tokens, segments


@functools.lru_cache
def compiled(config):
  """(the full forward pass to hidden states, the unembedding)"""
  forward = jax.jit(lambda params, tokens, positions: decoder.apply(params, config, tokens, positions).hidden[0])
  return forward, jax.jit(lambda params, hidden: decoder.unembed(params, config, hidden))


def our_hidden(params, config, ids):
  """[T, D] of one sequence by the full forward pass."""
  tokens, _ = padded([ids, [0] * COLUMNS])  # one shape, one compilation; the causal mask hides what follows
  return compiled(config)[0](params, tokens[:1], np.arange(tokens.shape[1])[None])[: len(ids)]


def our_logits(params, config, ids):
  """[T, V] of one sequence by the full forward pass."""
  return np.asarray(compiled(config)[1](params, our_hidden(params, config, ids)))


def their_logits(torch, model, ids):
  with torch.no_grad():
    return model(torch.tensor([ids])).logits[0].float().numpy()


def test_token_ids_equal_those_of_llama_cpp(tokenizer):
  known = json.loads((MODELS / "tokens.json").read_text())
  for row in known["texts"]:
    assert tokenizer(row["text"])["input_ids"] == row["whole"], row["text"]
    assert tokenizer.decode(row["whole"]) == row["text"]
  for row in known["chats"]:
    ids = tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True)["input_ids"]
    assert ids == row["whole"]
  report("token ids", f"equal on {len(known['texts'])} texts and {len(known['chats'])} conversations")


def test_token_ids_equal_those_of_transformers_on_the_prompts(tokenizer, prompts):
  from transformers import AutoTokenizer

  reference = AutoTokenizer.from_pretrained(MODEL.parent, gguf_file=MODEL.name)
  for ids in prompts:
    assert reference(tokenizer.decode(ids))["input_ids"] == ids


def test_logits_are_within_1e_3(torch, ours, theirs, prompts):
  worst = max(np.abs(our_logits(*ours, ids) - their_logits(torch, theirs, ids)).max() for ids in prompts)
  lengths = sorted(map(len, prompts))
  report(f"largest |difference of logits| from torch, 8 prompts of {lengths[0]} to {lengths[-1]} tokens", worst)
  assert worst < 1e-3


@pytest.fixture(scope="module")
def reference(torch, theirs, prompts):
  """torch's greedy continuations and the logits of each step, from its own cache: [8, NEW], [8, NEW, V]."""
  rows, logits = [], []
  for ids in prompts:
    given = torch.tensor([ids])
    # The mask is given because generate would take the prompt's <|im_end|>, which is also the padding token, for padding.
    out = theirs.generate(
      given,
      attention_mask=torch.ones_like(given),
      max_new_tokens=NEW,
      do_sample=False,
      eos_token_id=None,
      output_logits=True,
      return_dict_in_generate=True,
    )
    rows.append(out.sequences[0, len(ids) :].numpy())
    logits.append(torch.cat(out.logits).numpy())
  return np.stack(rows), np.stack(logits)


def test_greedy_continuations_are_identical(prompts, generated, reference, tokenizer):
  np.testing.assert_array_equal(generated[0], reference[0])
  text = tokenizer.decode(generated[0][0])
  report("greedy continuation", f"{NEW} tokens identical on {len(prompts)} prompts; the first: {text!r}")


def test_prefill_and_decode_equal_the_full_forward_pass(torch, ours, theirs, prompts, generated, reference):
  """Logits of 8 x 64 decode steps, 25 million numbers of up to 42, against one pass over the whole text.

  Thirty layers grow any difference, were it one last bit in the first of them, to float32's distance from float64, which is
  1e-4 in the worst place and what torch's own two ways differ by. So this holds with room to spare only while a row's sums
  are the same to the bit in both ways: see `decoder._project` and `attention.attend`.
  """
  params, config = ours
  differences, its_own = [], []
  for row, ids in enumerate(prompts):
    text = [*ids, *generated[0][row].tolist()]
    steps = slice(len(ids) - 1, len(ids) - 1 + NEW)
    decoded = compiled(config)[1](params, generated[1][row])
    differences.append(np.abs(our_logits(params, config, text)[steps] - decoded))
    its_own.append(np.abs(their_logits(torch, theirs, text)[steps] - reference[1][row]).max())
  differences = np.stack(differences)
  report(
    f"prefill and {NEW} decode steps against the full forward pass",
    f"largest |difference of logits| by prompt {[float(f'{worst:.2e}') for worst in differences.max((1, 2))]}, "
    f"root mean square {np.sqrt(np.mean(differences**2)):.2e}, share above 1e-4 {np.mean(differences > 1e-4):.1e}; "
    f"largest in torch's own {max(its_own):.2e}",
  )
  assert differences.max() <= 1e-4


@pytest.mark.parametrize("name", ("smollm2", "llama", "qwen2", "qwen3"))
def test_transformers_loads_the_export_and_gives_the_same_logits(name, torch, ours, prompts, tokenizer, tmp_path):
  from transformers import AutoModelForCausalLM, AutoTokenizer

  real = name == "smollm2"
  params, config = ours if real else hf.load(MODELS / name)
  hf.save(params, config, tmp_path / "out", tokenizer=tokenizer if real else None, max_shard_bytes=2**27 if real else 30_000)
  ids = prompts[0] if real else np.load(MODELS / name / "golden.npz")["tokens"][0].tolist()
  model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
  difference = np.abs(their_logits(torch, model, ids) - our_logits(params, config, ids)).max()
  report(f"largest |difference of logits| of the exported {name} in transformers", difference)
  assert difference < (1e-3 if real else 2e-5)
  again, same = hf.load(tmp_path / "out")
  assert same == config
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(a, b)
  if real:
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(tokenizer.decode(ids))["input_ids"] == ids
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
