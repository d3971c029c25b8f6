"""Floor 4: what a step's samples amount to, as arrays and under the names practitioners know.

What enters: judged samples. What leaves: the record of a batch, and numbers. P prompts x G samples = B.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxreason.data.prompts import right_padded
from jaxreason.data.spans import token_values
from jaxreason.data.tokenizer import Tokenizer
from jaxreason.errors import UserError
from jaxreason.groups import Judged, Sample
from jaxreason.records import Rollouts
from jaxreason.rollout.config import RolloutConfig, bucketed

# Samples whose oldest token is n updates old are counted by n up to here.
_AGES = 4
# The most names of parts that are logged: a verifier that makes up names shall not fill the log.
_PARTS = 64


def arrays(
  batch: Sequence[Judged], rewards: np.ndarray, judged: np.ndarray, shape: RolloutConfig, tokenizer: Tokenizer | None = None
) -> Rollouts:
  """The record of a batch, on the host.

  Args:
    batch: P groups.
    rewards: [P, G] float32.
    judged: [P, G] bool.
    shape: budget and buckets.
    tokenizer: where the objective reads the values of steps; None leaves them out.
  """
  prompts = [one.group.prompt for one in batch]
  written = [sample.written for one in batch for sample in one.samples]
  groups = (len(batch), shape.group)

  def padded(name: str):
    parts = [getattr(one.record, name) for one in written]
    filled = np.zeros((len(parts), shape.max_new_tokens), parts[0].dtype)
    for row, part in zip(filled, parts, strict=True):
      row[: len(part)] = part
    return filled.reshape(*groups, -1)

  def experts(columns: int):
    filled = np.full((len(written), columns, written[0].record.experts.shape[1]), -1, np.int16)
    for row, one in zip(filled, written, strict=True):
      before = len(one.prompt_experts)
      row[:before], row[before : before + len(one.record.tokens)] = one.prompt_experts, one.record.experts
    return filled.reshape(*groups, *filled.shape[1:])

  def steps():
    filled = np.zeros((len(written), shape.max_new_tokens), np.float32)
    for row, sample in zip(filled, (sample for one in batch for sample in one.samples), strict=True):
      tokens = sample.written.record.tokens
      row[: len(tokens)] = token_values(tokenizer, tokens, sample.verdict.spans)
    return filled.reshape(*groups, -1)

  columns = bucketed(max(map(len, prompts)), shape.prompt_bucket)
  return Rollouts(
    prompts=right_padded(prompts, columns, 0),
    prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
    visit_ids=np.array([one.group.visit for one in batch], np.uint32).astype(np.int32),
    lengths=np.array([len(one.record.tokens) for one in written], np.int32).reshape(groups),
    stop=np.array([one.stop for one in written], np.int32).reshape(groups),
    rewards=rewards, judged=judged, step_values=tokenizer and steps(),
    experts=None if written[0].record.experts is None else experts(columns + shape.max_new_tokens),
    **{name: padded(name) for name in ("tokens", "logprobs", "log_mass", "versions", "own")},
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
  rewards = np.array([sample.reward or 0.0 for sample in samples], np.float32)
  return rewards, np.array([sample.reward is not None for sample in samples])


def statistics(samples: list[Sample], rewards: np.ndarray, judged: np.ndarray) -> dict:
  """Rewards, lengths and shares.

  Args:
    samples: B samples.
    rewards: [P, G] float32.
    judged: [P, G] bool.
  """
  lengths = np.array([sample.tokens for sample in samples])
  numbers = of_rewards(rewards, judged) | {
    "pass_rate": float(np.mean([sample.verdict.solved for sample in samples])),
    "unjudged": 1.0 - float(judged.mean()),
    "completions/mean_length": float(lengths.mean()),
    "completions/max_length": int(lengths.max()),
    "completions/clipped_ratio": float(np.mean([not sample.finished for sample in samples])),
  }
  if any(sample.turns > 1 for sample in samples):
    numbers["turns"] = float(np.mean([sample.turns for sample in samples]))
  return numbers | verdicts_of(samples) | parts_of(samples) | manners(samples)


def of_rewards(rewards: np.ndarray, judged: np.ndarray) -> dict:
  """Mean of [P, G] rewards, mean of the groups' spreads, and the share of groups without any."""
  spread = [float(np.std(group[valid])) for group, valid in zip(rewards, judged, strict=True) if valid.any()]
  return {
    "reward": float(rewards[judged].sum()) / max(1, int(judged.sum())),
    "reward_std": float(np.mean(spread)) if spread else 0.0,
    "frac_reward_zero_std": float(np.mean([value == 0 for value in spread])) if spread else 1.0,
  }


def parts_of(samples: Sequence[Sample]) -> dict:
  """reward/parts/NAME/mean of what verdicts say beside their reward, each over the samples that have it."""
  found: dict[str, list[float]] = {}
  for sample in samples:
    for name, value in sample.verdict.parts.items():
      found.setdefault(name, []).append(value)
  return {f"reward/parts/{name}/mean": float(np.mean(found[name])) for name in sorted(found)[:_PARTS]}


def verdicts_of(samples: Sequence[Sample]) -> dict:
  """verdicts/VERIFIER/STATUS, how many samples got which."""
  counts = Counter(f"verdicts/{sample.row['verifier']}/{sample.verdict.status}" for sample in samples)
  return dict(sorted(counts.items()))


def latencies(stats: dict) -> dict:
  """Of `VerifierPool.stats`: time/verifiers/NAME/p50_s, p95_s, max_s, and perf/workers/EVENT, how often workers did what."""
  found = {
    f"time/verifiers/{name}/{which}": value
    for name, told in sorted(stats["verifiers"].items())
    for which, value in told.items()
    if which.endswith("_s")
  }
  return found | {f"perf/workers/{event}": count for event, count in sorted(stats["workers"].items())}


def oldest(samples: Sequence[Sample]) -> int:
  """The fewest updates that the policy had seen when it wrote one of the samples' tokens."""
  return min(int(record.versions[record.own].min()) for record in (sample.written.record for sample in samples))


def ages(samples: Sequence[Sample], step: int) -> dict:
  """How many updates old the samples are that an update after `step` of them trains on: mean of their tokens' ages, and shares
  of samples by the age of their oldest token."""
  versions = [record.versions[record.own] for record in (sample.written.record for sample in samples)]
  age = np.array([step - int(one.min()) for one in versions])
  if not age.any():
    return {"staleness/mean": 0.0}
  shares = {f"staleness/samples_{n}": float(np.mean(age == n)) for n in range(_AGES)}
  shares[f"staleness/samples_{_AGES}_or_more"] = float(np.mean(age >= _AGES))
  return {"staleness/mean": float(step - np.concatenate(versions).mean()), "staleness/max": int(age.max())} | shares


def manners(samples: list[Sample]) -> dict:
  """Share of worked answers and accuracy within each manner, for verifiers that tell worked from terse."""
  told = [
    (sample.verdict.parts["worked"] > 0, sample.verdict.solved)
    for sample in samples
    if "worked" in sample.verdict.parts
  ]
  if not told:
    return {}
  worked, terse = [right for is_worked, right in told if is_worked], [right for is_worked, right in told if not is_worked]
  numbers = {"worked_share": len(worked) / len(samples)}
  numbers |= {f"accuracy_{name}": float(np.mean(rights)) for name, rights in (("worked", worked), ("terse", terse)) if rights}
  return numbers
