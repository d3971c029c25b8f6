"""Floor 3: the settings of a rollout, and the shapes that follow from them.

What enters: what a config says. What leaves: a frozen `RolloutConfig`, or one line that says what is wrong; `Shape`, the static
sizes that programs are compiled for; and the rule by which lengths become buckets.
"""

import dataclasses
import json
import math
from typing import NamedTuple

from jaxreason.errors import UserError
from jaxreason.model.quantized import KINDS

LONG_PROMPTS = ("truncate_left", "drop", "error")
SHARING = ("auto", "lanes", "copies")
MATMULS = ("compute", *KINDS)


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
  """Shapes, sampling and order of a rollout.

  Attributes:
    prompts: P, prompts of a training step.
    group: G, samples of each prompt.
    slots: samples that decode at the same time; 0 for all P x G. With fewer, a slot is filled again when its sample ends.
    max_new_tokens: T, completion budget in tokens; with an environment, of all turns and what it says between them.
    min_new_tokens: tokens before which no stop token is drawn.
    stop_strings: a text that ends a sample, or a JSON list of such texts; it stays in the text, what follows is cut.
    max_prompt_tokens: longest prompt; what is longer follows long_prompts.
    long_prompts: "truncate_left", "drop" or "error".
    chunk: K, tokens decoded between two looks of the host.
    prompt_bucket: prompts and extensions are padded to a bucket of this unit, see `bucketed`.
    cache_bucket: the cache's width is a bucket of this unit.
    matmul: of training samples: "compute", products in the model's compute dtype, or "int8" or "fp8", blocks' matrices and
      what they are multiplied with in eight bits (needs the package qwix). Updates, evaluation and the head stay as they are.
    replay_routing: of a mixture of experts: the experts of training samples are recorded, and updates take them again in the
      place of the routers' choice; see docs/moe.md.
    prefix_sharing: "lanes" of slots that read one prompt's keys and values, "copies" for each slot, or "auto" by shape.
    temperature: of training samples; the policy is the tempered distribution.
    top_p: 1.0 for off. Below 1 the sampler is not the policy; the record keeps the log of the kept mass.
    top_k: 0 for off.
    min_p: 0.0 for off.
    max_staleness: 0: every sample is written by the policy that it trains. n >= 1: unfinished samples live on across updates,
      and only so many groups are begun that none would be trained more than n updates after it began, if all took equally long.
    refresh_cache: at max_staleness >= 1, compute keys and values anew after each update instead of keeping the old policy's.
    max_age: at max_staleness >= 1, drop a group whose oldest token is more updates old than this; 0 for never. Dropping
      favours short answers; what is dropped is reported.
    oversample: groups begun for a batch, over prompts, at max_staleness 0; what is begun in vain is reported.
    refill_zero_variance: groups whose rewards are all the same are replaced by further prompts (dynamic sampling, DAPO).
    max_waves: how often a batch is filled up with further prompts before it takes what it has.
    order: "stream", or "difficulty": prompts that the policy solves about half the time come first.
    max_solve_rate: prompts of which 16 answers or more were judged, and this share of them right, leave the pool (no positive
      resampling, ScaleRL); 1.0: none.
    environment: of several turns, the name of one in `environments` or a module of your own, package.module; empty for a
      single answer.
    turn_discount: γ of the rewards of later turns.
  """

  prompts: int = 32
  group: int = 8
  slots: int = 0
  max_new_tokens: int = 256
  min_new_tokens: int = 0
  stop_strings: str = ""
  max_prompt_tokens: int = 256
  long_prompts: str = "error"
  chunk: int = 16
  prompt_bucket: int = 16
  cache_bucket: int = 64
  matmul: str = "compute"
  replay_routing: bool = False
  prefix_sharing: str = "auto"
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  min_p: float = 0.0
  max_staleness: int = 0
  refresh_cache: bool = False
  max_age: int = 0
  oversample: float = 1.0
  refill_zero_variance: bool = False
  max_waves: int = 10
  order: str = "stream"
  max_solve_rate: float = 1.0
  environment: str = ""
  turn_discount: float = 1.0

  def __post_init__(self):
    for name, least in _LEAST.items():
      if not getattr(self, name) >= least:
        raise UserError(f"rollout.{name} expected at least {least}, got {getattr(self, name)}")
    choices = {"long_prompts": LONG_PROMPTS, "prefix_sharing": SHARING, "order": ("stream", "difficulty"), "matmul": MATMULS}
    for name, valid in choices.items():
      if getattr(self, name) not in valid:
        raise UserError(f"rollout.{name} expected {', '.join(valid[:-1])} or {valid[-1]}, got {getattr(self, name)!r}")
    _ = self.stops  # told now if it cannot be read
    if self.temperature <= 0:
      raise UserError(f"rollout.temperature expected > 0 to train on samples, got {self.temperature}")
    if not (0 < self.top_p <= 1 and self.top_k >= 0 and 0 <= self.min_p < 1):
      raise UserError(
        f"rollout expected top_p in (0, 1], top_k >= 0, min_p in [0, 1), got {self.top_p}, {self.top_k} and {self.min_p}"
      )
    for name in ("turn_discount", "max_solve_rate"):
      if not 0 < getattr(self, name) <= 1:
        raise UserError(f"rollout.{name} expected in (0, 1], got {getattr(self, name)}")
    if self.min_new_tokens > self.max_new_tokens:
      most = self.max_new_tokens
      raise UserError(f"rollout.min_new_tokens expected at most max_new_tokens={most}, got {self.min_new_tokens}")
    if self.max_staleness and self.oversample > 1:
      raise UserError(
        f"rollout.oversample expected 1 with max_staleness={self.max_staleness}, got {self.oversample}; without waves groups "
        "are begun as slots come free"
      )
    if self.turn_discount < 1 and not self.environment:
      raise UserError(f"rollout.turn_discount expected 1 without an environment, got {self.turn_discount}; there is one turn")
    if not self.max_staleness and (self.refresh_cache or self.max_age):
      raise UserError("rollout.max_staleness expected at least 1 with refresh_cache or max_age, got 0; no sample is that old")

  @property
  def stops(self) -> tuple[str, ...]:
    """The texts that end a sample."""
    if not self.stop_strings.startswith("["):
      return (self.stop_strings,) if self.stop_strings else ()
    try:
      texts = json.loads(self.stop_strings)
    except ValueError:
      texts = None
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
      raise UserError(f"rollout.stop_strings expected a text or a JSON list of texts, got {self.stop_strings!r}")
    return tuple(texts)

  @property
  def truncates(self) -> bool:
    """Whether the sampler is not the policy."""
    return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


_LEAST = {
  "prompts": 1, "group": 1, "slots": 0, "max_new_tokens": 1, "min_new_tokens": 0, "max_prompt_tokens": 1, "chunk": 1,
  "prompt_bucket": 1, "cache_bucket": 1, "max_staleness": 0, "max_age": 0, "oversample": 1, "max_waves": 1,
}  # fmt: skip


class Shape(NamedTuple):
  """Static sizes of a rollout's programs."""

  slots: int  # B
  lane: int  # g, slots that read one prompt; 1: each has its copy
  budget: int  # T, tokens
  chunk: int  # K, tokens
  insert: tuple[int, ...]  # R, rows of an insertion or of an extension of slots; the least that holds what there is
  prefill: tuple[int, ...]  # R, prompts of a prefill
  prompt_bucket: int
  cache_bucket: int
  ahead: int  # chunks dispatched before the host looks at one


def shape_of(config: RolloutConfig, *, slots: int, group: int, samples: int | None, shards: int, ahead: int) -> Shape:
  """The sizes for a number of slots.

  Args:
    config: its buckets, budget and prefix_sharing are read.
    slots: wanted; rounded up to whole lanes on every device.
    group: G, samples of each prompt.
    samples: how many there will be in all; None where there is no end.
    shards: devices that the slots are spread over.
    ahead: 1 where device and host work side by side, 0 where they are the same processors.
  """
  lane = lane_of(config, group=group, waits=samples is None or slots < samples, shards=shards, slots=slots)
  B = _up(slots, lane * shards)
  parts = lambda whole: tuple(sorted({_up(-(-whole // 8), shards), _up(whole, shards)}))
  return Shape(
    slots=B, lane=lane, budget=config.max_new_tokens, chunk=config.chunk, insert=parts(B), prefill=parts(-(-B // group)),
    prompt_bucket=config.prompt_bucket, cache_bucket=config.cache_bucket, ahead=ahead,
  )  # fmt: skip


def lane_of(config: RolloutConfig, *, slots: int, group: int, waits: bool, shards: int) -> int:
  """g, slots that read one prompt: G or a divisor of it, so that whole lanes fit on every device.

  A lane takes its next prompt when its last slot has ended, so where samples wait for slots, some slots wait for samples.
  "auto" then shares prompts only where they outweigh completions; where every sample has a slot of its own, all are shared.
  """
  if config.prefix_sharing == "copies":
    return 1
  if config.prefix_sharing == "auto" and waits and config.max_prompt_tokens < 2 * config.max_new_tokens:
    return 1
  return math.gcd(group, max(1, slots // shards))


def bucketed(length: int, unit: int, steps: int = 2) -> int:
  """The least number of units that holds `length`, of those with so many steps to a doubling: with two 1, 2, 3, 4, 6, 8, ...
  units. Few sizes are compiled, and few slots are blank."""
  units = max(1, -(-length // unit))
  return unit * _up(units, max(1, (1 << (units - 1).bit_length()) // (2 * steps)))


def width(longest: int, multiple: int, budget: int) -> int:
  """The least multiple of `multiple`, within the budget, that holds completions of `longest` tokens."""
  return min(budget, max(1, -(-longest // multiple)) * multiple)


def _up(value: int, multiple: int) -> int:
  return -(-value // multiple) * multiple
