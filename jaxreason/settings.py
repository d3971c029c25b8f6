"""Floor 4: every setting of a run, its default and its check, as frozen dataclasses.

What enters: a ConfigDict made by a file in configs/ and changed by the command line. What leaves: a hashable `RunSettings`;
no ConfigDict goes further than `freeze`. The dataclasses are the one place where a setting and its default are written:
`default_config` turns them into the ConfigDict that config files start from.
"""

import dataclasses
import json
from typing import Any

import ml_collections

from jaxreason import limits, typed
from jaxreason.errors import UserError
from jaxreason.model.lora import Lora
from jaxreason.objective import Objective, PairObjective
from jaxreason.optimizer import OptimizerConfig
from jaxreason.recipes import recipe
from jaxreason.rewards.judge import Judge
from jaxreason.rollout.config import RolloutConfig
from jaxreason.sharding import MeshSizes
from jaxreason.task_settings import DataSettings


@dataclasses.dataclass(frozen=True)
class ModelSettings:
  """Where the weights come from. With a source, the checkpoint's own sizes count and those here are not read."""

  source: str = ""  # a Hugging Face directory or hub id, or a .gguf file; empty: random weights of the sizes below
  chat: bool = True  # of a source: prompts go through its chat template; False for base models, plain text
  embed: int = 128
  layers: int = 4
  heads: int = 4
  kv_heads: int = 4
  head_dim: int = 32
  mlp: int = 384
  experts: int = 0  # in the place of each block's MLP; 0: a dense model
  experts_per_token: int = 0
  expert_mlp: int = 0  # width of an expert
  normalize_routing: bool = True  # the weights of a token's experts are divided by their sum
  rope_theta: float = 10_000.0
  compute_dtype: str = "auto"  # auto: bfloat16 on accelerators, float32 on CPU
  head_dtype: str = "auto"  # of the product with the output matrix, everywhere | auto: the compute dtype | float32
  attention: str = "auto"  # of training: auto takes the kernel of the platform where there is one | einsum: plain XLA
  balance_coef: float = -1.0  # of the experts' load-balancing loss; below 0 the checkpoint's own, 0.001 without one
  remat: str = "none"  # what a backward pass computes again: none | block | dots | attention | offload; see docs/training.md


@dataclasses.dataclass(frozen=True)
class SftSettings:
  """The supervised stage before reinforcement learning; steps = 0 leaves it out."""

  steps: int = 0
  batch: int = 64
  rows: int = 0  # demonstrations used, 0 for all training rows
  max_tokens: int = 512  # longest prompt and demonstration together
  micro_batches: int = 1
  row_tokens: int = 0  # pack demonstrations into rows of so many tokens; 0: a row for each
  optimizer: OptimizerConfig = OptimizerConfig(peak_lr=1e-5, schedule="cosine")


@dataclasses.dataclass(frozen=True)
class PreferenceSettings:
  """Learning from pairs of answers, `jaxreason preference`, after the supervised stage; see objective/pairs.py."""

  steps: int = 0
  kind: str = "dpo"  # dpo | reward_model
  batch: int = 32  # pairs
  max_tokens: int = 1024  # longest prompt and answer together
  long_pairs: str = "error"  # error | drop: pairs with a longer answer
  micro_batches: int = 1
  row_tokens: int = 0  # pack pairs into rows of so many tokens, a prompt once for both answers; 0: a row for each answer
  beta: float = 0.1
  form: str = "sigmoid"  # sigmoid | hinge | ipo | robust | apo_zero
  divergence: str = "reverse_kl"  # reverse_kl | forward_kl | js | alpha
  alpha: float = 0.5
  label_smoothing: float = 0.0
  per_token: bool = False  # the mean of an answer's log-probs in place of their sum, as is usual for ipo
  optimizer: OptimizerConfig = OptimizerConfig(peak_lr=1e-6, warmup_steps=10, schedule="linear")

  def __post_init__(self):
    _ = self.objective  # what it does not take is told now

  @property
  def objective(self) -> PairObjective:
    """What the stage learns."""
    return PairObjective(self.kind, self.beta, self.form, self.divergence, self.alpha, self.label_smoothing, self.per_token)


@dataclasses.dataclass(frozen=True)
class TeacherSettings:
  """Whom the policy distils from, where objective.distill_coef is above 0."""

  source: str = ""  # a Hugging Face directory or hub id, or a .gguf file, with the policy's tokenizer


@dataclasses.dataclass(frozen=True)
class ReferenceSettings:
  """Whom objective.kl_coef holds the policy near: a copy of the weights that reinforcement learning began with."""

  sync_every: int = 0  # steps after which it moves towards the policy; 0: never
  sync_mix: float = 1.0  # how far: reference <- (1 - mix) reference + mix policy; 1 is the policy itself
  memory: str = "device"  # where it is kept between its passes: device | host


@dataclasses.dataclass(frozen=True)
class CriticSettings:
  """The critic of advantage "gae": a copy of the policy with a value in place of its output matrix."""

  optimizer: OptimizerConfig = OptimizerConfig(peak_lr=1e-5)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
  """The reinforcement-learning stage."""

  steps: int = 100  # batches
  epochs: int = 1  # times that a batch is gone through
  minibatches: int = 1  # optimizer steps of an epoch, each on whole groups
  max_kl: float = 0.0  # nats a token from the policy that began the batch: beyond it the batch is done with; 0: no bound
  old_policy_tolerance: float = 1e-3  # nats a token: where sampler and trainer differ by less, no pass for the old policy
  average_decay: float = 0.0  # of an exponential average of the weights, which is then what is evaluated and exported; 0: none
  micro_batches: int = 1  # parts of an optimizer step that are in memory at once
  row_tokens: int = 0  # pack samples into rows of so many tokens; 0: a row for each
  share_prompts: bool = True  # a packed row holds a prompt once for the samples of its group in it
  chunk_tokens: int = 4096  # positions whose logits are in memory at once
  moments: str = "device"  # where the optimizer's moments are kept between steps: device | host
  save_every: int = 20  # steps between checkpoints, in both stages
  save_minutes: float = 0.0  # and after the step that ends so long behind the last such save; 0: by steps alone
  stall_seconds: float = 7200.0  # without an update's end after which a run ends with status 70; 0: never
  keep: int = 2  # newest checkpoints kept, besides the best


@dataclasses.dataclass(frozen=True)
class RewardModelSettings:
  """A reward model that judges beside the verifiers; see scored.py."""

  source: str = ""  # a directory of a sequence classifier with one label and the policy's vocabulary; empty: none
  weight: float = 1.0  # of its word in [0, 1]; the verifiers have the rest
  centre: float = 0.0  # the score that becomes a reward of 1/2
  scale: float = 1.0  # by so much higher a score becomes 0.73


@dataclasses.dataclass(frozen=True)
class RewardSettings:
  """The verifier pool."""

  workers: int = 0  # 0: one less than the processors
  deadline_s: float = 10.0
  memory_mb: int = 2048
  sandbox: str = "auto"  # auto: the best that holds here | jail | lite | unsafe: files and network open to what is judged
  require_finished: bool = True  # a sample cut off by its budget is wrong whatever it says
  max_unjudged: float = 0.2  # stop when more than this share of a step has no verdict
  shuffle: bool = False  # a control: rewards are dealt out at random within the batch
  compose: str = ""  # JSON list of parts that judge together, "row" for the rows' own verifier; see docs/verifiers.md
  judge: Judge = Judge()
  model: RewardModelSettings = RewardModelSettings()

  @property
  def parts(self) -> list[dict]:
    """What `compose` says; none where the rows' own verifiers judge alone."""
    return json.loads(self.compose or "[]")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
  """Held-out problems: validation while training, test before and after."""

  problems: int = 200
  samples: int = 4  # at rollout.temperature, for sampled pass@1
  every: int = 30  # steps between validations; 0 for none
  show: int = 6  # completions printed before and after


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """A whole run."""

  name: str = ""
  seed: int = 0
  model: ModelSettings = ModelSettings()
  lora: Lora = Lora()
  data: DataSettings = DataSettings()
  sft: SftSettings = SftSettings()
  preference: PreferenceSettings = PreferenceSettings()
  rollout: RolloutConfig = RolloutConfig()
  objective: Objective = Objective()
  reference: ReferenceSettings = ReferenceSettings()
  teacher: TeacherSettings = TeacherSettings()
  critic: CriticSettings = CriticSettings()
  optimizer: OptimizerConfig = OptimizerConfig()
  train: TrainSettings = TrainSettings()
  rewards: RewardSettings = RewardSettings()
  evaluation: EvaluationSettings = EvaluationSettings()
  mesh: MeshSizes = MeshSizes()

  @property
  def stage(self) -> str:
    """What follows the supervised steps: the section "preference", or "train"."""
    return "preference" if self.preference.steps else "train"

  @property
  def stage_steps(self) -> int:
    """Its steps."""
    return self.preference.steps or self.train.steps


class RunConfig(ml_collections.ConfigDict):
  """A ConfigDict in which `config.objective = "dapo"` sets every field of the objective as that recipe has it, and
  `config.optimizer.lr_factors = {"embedding": 0.1}` is kept as JSON text, as the command line gives it."""

  def __setitem__(self, key, value):
    if key == "lr_factors" and isinstance(value, dict | ml_collections.ConfigDict):
      value = json.dumps(dict(value), sort_keys=True) if value else ""
    elif type(value) is ml_collections.ConfigDict:
      value = RunConfig(value)  # a section, which does so too
    if key == "objective" and isinstance(value, str):
      value = ml_collections.ConfigDict(recipe(value))
    if key == "objective" and not isinstance(value, dict | ml_collections.ConfigDict):
      raise UserError(f"config.objective expected the name of a recipe, or a section, got {value!r}")
    if key == "objective" and key in self:
      self[key].update(value)
    else:
      super().__setitem__(key, value)

  def update(self, *others, **values):
    changes = dict(*others, **values)
    if isinstance(changes.get("objective"), str):
      self["objective"] = changes.pop("objective")
    super().update(changes)


def default_config() -> RunConfig:
  """The defaults as a ConfigDict without room for unknown keys; config files change it and return it."""
  config = RunConfig(dataclasses.asdict(RunSettings()))
  config.lock()
  return config


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with the default of every setting that it leaves out, in the settings' own types and without room for others.

  Raises:
    UserError: it has a key that is no setting, or a value of another type.
  """
  made = RunConfig(config)  # not from its values: a setting may refer to another one
  with made.unlocked(), made.ignore_type():
    typed.check(RunSettings, made.to_dict(), "")
    _fill(made, default_config())
  made.lock()
  return made


def freeze(config: ml_collections.ConfigDict) -> RunSettings:
  """Checks every key, type and value and leaves ConfigDict behind.

  Raises:
    UserError: one line that says what was expected, what came and what to change.
  """
  settings = typed.made(RunSettings, complete(config).to_dict())
  limits.check(settings)
  return settings


def thaw(settings: RunSettings) -> dict[str, Any]:
  """The settings as nested dicts of JSON values; `freeze(ConfigDict(thaw(s))) == s`."""
  return dataclasses.asdict(settings)


def completed(values: dict[str, Any]) -> dict[str, Any]:
  """`thaw`ed settings of an earlier version with the default of every setting that has been added since."""
  return complete(ml_collections.ConfigDict(values)).to_dict()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """{'optimizer': {'peak_lr': x}} -> {'optimizer.peak_lr': x}."""
  rows = {}
  for name, value in tree.items():
    rows |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
  return rows


def _fill(config: ml_collections.ConfigDict, defaults: ml_collections.ConfigDict) -> None:
  """Adds what `config` lacks, and makes floats of the ints that stand for them."""
  for name, default in defaults.items():
    if name not in config:
      config[name] = default
    elif isinstance(default, ml_collections.ConfigDict):
      _fill(config[name], default)
    elif isinstance(default, float) and isinstance(config[name], int):
      config[name] = float(config[name])
