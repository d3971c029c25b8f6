"""Floor 4: what settings may be, and what goes together; that which no single section can see.

What enters: typed `settings.RunSettings`. What leaves: nothing, or a UserError of one line. No file is read.
"""

import dataclasses
import functools
import math

from jaxreason.errors import UserError, nearest
from jaxreason.objective.loss import RATIO_FREE
from jaxreason.rewards.compose_verifier import parts_of
from jaxreason.rewards.sandbox import BACKENDS
from jaxreason.rewards.wire import address

# Setting, least and most; each room checks the bounds of its own dataclass itself.
BOUNDS = (
  ("seed", 0, 2**32 - 2),  # the supervised stream is drawn under the next one
  ("rollout.top_k", 0, 2**31 - 1),
  ("data.train_rows", 0, math.inf),
  ("sft.steps", 0, math.inf),
  ("sft.batch", 1, math.inf),
  ("sft.rows", 0, math.inf),
  ("sft.max_tokens", 1, math.inf),
  ("sft.micro_batches", 1, math.inf),
  ("sft.row_tokens", 0, math.inf),
  ("preference.steps", 0, math.inf),
  ("preference.batch", 1, math.inf),
  ("preference.max_tokens", 1, math.inf),
  ("preference.micro_batches", 1, math.inf),
  ("preference.row_tokens", 0, math.inf),
  ("train.steps", 0, math.inf),
  ("train.epochs", 1, math.inf),
  ("train.minibatches", 1, math.inf),
  ("train.max_kl", 0, math.inf),
  ("train.old_policy_tolerance", 0, math.inf),
  ("train.micro_batches", 1, math.inf),
  ("train.row_tokens", 0, math.inf),
  ("train.chunk_tokens", 1, math.inf),
  ("train.save_every", 1, math.inf),
  ("train.save_minutes", 0, math.inf),
  ("train.stall_seconds", 0, math.inf),
  ("train.keep", 1, math.inf),
  ("reference.sync_every", 0, math.inf),
  ("reference.sync_mix", 0, 1),
  ("rewards.workers", 0, math.inf),
  ("rewards.deadline_s", 0.001, math.inf),
  ("rewards.memory_mb", 64, math.inf),
  ("rewards.max_unjudged", 0, 1),
  ("rewards.judge.solved_from", 0, 1),
  ("rewards.model.weight", 0, 1),
  ("rewards.judge.timeout_s", 0.001, math.inf),
  ("rewards.judge.tries", 1, 100),
  ("rewards.judge.deadline_s", 0.001, math.inf),
  ("rewards.judge.max_tokens", 1, math.inf),
  ("evaluation.problems", 1, math.inf),
  ("evaluation.samples", 1, math.inf),
  ("evaluation.every", 0, math.inf),
)


MEMORIES = ("device", "host")
# Surrogates whose trust region lies around the policy that the ratio is taken to.
AROUND_THE_ANCHOR = ("clipped", "gspo", "gspo_token", "gmpo", "luspo", "clip_cov", "sapo")


def check(settings) -> None:
  """Raises UserError, one line, for a value out of bounds or for settings that contradict one another."""
  for name, least, most in BOUNDS:
    value = functools.reduce(lambda section, part: vars(section)[part], name.split("."), settings)
    if not least <= value <= most:  # nan is out of all bounds
      raise UserError(
        f"config.{name} expected at least {least}{f' and at most {most}' if most < math.inf else ''}, got {value}"
      )
  if not settings.model.rope_theta > 0:
    raise UserError(f"config.model.rope_theta expected > 0, got {settings.model.rope_theta}")
  if settings.model.attention not in ("auto", "einsum"):
    raise UserError(f"config.model.attention expected auto or einsum, got {settings.model.attention!r}")
  if settings.rewards.sandbox not in BACKENDS:
    hint = nearest(settings.rewards.sandbox, BACKENDS)
    raise UserError(f"config.rewards.sandbox expected {', '.join(BACKENDS)}, got {settings.rewards.sandbox!r}{hint}")
  if settings.data.task != "files" and settings.data.train_rows < 1:
    raise UserError(f"config.data.train_rows expected at least 1 for a generated task, got {settings.data.train_rows}")
  if not 0 <= settings.train.average_decay < 1:
    raise UserError(f"config.train.average_decay expected in [0, 1), got {settings.train.average_decay}")
  for name, value in (("train.moments", settings.train.moments), ("reference.memory", settings.reference.memory)):
    if value not in MEMORIES:
      raise UserError(f"config.{name} expected one of {', '.join(MEMORIES)}, got {value!r}{nearest(value, MEMORIES)}")
  prompts, group, minibatches = settings.rollout.prompts, settings.rollout.group, settings.train.minibatches
  if prompts % minibatches:
    raise UserError(
      f"config.train.minibatches={minibatches} expected to divide rollout.prompts={prompts}, for a group is in one minibatch; "
      f"make it a divisor of {prompts}"
    )
  told = f" (prompts={prompts} x group={group}{f', in {minibatches} minibatches' if minibatches > 1 else ''})"
  for name, size, parts in (
    ("train", prompts * group // minibatches, settings.train.micro_batches),
    ("sft", settings.sft.batch, settings.sft.micro_batches),
    ("preference", settings.preference.batch, settings.preference.micro_batches),
  ):
    if size % parts:
      raise UserError(
        f"config.{name}.micro_batches={parts} expected to divide {size} {'pairs' if name == 'preference' else 'sequences'}"
        f"{told if name == 'train' else ''}; "
        f"make it a divisor of {size}"
      )
  longest = settings.rollout.max_prompt_tokens + settings.rollout.max_new_tokens
  for name, given, needed, parts in (
    ("train", settings.train.row_tokens, longest, "rollout.max_prompt_tokens + max_new_tokens"),
    ("sft", settings.sft.row_tokens, settings.sft.max_tokens, "sft.max_tokens"),
    ("preference", settings.preference.row_tokens, settings.preference.max_tokens, "preference.max_tokens"),
  ):
    if 0 < given < needed:
      raise UserError(f"config.{name}.row_tokens expected 0 or at least {needed} ({parts}), got {given}; a sample must fit")
  if settings.train.steps and settings.objective.surrogate == "sft":
    raise UserError(
      "config.objective.surrogate expected a reinforcement-learning one, got 'sft'; set train.steps=0 and sft.steps instead"
    )
  _check_rewards(settings.rewards, settings.rollout)
  _check_updates(settings)
  _check_preference(settings)
  _check_rollout(settings.rollout, settings.objective)
  _check_objective(settings)


def _check_rewards(rewards, rollout) -> None:
  """That a composition is one, that a judge can be asked, and that nobody looks at rewards before a reward model has scored."""
  if not rewards.model.scale > 0:
    raise UserError(f"config.rewards.model.scale expected above 0, got {rewards.model.scale}")
  for name, value in (("rollout.refill_zero_variance", rollout.refill_zero_variance), ("rewards.shuffle", rewards.shuffle)):
    if rewards.model.source and value:
      raise UserError(f"config.{name} expected False with rewards.model, which scores after it, got True; leave one out")
  if rewards.compose and rollout.environment:
    raise UserError(
      f"config.rewards.compose expected empty with rollout.environment={rollout.environment!r}, whose own word rewards a "
      "dialogue; give the rows the verifier 'compose' with 'parts' among their fields instead"
    )
  try:
    if rewards.compose:
      parts_of(rewards.parts)
  except ValueError as error:
    raise UserError(f'config.rewards.compose expected a JSON list such as [{{"verifier": "row"}}]: {error}') from error
  judge = rewards.judge
  if judge.url and (fault := address(judge.url)):
    raise UserError(f"config.rewards.judge.url: {fault}, got {judge.url!r}")
  if bool(judge.url) != bool(judge.model):
    raise UserError("config.rewards.judge expected both url and model, or neither, got one of them; set the other")
  if not judge.lowest < judge.highest:
    raise UserError(f"config.rewards.judge.highest expected above lowest={judge.lowest}, got {judge.highest}")


def _check_updates(settings) -> None:
  """That nothing is asked of a batch's updates that they do not do."""
  train, several = settings.train, settings.train.epochs * settings.train.minibatches
  if train.max_kl and several == 1:
    raise UserError(
      f"config.train.max_kl expected 0 with one update a batch, which cannot have moved away, got {train.max_kl}; raise "
      "train.epochs or train.minibatches"
    )
  if settings.stage == "preference":
    for name, value, unset in (
      ("train.epochs", train.epochs, 1), ("train.minibatches", train.minibatches, 1),
      ("train.average_decay", train.average_decay, 0), ("reference.sync_every", settings.reference.sync_every, 0),
    ):  # fmt: skip
      if value != unset:
        raise UserError(f"config.{name} expected {unset} with preference.steps={settings.preference.steps}, where it is not "
                        f"read, got {value}; leave it out")  # fmt: skip


def _check_preference(settings) -> None:
  """That pairs which are too long are dealt with in a way there is, and margins are given to who reads them."""
  chosen, margin = settings.preference, settings.data.files.margin
  if chosen.long_pairs not in ("error", "drop"):
    raise UserError(f"config.preference.long_pairs expected error or drop, got {chosen.long_pairs!r}")
  if chosen.kind == "reward_model":
    unset = {field.name: field.default for field in dataclasses.fields(chosen)}
    for name in ("beta", "form", "divergence", "alpha", "per_token"):
      if vars(chosen)[name] != unset[name]:
        raise UserError(
          f"config.preference.{name} expected {unset[name]} with preference.kind reward_model, where it is not read, got "
          f"{vars(chosen)[name]}; leave it out"
        )
  if margin and chosen.kind != "reward_model":
    raise UserError(
      f"config.data.files.margin expected empty with preference.kind {chosen.kind}, which has no margin, got {margin!r}; leave "
      "it out, or train a reward_model"
    )
  if margin and settings.data.task != "files":
    raise UserError(
      f"config.data.files.margin expected empty with data.task {settings.data.task}, got {margin!r}; leave it out"
    )


def _check_rollout(rollout, objective) -> None:
  """That rewards of one prompt can differ where they must, and that stale samples are weighed as what they are."""
  if rollout.refill_zero_variance and rollout.group < 2:
    raise UserError(
      f"config.rollout.group expected at least 2 with refill_zero_variance, got {rollout.group}: the rewards of a prompt with "
      "one sample are always the same"
    )
  if rollout.max_staleness and objective.surrogate in AROUND_THE_ANCHOR and objective.proximal == "behavior":
    raise UserError(
      f"config.objective.proximal expected 'policy' with rollout.max_staleness={rollout.max_staleness}, got 'behavior', which "
      "clips stale samples as if they were the policy's own; use the recipe decoupled_ppo, or set proximal=policy and "
      "correction=truncated"
    )
  weighed = objective.proximal == "behavior" and objective.surrogate not in RATIO_FREE
  if rollout.max_staleness and objective.correction == "none" and not weighed:
    raise UserError(
      f"config.objective.correction expected truncated or masked with rollout.max_staleness={rollout.max_staleness}, got "
      f"'none': surrogate {objective.surrogate} with proximal={objective.proximal} does not weigh what an older policy wrote"
    )


def _check_objective(settings) -> None:
  """That what the objective needs is there, and that nothing is given in vain."""
  objective, group, shape = settings.objective, settings.rollout.group, settings.rollout
  if objective.replay_truncation and not shape.truncates:
    raise UserError(
      "config.objective.replay_truncation expected rollout.top_p, top_k or min_p to truncate, got none of them; "
      "set one, or replay_truncation=False"
    )
  if objective.replay_truncation and shape.min_new_tokens:
    raise UserError(
      "config.rollout.min_new_tokens expected 0 with objective.replay_truncation (the update does not replay which tokens "
      f"were not allowed yet), got {shape.min_new_tokens}; set one of them to its default"
    )
  if settings.train.steps and group < 2 and objective.compares_samples:
    raise UserError(
      f"config.rollout.group expected at least 2 (advantage {objective.advantage} compares samples of one prompt), got {group}"
    )
  if objective.needs_teacher and not settings.teacher.source:
    raise UserError(
      f"config.teacher.source expected a model to distil from (objective.distill_coef={objective.distill_coef}), got none; "
      "give a path or a hub id"
    )
  if settings.reference.sync_every and not objective.needs_reference:
    raise UserError(
      f"config.objective.kl_coef expected above 0 with config.reference.sync_every={settings.reference.sync_every}, got 0; "
      "there is no reference to move"
    )
  if settings.reference.sync_mix != 1 and not settings.reference.sync_every:
    raise UserError(
      f"config.reference.sync_every expected above 0 with config.reference.sync_mix={settings.reference.sync_mix}, got 0; the "
      "reference does not move"
    )
  if settings.reference.memory != "device" and not (objective.needs_reference or settings.preference.steps):
    raise UserError(
      f"config.objective.kl_coef expected above 0 with config.reference.memory={settings.reference.memory}, got 0; there is no "
      "reference to keep"
    )
  if settings.teacher.source and not objective.needs_teacher:
    raise UserError(
      f"config.objective.distill_coef expected above 0 with config.teacher.source={settings.teacher.source}, got 0; "
      "use the recipe opd, or leave the teacher out"
    )
