"""The kernels of accelerators inside a whole rollout, in interpret mode: the cache lies as they want it in every program."""

import dataclasses
import functools

import drawn
import numpy as np
import pytest
import tiny

from jaxreason import rollout_plan
from jaxreason.model import decode_attention, decoder

PROMPTS = drawn.prompts_of(3, seed=6)
CONFIG = dataclasses.replace(tiny.CONFIG, head_dim=16)
# A window that is shorter than prompts and answers, in one of two layers.
WINDOWED = dataclasses.replace(CONFIG, layer_kinds=("window", "full"), window=5, attention_cap=2.0)


def rolled(config, lane, monkeypatch):
  """All samples of three prompts, refilled, one of them behind a reply."""
  for name in ("attend_decode", "write_decode"):
    monkeypatch.setattr(decoder, name, functools.partial(getattr(decode_attention, name), interpret=True))
  programs = rollout_plan.rollout_programs(config)
  answered = set()

  def answer(slots, written):
    if written.sample or written.visit in answered:
      return False
    answered.add(written.visit)
    slots.reply(written, PROMPTS[written.visit], [5, 6, 7], budget=24)
    return True

  sizes = drawn.shape(4, lane=lane, budget=24, prompt=16, bucket=16)
  params = programs.prepare(tiny.params(CONFIG))
  budgets = dict.fromkeys(range(4), 12)
  return drawn.drawn(PROMPTS, sizes, params=params, programs=programs, answer=answer, budgets=budgets, stop_ids=(-1,))


@pytest.mark.parametrize(("config", "lane"), [(CONFIG, 1), (CONFIG, 2), (WINDOWED, 2)], ids=["copies", "lanes", "windows"])
@pytest.mark.parametrize("kernel", ["pallas_gpu", "pallas_tpu"])
def test_a_rollout_by_a_kernel_is_that_of_plain_xla(kernel, config, lane, monkeypatch):
  expected = rolled(config, lane, monkeypatch)
  got = rolled(dataclasses.replace(config, decode_kernel=kernel), lane, monkeypatch)
  assert max(len(one.record.tokens) for one in got.values()) > 12
  for name, one in got.items():
    np.testing.assert_array_equal(one.record.tokens, expected[name].record.tokens)
    np.testing.assert_allclose(one.record.logprobs, expected[name].record.logprobs, atol=1e-5)
