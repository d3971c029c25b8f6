"""Floor 1: the nouns that travel between rooms.

What a rollout writes, what an update reads, and the state that a run carries. Records are frozen pytrees; a field's shape
is on its line. A group is a static axis [P, G] with a validity mask, and masks and stop reasons are data that the rollout
writes: nothing is inferred from padding. B sequences = P prompts x G samples, T completion tokens, S whole sequence.
"""

from typing import Any, NamedTuple

import jax
from flax import struct

# Why a sample ended; RUNNING and IDLE are only seen between decode chunks. The host finds stop strings, the device the others.
RUNNING, STOP_TOKEN, BUDGET, STOP_STRING, IDLE = 0, 1, 2, 3, 4


@struct.dataclass
class Rollouts:
  """G samples of each of P prompts, as the device wrote them and the verifiers judged them."""

  prompts: Any  # [P, Tp] int32, right-padded
  prompt_lengths: Any  # [P] int32, tokens
  visit_ids: Any  # [P] int32, the prompt's position in the endless stream
  tokens: Any  # [P, G, T] int32, the stop token included
  lengths: Any  # [P, G] int32, tokens
  logprobs: Any  # [P, G, T] float32, nats, of the tempered policy at sampling time
  log_mass: Any  # [P, G, T] float32, nats, log of the mass that truncation kept
  versions: Any  # [P, G, T] int32, updates the policy had seen when it wrote the token
  own: Any  # [P, G, T] bool, the tokens that the policy wrote; the others an environment said
  stop: Any  # [P, G] int32, STOP_TOKEN, BUDGET or STOP_STRING
  rewards: Any  # [P, G] float32 in [0, 1]; of several turns, their discounted sum
  judged: Any  # [P, G] bool, False where no verdict could be given
  step_values: Any = None  # [P, G, T] float32, of the step of the working that a token belongs to; when the objective reads it
  experts: Any = None  # [P, G, Tp + T, L·k] int16, those of each token of prompt and completion, -1 for none; when replayed


class Layout(NamedTuple):
  """Where samples lie in packed rows; see `packing`. Micro-batch m has samples m·n to m·n + n and rows m·R to m·R + R."""

  rows: Any  # [M·R, W] int32: i·S + t for token t of the micro-batch's sample i, n·S for padding
  prompt_of: Any  # [B] int32: the micro-batch's sample whose copy of the prompt this one reads, often itself
  seen: Any = None  # [M·R, Q, C] int32: blocks of columns that hold what each block sees, Q for none; None: anything may


@struct.dataclass
class Batch:
  """B samples of one update. Token t of a completion sits in column prompt_lengths + t."""

  tokens: Any  # [B, S] int32, prompt then completion, right-padded
  prompt_lengths: Any  # [B] int32, tokens, at least 1
  lengths: Any  # [B] int32, tokens of prompt and completion
  mask: Any  # [B, T] bool, the completion tokens that are trained on
  behavior_logprobs: Any  # [B, T] float32, nats; zeros in supervised batches
  advantages: Any  # [B, T] float32
  counted: Any = None  # [B] bool, the samples that the loss and its denominator count; None: all
  prompt_tokens: Any = None  # [B] float32, counted tokens in all answers to the sample's prompt; of rollouts
  reference_logprobs: Any = None  # [B, T] float32, nats, when the objective has a KL term
  old_logprobs: Any = None  # [B, T] float32, nats, of the policy before the batch's first update, when it has several
  teacher_logprobs: Any = None  # [B, T] float32, nats, when the objective distils
  values: Any = None  # [B, T] float32, the critic's, before each token; when there is a critic
  returns: Any = None  # [B, T] float32, what the critic learns; when there is a critic
  step_advantages: Any = None  # [B, T] float32, what steps of the working add; when advantages are made anew, see Objective
  kept: Any = None  # [B, T] bool, the tokens that have a surrogate, where `objective.choose` has chosen; None: all
  chosen: Any = None  # [B, T] bool, the tokens that clip_cov and kl_cov treat otherwise
  margin: Any = None  # [B] float32, of pairs: how much more the preferred answer should score, the same for both of a pair
  experts: Any = None  # [B, S, L·k] int16, those that the policy's routers take, -1 for their own choice; when replayed
  layout: Layout | None = None  # None: each sample is computed in a row of its own


@struct.dataclass
class CriticState:
  """A critic and its optimizer."""

  params: Any  # a `critic.Critic` of float32 master weights
  opt_state: Any  # optax state


@struct.dataclass
class TrainState:
  """What an update changes. Everything else that a run needs to go on is host data beside it in the checkpoint."""

  params: Any  # tree of float32 master weights, those that are trained
  opt_state: Any  # optax state
  step: jax.Array  # [] int32, updates done in this phase, skipped ones included
  skipped: jax.Array  # [] int32, updates skipped: a gradient that was not finite, or no token to train on
  critic: CriticState | None = None  # when the objective needs one
  average: Any = None  # tree of float32, the exponential average of params, when one is kept
  base: Any = None  # the weights that are not trained, where params are adapters; they are in no checkpoint

  @property
  def policy(self) -> Any:
    """All weights, as they are trained."""
    return joined(self.params, self.base)

  @property
  def judge(self) -> Any:
    """All weights of the critic, whose decoder has the policy's base where that is not trained."""
    return joined(self.critic.params, self.base and self.critic.params.replace(trunk=self.base.replace(head=None), value=None))

  @property
  def model(self) -> Any:
    """The weights that are evaluated and exported: with the average where one is kept."""
    return joined(self.params if self.average is None else self.average, self.base)


def joined(trained, base):
  """One tree of two that have None where the other has something; `trained` itself where there is no base."""
  if base is None:
    return trained
  absent = lambda leaf: leaf is None
  return jax.tree.map(lambda leaf, other: other if leaf is None else leaf, trained, base, is_leaf=absent)
