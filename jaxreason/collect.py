"""Floor 4: from prompts to judged rollouts.

What enters: parameters and the position in the endless stream of prompts. What leaves: `Rollouts` with rewards, the
samples as text, and the step's numbers. While the device decodes the next chunk, the verifier pool judges what has
finished. P prompts x G samples.
"""

import hashlib
import json
import time
from concurrent.futures import Future
from typing import NamedTuple

import jax
import numpy as np

from jaxreason.build import Run, layout_of
from jaxreason.data.prompts import pack_prompts
from jaxreason.data.stream import PromptStream, visits
from jaxreason.errors import UserError
from jaxreason.records import STOP_TOKEN, Layout, Rollouts
from jaxreason.rewards.pool import VerifierPool
from jaxreason.rewards.verdict import Verdict
from jaxreason.rollout import engine
from jaxreason.rollout.state import DecodeState


class Sample(NamedTuple):
  """One finished response and what was said of it."""

  row: dict
  response: str
  finished: bool  # ended by a stop token, not cut off by its budget
  tokens: int
  verdict: Verdict


class Judged(NamedTuple):
  """A decoded and judged wave: sample p·G + g is sample g of prompt p."""

  state: DecodeState
  samples: list[Sample]
  reward_wait: float  # seconds of verification that decoding did not hide


class Collected(NamedTuple):
  """One step's rollouts."""

  rollouts: Rollouts
  width: int  # completion columns of its batch, which hold the longest completion
  layout: Layout | None  # where its samples lie in packed rows; None where they are not packed
  samples: list[Sample]
  numbers: dict


def item(row: dict, response: str, finished: bool) -> dict:
  """What the verifier pool is asked: the row's answer and verifier, and the response."""
  return {"verifier": row["verifier"], "response": response, "answer": row["answer"], "finished": finished}


def judged_wave(
  run: Run, params, pool: VerifierPool, rows, wave: engine.Wave, *, temperature: float, root: jax.Array, version: int
) -> Judged:
  """Samples from a wave of prompts and judges each response as it finishes.

  Args:
    run: programs, tokenizer and settings.
    params: the rollout's copy of the weights.
    pool: open.
    rows: P rows, one for each prompt of the wave.
    wave: prompts, group and budget.
    temperature: 0 for argmax, without truncation; else with the settings' top-p, top-k and min-p.
    root: typed PRNG key.
    version: updates that params have seen.
  """
  shape = run.settings.rollout
  slots = len(rows) * wave.group
  asked: list[tuple | None] = [None] * slots
  futures: list[Future | None] = [None] * slots

  def on_finished(indices, tokens, lengths, stop):
    for slot in indices:
      row, finished = rows[slot // wave.group], int(stop[slot]) == STOP_TOKEN
      response = run.tokenizer.decode(tokens[slot, : lengths[slot]].tolist())
      asked[slot] = (row, response, finished, int(lengths[slot]))
      futures[slot] = pool.submit(item(row, response, finished))

  truncation = dict(top_p=shape.top_p, top_k=shape.top_k, min_p=shape.min_p) if temperature > 0 else {}
  state = engine.run(
    run.programs.rollout, params, wave, engine.uniform_sampling(slots, temperature=temperature, **truncation),
    root=root, version=version, stop_ids=run.tokenizer.stop_ids, chunk=shape.chunk, cache_bucket=shape.cache_bucket,
    on_finished=on_finished,
  )  # fmt: skip
  began = time.perf_counter()
  samples = [Sample(*told, future.result()) for told, future in zip(asked, futures, strict=True)]
  if run.settings.rewards.require_finished:
    samples = [sample if sample.finished else cut_off(sample) for sample in samples]
  return Judged(state, samples, time.perf_counter() - began)


def cut_off(sample: Sample) -> Sample:
  """The sample judged wrong, whatever it says, because its budget ended it; its manner is still counted."""
  return sample._replace(verdict=Verdict(0.0, "wrong", detail="cut off by its token budget", parts=sample.verdict.parts))


class Collector:
  """The stream of training prompts and the place reached in it.

  Attributes:
    next_visit: the first visit_id of the next step; all that a checkpoint keeps.
  """

  def __init__(self, run: Run, pool: VerifierPool, *, next_visit: int = 0):
    self._run, self._pool = run, pool
    self._stream = PromptStream(run.rows.train, seed=run.settings.seed)
    self._root = jax.random.fold_in(jax.random.key(run.settings.seed), 2)
    self.next_visit = next_visit

  @property
  def fingerprint(self) -> str:
    """Of the training rows and their order, the held-out rows and the tokenizer; a resumed run must find the same."""
    held_out = [self._run.rows.validation, self._run.rows.test]
    told = json.dumps([self._stream.fingerprint, self._run.tokenizer.fingerprint, held_out], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()

  def collect(self, params, step: int) -> Collected:
    """One step's rollouts.

    Args:
      params: the policy's master weights.
      step: updates they have seen.

    Raises:
      UserError: more samples without a verdict than `rewards.max_unjudged` allows.
    """
    shape = self._run.settings.rollout
    began = time.perf_counter()
    prompts = self._next_prompts()
    wave = engine.Wave(prompts.tokens, prompts.lengths, prompts.visit_ids.astype(np.int32), shape.group, shape.max_new_tokens)
    judged = judged_wave(
      self._run, self._run.programs.rollout.prepare(params), self._pool, prompts.rows, wave,
      temperature=shape.temperature, root=self._root, version=step,
    )  # fmt: skip
    rewards, valid = rewards_of(judged.samples)
    if self._run.settings.rewards.shuffle:
      order = np.random.default_rng([self._run.settings.seed, self.next_visit]).permutation(rewards.size)
      rewards, valid = rewards[order], valid[order]
    groups = (shape.prompts, shape.group)
    numbers = statistics(judged.samples, rewards.reshape(groups), valid.reshape(groups))
    check_judged(judged.samples, self._run.settings.rewards.max_unjudged)
    seconds = time.perf_counter() - began
    numbers |= {
      "prompts/truncated": len(prompts.truncated),
      "prompts/dropped": len(prompts.dropped),
      "time/rollout": seconds,
      "time/reward_wait": judged.reward_wait,
      "perf/rollout_tokens_per_second": sum(sample.tokens for sample in judged.samples) / seconds,
    }
    rollouts = self._rollouts(wave, judged.state, rewards.reshape(groups), valid.reshape(groups))
    width, layout = self._shape(wave, np.array([sample.tokens for sample in judged.samples]))
    return Collected(rollouts, width, layout, judged.samples, numbers)

  def _shape(self, wave: engine.Wave, written: np.ndarray) -> tuple[int, Layout | None]:
    """Completion columns of the batch, and its layout. Packed, columns cost nothing, and one width is one program."""
    shape = self._run.settings.rollout
    packed = self._run.settings.train.row_tokens > 0
    width = wave.budget if packed else engine.width(int(written.max()), shape.chunk, wave.budget)
    prompts = np.repeat(wave.lengths, wave.group)
    return width, layout_of(self._run, "train", prompts, prompts + written, wave.prompts.shape[1] + width)

  def _next_prompts(self):
    """The next P prompts that fit; dropped ones are replaced by the prompts that follow them in the stream."""
    shape = self._run.settings.rollout
    wanted = list(visits(self.next_visit, shape.prompts))
    dropped = []
    while True:
      packed = pack_prompts(
        self._run.tokenizer, self._stream.rows(wanted), wanted,
        bucket=shape.prompt_bucket, max_length=shape.max_prompt_tokens, policy=shape.long_prompts,
      )  # fmt: skip
      dropped += packed.dropped
      if len(dropped) > 10 * shape.prompts + len(self._stream):
        raise UserError(
          f"no prompt of the training data has at most {shape.max_prompt_tokens} tokens; raise config.rollout.max_prompt_tokens"
        )
      following = wanted[-1] + 1
      wanted = [visit for visit in wanted if visit not in packed.dropped]
      wanted += range(following, following + shape.prompts - len(wanted))
      if not packed.dropped:
        self.next_visit = following
        return packed._replace(dropped=tuple(dropped))

  def _rollouts(self, wave, state: DecodeState, rewards, judged) -> Rollouts:
    groups = lambda x: x.reshape(len(wave.lengths), wave.group, *x.shape[1:])
    return Rollouts(
      prompts=wave.prompts, prompt_lengths=wave.lengths, visit_ids=wave.visit_ids,
      tokens=groups(state.tokens), lengths=groups(state.lengths), logprobs=groups(state.logprobs),
      log_mass=groups(state.log_mass), versions=groups(state.versions), stop=groups(state.stop),
      rewards=rewards, judged=judged,
    )  # fmt: skip


def check_judged(samples: list[Sample], most: float) -> None:
  """Raises UserError when more than the share `most` of the samples have no verdict."""
  faults = [sample.verdict for sample in samples if sample.verdict.reward is None]
  if len(faults) > most * len(samples):
    raise UserError(
      f"{len(faults) / len(samples):.0%} of {len(samples)} samples have no verdict, expected at most {most:.0%} "
      f"(rewards.max_unjudged); the first: {faults[0].status}, {faults[0].detail}"
    )


def rewards_of(samples: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
  """(rewards [B] float32, judged [B] bool); a sample without a verdict has reward 0 and judged False."""
  rewards = np.array([sample.verdict.reward or 0.0 for sample in samples], np.float32)
  return rewards, np.array([sample.verdict.reward is not None for sample in samples])


def statistics(samples: list[Sample], rewards: np.ndarray, judged: np.ndarray) -> dict:
  """Numbers of judged samples, under the names practitioners know.

  Args:
    samples: B samples.
    rewards: [P, G] float32.
    judged: [P, G] bool.
  """
  lengths = np.array([sample.tokens for sample in samples])
  count = max(1, int(judged.sum()))
  spread = [float(np.std(group[valid])) for group, valid in zip(rewards, judged, strict=True) if valid.any()]
  numbers = {
    "reward": float(rewards[judged].sum()) / count,
    "reward_std": float(np.mean(spread)) if spread else 0.0,
    "frac_reward_zero_std": float(np.mean([value == 0 for value in spread])) if spread else 1.0,
    "pass_rate": float(np.mean([sample.verdict.status == "correct" for sample in samples])),
    "unjudged": 1.0 - float(judged.mean()),
    "completions/mean_length": float(lengths.mean()),
    "completions/max_length": int(lengths.max()),
    "completions/clipped_ratio": float(np.mean([not sample.finished for sample in samples])),
  }
  return numbers | manners(samples)


def manners(samples: list[Sample]) -> dict:
  """Share of worked answers and accuracy within each manner, for verifiers that tell worked from terse."""
  told = [
    (sample.verdict.parts["worked"] > 0, sample.verdict.status == "correct")
    for sample in samples
    if "worked" in sample.verdict.parts
  ]
  if not told:
    return {}
  worked, terse = [right for is_worked, right in told if is_worked], [right for is_worked, right in told if not is_worked]
  numbers = {"worked_share": len(worked) / len(samples)}
  numbers |= {f"accuracy_{name}": float(np.mean(rights)) for name, rights in (("worked", worked), ("terse", terse)) if rights}
  return numbers
