"""Floor 4: samples scored by a reward model, one more program of a step.

What enters: a `Run` whose settings name a model, and judged rollouts with their batch. What leaves: the rollouts with rewards
that are the verifiers' and the model's together, and numbers. P prompts x G samples = B.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxreason import build, passes, phases, processes, sharding, stored
from jaxreason.build import Run
from jaxreason.checkpoint import Checkpoints
from jaxreason.critic import Critic, like
from jaxreason.errors import UserError
from jaxreason.groups import Sample
from jaxreason.model import weights
from jaxreason.progress import saved_tree
from jaxreason.records import BUDGET, Batch, Rollouts, TrainState
from jaxreason.rollout_numbers import of_rewards


class Scorer(NamedTuple):
  """A reward model on the mesh."""

  params: Critic
  program: Callable[[Critic, Batch], Any]  # -> [B] float32


def open_scorer(run: Run) -> Scorer | None:
  """The reward model that the settings name, its weights read; None where they name none."""
  source, config = run.settings.rewards.model.source, run.reward_model
  if config is None:
    return None
  critic = _read(source, run)
  places = like(weights.shardings(config, run.mesh), sharding.replicated(run.mesh))
  parts = run.settings.train.micro_batches * run.settings.train.minibatches
  program = jax.jit(functools.partial(passes.scores, config=config, micro_batches=parts))
  return Scorer(jax.device_put(critic, places), program)


def _read(source: str, run: Run) -> Critic:
  """The weights of a reward model: of the newest checkpoint of the run that trained it, or of an exported directory."""
  if (trained := stored.reward_model(source)) is not None:
    config = build.model_config(trained.settings, build.load_tokenizer(trained.settings))
    params = phases.abstract_state(trained.settings, config, run.mesh, "preference").params
    with Checkpoints(trained.checkpoints, read_only=True) as checkpoints:
      tree = checkpoints.restore(saved_tree(TrainState(params, None, None, None)), trained.step, partial=True)[1]
    return tree["state"].params
  from jaxreason.model import hf

  trunk, score, _ = hf.load_reward_model(source)
  return like(trunk, score)


def rewarded(run: Run, scorer: Scorer, rollouts: Rollouts, batch: Batch) -> tuple[Rollouts, dict]:
  """The rollouts with what they are trained on, and the numbers that change with it.

    reward = (1 - w) verdict + w σ((score - centre) / scale)

  A sample without a verdict stays without, and one that its budget cut off stays at 0 where `rewards.require_finished` says so.

  Args:
    run: its settings are read.
    scorer: of `open_scorer`.
    rollouts: on the host, with the verifiers' rewards.
    batch: their samples.

  Raises:
    UserError: more samples without a verdict than `rewards.max_unjudged` allows, those to which the model gives no finite score
      among them.
  """
  chosen, judged = run.settings.rewards.model, np.asarray(rollouts.judged)
  scores = np.asarray(processes.fetched(scorer.program(scorer.params, batch)), np.float64).reshape(judged.shape)
  squashed = 1 / (1 + np.exp(-np.clip((scores - chosen.centre) / chosen.scale, -60, 60)))
  rewards = (1 - chosen.weight) * np.asarray(rollouts.rewards) + chosen.weight * squashed
  earns = judged & np.isfinite(scores)
  unjudged, most = 1.0 - float(earns.mean()), run.settings.rewards.max_unjudged
  if unjudged > most and not np.array_equal(earns, judged):
    raise UserError(
      f"{unjudged:.0%} of {earns.size} samples have no reward, expected at most {most:.0%} (rewards.max_unjudged): the reward "
      f"model {run.settings.rewards.model.source!r} gives {int((judged & ~earns).sum())} of them a score that is not finite"
    )
  counted = earns & (rollouts.stop != BUDGET) if run.settings.rewards.require_finished else earns
  rewards = np.where(counted, rewards, 0.0).astype(np.float32)
  numbers = of_rewards(rewards, earns) | {"unjudged": unjudged}
  if earns.any():
    numbers["reward/parts/reward_model/score"] = float(np.mean(scores[earns]))
    numbers["reward/parts/reward_model/mean"] = float(np.mean(squashed[earns]))
  return rollouts.replace(rewards=rewards, judged=earns), numbers


def trained_on(samples: Sequence[Sample], rollouts: Rollouts) -> list[Sample]:
  """The B samples with the rewards that the rollouts have, None where they have none."""
  pairs = zip(samples, np.ravel(rollouts.rewards).tolist(), np.ravel(rollouts.judged).tolist(), strict=True)
  return [sample._replace(reward=reward if judged else None) for sample, reward, judged in pairs]
