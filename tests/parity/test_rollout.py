"""Rollouts of the real SmolLM2-135M-Instruct against its own training path: every recorded log-prob, also behind a refresh.

Run by `make parity`; needs no torch. B samples, T tokens.
"""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxreason import build, policy, rollout_plan
from jaxreason.model import gguf
from jaxreason.rollout.config import Shape
from jaxreason.rollout.engine import Draw
from jaxreason.rollout.slots import Slots

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
GROUP, NEW, TOLERANCE = 2, 48, 1e-4

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def ours():
  return gguf.load(str(MODEL))


@pytest.fixture(scope="module")
def prompts():
  tokenizer = build.tokenizer_of(str(MODEL), chat=True)
  texts = json.loads((ROOT / "tests" / "parity" / "prompts.json").read_text())
  return [tokenizer.render(text) for text in texts[:4]]


@pytest.fixture(scope="module")
def programs(ours):
  return rollout_plan.rollout_programs(ours[1])


def rolled(programs, params, prompts, *, slots, lane, refresh_at=None):
  """{name: Written} of GROUP samples of each prompt; `refresh_at` chunks in, all begin again behind what they wrote."""
  shape = Shape(slots, lane, NEW, 8, (slots,), (2,), 32, 64, ahead=0)
  held, found, chunks = Slots(programs, shape, Draw(jax.random.key(0), ())), {}, 0
  for visit, ids in enumerate(prompts):
    held.admit(visit, ids, range(GROUP))
  prepared = programs.prepare(params)
  while held.running or held.waiting:
    if chunks == refresh_at:
      ended, running = held.so_far()
      assert not ended
      held.unload()
      for one in running:
        held.admit(one.visit, prompts[one.visit], [one.sample], [one])
    for written in held.chunk(prepared, 0):
      found[written.name] = written
      held.release(written.name)
    chunks += 1
  return found


def farthest(ours, prompts, found) -> float:
  """The largest difference of a recorded log-prob from the training path's."""
  params, config = ours
  names = sorted(found)
  rows = [[*prompts[visit], *found[visit, sample].record.tokens.tolist()] for visit, sample in names]
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  before = np.array([len(prompts[visit]) for visit, _ in names], np.int32)
  compute = jax.jit(functools.partial(policy.completion_logprobs, config=config, width=NEW, temperature=1.0))
  expected, _ = compute(params, tokens=tokens, prompt_lengths=before, lengths=before + NEW)
  recorded = np.stack([found[name].record.logprobs for name in names])
  return float(np.abs(recorded - np.asarray(expected)).max())


@pytest.mark.parametrize(
  ("slots", "lane", "refresh_at"),
  [(8, 1, None), (8, 2, None), (4, 1, None), (8, 1, 3)],
  ids=["copies", "lanes", "refill", "refresh"],
)
def test_recorded_logprobs_are_the_training_paths(ours, prompts, programs, slots, lane, refresh_at):
  found = rolled(programs, ours[0], prompts, slots=slots, lane=lane, refresh_at=refresh_at)
  assert len(found) == GROUP * len(prompts)
  difference = farthest(ours, prompts, found)
  print(f"{slots} slots in lanes of {lane}, refresh after {refresh_at} chunks: {difference:.2e} nats at most")
  assert difference <= TOLERANCE
