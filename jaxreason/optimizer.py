"""Floor 3: from optimizer settings to an optax transformation.

What enters: a frozen `OptimizerConfig` and the role of every parameter. What leaves: one optax chain and its schedule,

  clip by the global norm -> direction -> + weight decay x parameter -> x -learning rate -> x factor of the parameter,

the same for every optimizer but for its direction.
"""

import dataclasses
import json
import math

import jax
import optax

from jaxreason.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """An optimizer and its learning rates.

  Attributes:
    name: one of `DIRECTIONS`: adamw, adafactor, muon, lion, sgd.
    peak_lr: learning rate after the warm-up.
    schedule: one of `SCHEDULES`: "constant", or falling to end_lr at the last step: "linear", "cosine", and "wsd", constant but
      for the steps at the end.
    warmup_steps: linear from 0; the first update already has peak_lr / warmup_steps.
    end_lr: at the end of a schedule; not read by "constant".
    decay_share: share of the steps over which wsd falls, in (0, 1]; not read by the other schedules.
    b1: decay of the first moment, the momentum of muon and sgd; not read by adafactor.
    b2: decay of the second moment, of lion that of its only one; not read by adafactor and sgd, by muon in its AdamW alone.
    eps: added to the root of the second moment, by muon also to the norm it divides by; not read by adafactor, lion and sgd.
    weight_decay: decoupled, times the learning rate, on matrices only (not norms and biases).
    clip_norm: global norm that gradients are scaled down to; 0 turns it off.
    lr_factors: a JSON object from names of parameters, fields of `weights.Params` and `weights.Block`, to factors on their
      learning rate: '{"embedding": 0.1}'. A critic's output vector is "value_head". A factor of 0 freezes: no decay, no
      moments, no part in the global norm.
  """

  name: str = "adamw"
  peak_lr: float = 1e-6
  schedule: str = "constant"
  warmup_steps: int = 0
  end_lr: float = 0.0
  decay_share: float = 0.2
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  lr_factors: str = ""

  def __post_init__(self):
    for field, value, table in (("name", self.name, DIRECTIONS), ("schedule", self.schedule, SCHEDULES)):
      if value not in table:
        raise UserError(f"optimizer.{field} expected one of {', '.join(table)}, got {value!r}{nearest(value, table)}")
    if not (self.peak_lr >= 0 and self.warmup_steps >= 0):
      raise UserError(f"optimizer expected peak_lr and warmup_steps >= 0, got {self.peak_lr} and {self.warmup_steps}")
    if not (self.end_lr >= 0 and self.weight_decay >= 0 and self.clip_norm >= 0):
      raise UserError(
        f"optimizer expected end_lr, weight_decay and clip_norm >= 0, got {self.end_lr}, {self.weight_decay} and "
        f"{self.clip_norm}"
      )
    if not 0 < self.decay_share <= 1:
      raise UserError(f"optimizer.decay_share expected in (0, 1], got {self.decay_share}")
    if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1 and self.eps > 0):
      raise UserError(f"optimizer expected b1 and b2 in [0, 1) and eps > 0, got {self.b1}, {self.b2} and {self.eps}")
    _ = self.factors  # told now if they cannot be read

  @property
  def factors(self) -> dict[str, float]:
    """The factors of `lr_factors` by name."""
    try:
      found = json.loads(self.lr_factors or "{}")
    except (TypeError, ValueError):
      found = None
    if not isinstance(found, dict) or not all(type(x) in (int, float) and 0 <= x < math.inf for x in found.values()):
      raise UserError(
        f'optimizer.lr_factors expected names with factors >= 0, such as {{"embedding": 0.1}}, got {self.lr_factors!r}'
      )
    return found


def _cosine(config, steps):
  return optax.cosine_decay_schedule(
    config.peak_lr, max(1, steps - config.warmup_steps), alpha=config.end_lr / config.peak_lr if config.peak_lr else 0.0
  )


def _linear(config, steps):
  return optax.linear_schedule(config.peak_lr, config.end_lr, max(1, steps - config.warmup_steps))


def _wsd(config, steps):
  start = _decay_start(config, steps)
  decay = optax.linear_schedule(config.peak_lr, config.end_lr, max(1, steps - start))
  return optax.join_schedules([optax.constant_schedule(config.peak_lr), decay], [start - config.warmup_steps])


def _decay_start(config, steps):
  return max(config.warmup_steps, steps - max(1, round(config.decay_share * steps)))


# What follows the warm-up, counted from its end. wsd: Hu et al. 2024, section 4, https://arxiv.org/abs/2404.06395, but with a
# linear decay, Hägele et al. 2024, https://arxiv.org/abs/2405.18392.
SCHEDULES = {
  "constant": lambda config, steps: optax.constant_schedule(config.peak_lr),
  "linear": _linear,
  "cosine": _cosine,
  "wsd": _wsd,
}


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
  """Learning rate as a function of the update's number, counted from 0; `steps` is where a schedule ends."""
  after = SCHEDULES[config.schedule](config, steps)
  if not config.warmup_steps:
    return after
  warmup = optax.linear_schedule(config.peak_lr / config.warmup_steps, config.peak_lr, max(1, config.warmup_steps - 1))
  return optax.join_schedules([warmup, after], [config.warmup_steps])


def unbound(config: OptimizerConfig, steps: int) -> float:
  """Number of first updates whose learning rate would be the same in a longer run."""
  if config.schedule == "constant":
    return math.inf
  return _decay_start(config, steps) if config.schedule == "wsd" else config.warmup_steps


def _adafactor(config, roles):
  """Shazeer and Stern 2018, algorithm 4, https://arxiv.org/abs/1804.04235, with its decay of 1 - t^-0.8.

  The step has no scale of the parameter in it, so that learning rates are those of AdamW. Second moments are factored over the
  two longest axes where both have 128 or more; updates are clipped to an rms of 1, over all layers of a stack together.
  """
  return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))


def _adamw(config, roles):
  """Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101."""
  return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


def _muon(config, roles):
  """Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, of each layer's [in, out] matrix, all heads together.

  Updates are scaled to an rms of 0.2, about that of AdamW's (Liu et al. 2025, section 2.2, https://arxiv.org/abs/2502.16982):
  learning rate and weight decay are AdamW's. What is no block's matrix steps by AdamW; by ours, because the one within optax's
  Muon has Nesterov's momentum, with which the first step is 1.47 times as long.
  """
  numbers = optax.contrib.MuonDimensionNumbers
  muon = optax.contrib.muon(
    learning_rate=-1.0,  # uphill like the other directions
    beta=config.b1,
    eps=config.eps,
    consistent_rms=0.2,
    muon_weight_dimension_numbers=jax.tree.map(lambda role: numbers(role.inputs, role.outputs) if role.inputs else None, roles),
  )
  labels = jax.tree.map(lambda role: "muon" if role.inputs else "adamw", roles)
  return optax.partition({"muon": muon, "adamw": _adamw(config, roles)}, labels)


# (config, roles) -> what gradients become before weight decay and learning rate.
DIRECTIONS = {
  "adamw": _adamw,
  "adafactor": _adafactor,
  "muon": _muon,
  "lion": lambda config, roles: optax.scale_by_lion(b1=config.b1, b2=config.b2),
  "sgd": lambda config, roles: optax.trace(decay=config.b1),
}


def transformation(config: OptimizerConfig, steps: int, roles) -> optax.GradientTransformation:
  """The optax chain.

  Args:
    config: the settings.
    steps: where a schedule ends.
    roles: tree of `weights.Role` in the structure of the parameters.

  Raises:
    UserError: `lr_factors` has a name that no parameter has.
  """
  factors, names = config.factors, dict.fromkeys(role.name for role in jax.tree.leaves(roles))
  for name in factors:
    if name not in names:
      raise UserError(f"optimizer.lr_factors expected names among {', '.join(names)}, got {name!r}{nearest(name, names)}")
  made = optax.chain(
    DIRECTIONS[config.name](config, roles),
    optax.add_decayed_weights(config.weight_decay, jax.tree.map(lambda role: role.decays, roles)),
    optax.scale_by_learning_rate(schedule(config, steps)),
    *([_scaled(jax.tree.map(lambda role: factors.get(role.name, 1.0), roles))] if factors else []),
  )
  if config.clip_norm:
    made = optax.chain(optax.clip_by_global_norm(config.clip_norm), made)
  if 0 not in factors.values():
    return made
  labels = jax.tree.map(lambda role: "trained" if factors.get(role.name, 1.0) else "frozen", roles)
  return optax.partition({"trained": made, "frozen": optax.set_to_zero()}, labels)


def _scaled(factors) -> optax.GradientTransformation:
  """Multiplies each update by its factor; a masked one is a subtree without leaves."""
  scale = lambda factor, update: jax.tree.map(lambda x: factor * x, update)
  return optax.stateless(lambda updates, _: jax.tree.map(scale, factors, updates))
