"""Floor 5, command line: `jaxreason generate`.

What enters: a run or a model, and one prompt. What leaves: the completion on standard output, and nothing else there.
"""

import argparse
import math
import sys

import jax
import numpy as np

from jaxreason.cli import devices as platforms
from jaxreason.cli import source
from jaxreason.cli.source import Policy
from jaxreason.errors import UserError
from jaxreason.report.display import display
from jaxreason.rollout import engine


def command(arguments: argparse.Namespace) -> int:
  """Prints one completion."""
  if not (math.isfinite(arguments.temperature) and arguments.temperature >= 0):
    raise UserError(f"--temperature expected 0 or more, got {arguments.temperature}")
  if not 0 <= arguments.seed < 2**32:
    raise UserError(f"--seed expected in [0, 2^32), got {arguments.seed}")
  chosen = source.choose(arguments)
  shape = chosen.settings.rollout
  budget = shape.max_new_tokens if arguments.max_new_tokens is None else arguments.max_new_tokens
  if budget < 1:
    raise UserError(f"--max-new-tokens expected at least 1, got {budget}")
  prompt = sys.stdin.read().rstrip("\n") if arguments.prompt is None else arguments.prompt
  if not prompt:
    raise UserError("--prompt expected some text, got none; give it as --prompt=TEXT or on standard input")
  with display({}, quiet=arguments.quiet, stream=sys.stderr) as show:
    policy = source.open_policy(chosen, lambda: platforms.start(arguments.platform, show.say))
    sampling = engine.uniform_sampling(1, temperature=arguments.temperature, **_truncation(arguments, shape))
    ids = complete(policy, prompt, sampling, budget=budget, shape=shape, seed=arguments.seed)
  print(policy.tokenizer.decode(ids))
  return 0


def complete(policy: Policy, prompt: str, sampling, *, budget: int, shape: engine.RolloutConfig, seed: int) -> list[int]:
  """Token ids of one completion, its stop token included.

  Args:
    policy: of `source.open_policy`.
    prompt: put through the tokenizer's template as a row's prompt is.
    sampling: arrays [1].
    budget: tokens.
    shape: chunk and buckets.
    seed: names the draw.

  Raises:
    UserError: the prompt has characters the tokenizer does not know, or is too long for the model together with the budget.
  """
  ids = policy.tokenizer.render(prompt)
  if len(ids) + budget > policy.config.max_positions:
    raise UserError(
      f"--prompt of {len(ids)} tokens and a budget of {budget} expected to fit into the model's "
      f"{policy.config.max_positions} positions; shorten one of them"
    )
  padded = np.full((1, -(-len(ids) // shape.prompt_bucket) * shape.prompt_bucket), policy.tokenizer.pad_id, np.int32)
  padded[0, : len(ids)] = ids
  wave = engine.Wave(padded, np.array([len(ids)], np.int32), np.zeros(1, np.int32), group=1, budget=budget)
  programs = policy.programs.rollout
  with jax.set_mesh(policy.mesh):
    state = engine.run(
      programs, programs.prepare(policy.params), wave, sampling, root=jax.random.key(seed), version=0,
      stop_ids=policy.tokenizer.stop_ids, chunk=shape.chunk, cache_bucket=shape.cache_bucket, on_finished=lambda *_: None,
    )  # fmt: skip
  tokens, lengths = jax.device_get((state.tokens, state.lengths))
  return tokens[0, : lengths[0]].tolist()


def _truncation(arguments: argparse.Namespace, shape: engine.RolloutConfig) -> dict:
  return dict(top_p=shape.top_p, top_k=shape.top_k, min_p=shape.min_p) if arguments.temperature > 0 else {}
