"""Every family against torch's logits: tiny random models with what sets each apart switched on, of `fixtures/make_models.py`.

Their windows are 6 long, the sequences 20. The same numbers have to come out wherever a sequence may lie: in a row of its own,
behind padding, packed behind another, behind a prompt that others share, and token by token through the cache.
"""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxreason import packing, policy, rollout_plan
from jaxreason.errors import UserError
from jaxreason.model import cache as caches
from jaxreason.model import decoder, hf, hf_config, training_attention
from jaxreason.rollout.config import Shape
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.prepare import prepare_rollout_params
from jaxreason.rollout.slots import Slots

FIXTURES = Path(__file__).parents[1] / "fixtures" / "models"
FAMILIES = ("llama", "qwen2", "qwen3", "llama3", "smollm3", "mistral", "olmo2", "gemma2", "gemma3")
WINDOWED = ("mistral", "gemma2", "gemma3")
families = pytest.mark.parametrize("name", FAMILIES)
PROMPT, LENGTH, ROW = 12, 20, 40


@functools.cache
def loaded(name):
  golden = np.load(FIXTURES / name / "golden.npz")
  return *hf.load(FIXTURES / name), golden["tokens"], golden["logits"]


def close(got, expected):
  np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


def fields_of(name):
  return json.loads((FIXTURES / name / "config.json").read_text())


@pytest.mark.parametrize(
  ("name", "kernel"),
  [*((name, "einsum") for name in FAMILIES), *((name, kernel) for name in WINDOWED for kernel in ("pallas_gpu", "splash_tpu"))],
)
def test_rows_padded_packed_and_shared_have_the_logits_of_torch(name, kernel, monkeypatch):
  """One batch: each sequence alone; the first behind 7 columns of padding; both in one row; two responses behind one prompt."""
  monkeypatch.setattr(decoder, "attend_rows", functools.partial(training_attention.attend_rows, interpret=True))
  params, config, tokens, expected = loaded(name)
  config = dataclasses.replace(config, attention=kernel)
  T = LENGTH
  batch, positions, group, response = (np.zeros((5, ROW), np.int32) for _ in range(4))

  def put(row, at, sample, number, part=slice(0, T), answer=0):
    columns = slice(at, at + len(range(T)[part]))
    batch[row, columns], positions[row, columns] = tokens[sample, part], np.arange(T)[part]
    group[row, columns], response[row, columns] = number, answer

  put(0, 0, 0, 1)
  put(1, 0, 1, 1)
  put(2, 7, 0, 1)
  put(3, 0, 0, 1)
  put(3, T, 1, 2)
  put(4, 0, 1, 3, slice(0, PROMPT))
  put(4, PROMPT, 1, 3, slice(PROMPT, T), 1)
  put(4, T, 1, 3, slice(PROMPT, T), 2)

  @jax.jit
  def logits(params, tokens, positions, segments):
    return decoder.unembed(params, config, decoder.apply(params, config, tokens, positions, segments=segments).hidden)

  got = logits(params, batch, positions, (group, response))
  close(got[:2, :T], expected)
  close(got[2, 7 : 7 + T], expected[0])
  close(got[3], np.concatenate([expected[0], expected[1]]))
  close(got[4, :T], expected[1])
  close(got[4, T : T + T - PROMPT], expected[1, PROMPT:])


@families
def test_prefill_and_decode_past_the_window_have_the_logits_of_torch(name):
  """The rollout's copy of the weights: a prompt in one go and the rest one by one, behind it and behind a prompt two rows
  share."""
  params, config, tokens, expected = loaded(name)
  rest = LENGTH - PROMPT

  @jax.jit
  def run(params, tokens):
    params = prepare_rollout_params(params, config)
    positions = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32), tokens.shape)
    first = decoder.apply(params, config, tokens[:, :PROMPT], positions[:, :PROMPT], cache=caches.empty(config, 2, LENGTH))
    prompts = [tuple(caches.resized(x, PROMPT, axis) for x in part)
               for part, axis in ((first.cache.keys, first.cache.axis), (first.cache.values, caches.SLOTS))]  # fmt: skip
    prefix = caches.Prefix(*prompts, jnp.full(2, PROMPT, jnp.int32), first.cache.axis)
    fresh = caches.empty(config, 4, rest).replace(prefix=prefix)
    twice = jnp.repeat(tokens, 2, axis=0)

    def steps(tokens, held):
      def step(held, given):
        token, position = given
        place = jnp.full((tokens.shape[0], 1), position, jnp.int32)
        out = decoder.apply(params, config, token[:, None], place, cache=held)
        return out.cache, decoder.unembed(params, config, out.hidden[:, 0])

      return jnp.swapaxes(jax.lax.scan(step, held, (tokens.T[PROMPT:], jnp.arange(PROMPT, LENGTH)))[1], 0, 1)

    return decoder.unembed(params, config, first.hidden), steps(tokens, first.cache), steps(twice, fresh)

  before, own, shared = run(params, tokens)
  close(before, expected[:, :PROMPT])
  close(own, expected[:, PROMPT:])
  close(shared, np.repeat(expected[:, PROMPT:], 2, axis=0))


@families
def test_the_peculiarities_are_read(name):
  config = loaded(name)[1]
  assert (config.window > 0) == (name in WINDOWED)
  assert config.layer_kinds == {
    "smollm3": ("full", "nope", "full"), "mistral": ("window",) * 2, "gemma2": ("window", "full", "window"),
    "gemma3": ("window", "window", "full", "window"),
  }.get(name, ())  # fmt: skip
  assert config.rope_scaling == {"llama3": (8.0, 1.0, 4.0, 64.0), "gemma3": (4.0,)}.get(name, ())
  assert (config.attention_cap, config.logit_cap) == ((5.0, 3.0) if name == "gemma2" else (0, 0))


@families
def test_an_export_is_the_same_model_in_the_same_family(name, tmp_path):
  params, config = loaded(name)[:2]
  hf.save(params, config, tmp_path / "out", max_shard_bytes=20_000)
  again, same = hf.load(tmp_path / "out")
  assert same == config
  assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == fields_of(name)["model_type"]
  jax.tree.map(np.testing.assert_array_equal, params, again)


REFUSED = {
  "a window no layer has": ("llama3", {"sliding_window": 8}, "sliding_window=8"),
  "layers that the family does not list": ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types="),
  "a window that is missing": ("gemma2", {"sliding_window": None}, "expected sliding_window"),
  "both ways": ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
  "a cap that transformers leaves out": ("gemma3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping=5.0"),
  "another activation": ("gemma2", {"hidden_activation": "relu"}, "hidden_activation='relu'"),
  "windows behind NoPE": ("smollm3", {"use_sliding_window": True}, "use_sliding_window=True"),
  "two bases": ("llama3", {"rope_parameters": {"full_attention": {}, "sliding_attention": {}}}, "rope_parameters="),
  "a number of scaling is missing": ("llama3", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling="),
  "another scaling": ("qwen2", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling="),
  "pictures": ("gemma3", {"model_type": "gemma3"}, "model_type .*, got 'gemma3'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_implemented_is_named(case):
  name, changed, told = REFUSED[case]
  with pytest.raises(UserError, match=told):
    hf_config.read(fields_of(name) | changed)


def test_old_and_new_files_say_the_same():
  """Gemma 3's and Llama 3's spellings before transformers 5; Qwen's window, by its first layer or listed."""
  gemma, llama, qwen = map(fields_of, ("gemma3", "llama3", "qwen2"))
  old = {"rope_theta": 50_000.0, "rope_local_base_freq": 100.0, "rope_scaling": {"factor": 4.0, "rope_type": "linear"}}
  without = lambda fields, *names: {name: value for name, value in fields.items() if name not in names}
  assert hf_config.read(without(gemma, "rope_parameters", "layer_types") | old) == hf_config.read(gemma)
  scaling = without(llama["rope_parameters"], "rope_theta")
  assert hf_config.read(without(llama, "rope_parameters") | {"rope_scaling": scaling}) == hf_config.read(llama)
  window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
  assert hf_config.read(without(qwen, "layer_types") | window).layer_kinds == ("full", "window")
  listed = {"layer_types": ["sliding_attention", "full_attention"]}
  config = hf_config.read(qwen | window | listed)
  assert config.layer_kinds == ("window", "full")
  assert hf_config.read(hf_config.write(config, "float32", {})) == config


def test_recorded_logprobs_of_capped_logits_and_windows_are_the_training_paths():
  """A rollout of Gemma 2's kind, several samples a prompt, against the update over own rows and packed blocks."""
  params, config = loaded("gemma2")[:2]
  prompt, new, group = 9, 16, 2
  programs = rollout_plan.rollout_programs(config)
  held = Slots(programs, Shape(4, group, new, 8, (4,), (2,), 16, 16, ahead=0), Draw(jax.random.key(0), ()))
  prompts = [tiny.tokens(visit, prompt).tolist() for visit in range(2)]
  for visit, ids in enumerate(prompts):
    held.admit(visit, ids, range(group))
  found = {written.name: written for told in tiny.finish(held, programs.prepare(params), 0) for written in told}
  names = sorted(found)
  tokens = np.stack([[*prompts[visit], *found[visit, sample].record.tokens] for visit, sample in names]).astype(np.int32)
  before = np.full(len(names), prompt, np.int32)
  given = dict(tokens=tokens, prompt_lengths=before, lengths=before + new, width=new, temperature=1.0)
  recorded = np.stack([found[name].record.logprobs for name in names])
  compute = functools.partial(policy.completion_logprobs, config=config)
  close(jax.jit(compute, static_argnames="width")(params, **given)[0], recorded)
  made = packing.pack(before, before + new, columns=prompt + new, row_tokens=400, group=group, blocks=True)
  assert made.seen is not None
  close(jax.jit(compute, static_argnames="width")(params, **given, layout=made)[0], recorded)
