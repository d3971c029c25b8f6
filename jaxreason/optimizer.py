"""Floor 3: from optimizer settings to an optax transformation.

What enters: a frozen `OptimizerConfig`. What leaves: AdamW behind a global-norm clip, and its schedule.
"""

import dataclasses

import optax

from jaxreason.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW with a warm-up.

  Attributes:
    peak_lr: learning rate after the warm-up.
    schedule: "constant" or "cosine" (down to end_lr at the last step).
    warmup_steps: linear from 0; the first update already has peak_lr / warmup_steps.
    end_lr: at the end of a cosine.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled, on matrices only (not norms and biases).
    clip_norm: global norm that gradients are scaled down to; 0 turns it off.
  """

  peak_lr: float = 1e-6
  schedule: str = "constant"
  warmup_steps: int = 0
  end_lr: float = 0.0
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip_norm: float = 1.0

  def __post_init__(self):
    if self.schedule not in SCHEDULES:
      raise UserError(
        f"optimizer.schedule expected one of {', '.join(SCHEDULES)}, got {self.schedule!r}{nearest(self.schedule, SCHEDULES)}"
      )
    if not (self.peak_lr >= 0 and self.warmup_steps >= 0):
      raise UserError(f"optimizer expected peak_lr and warmup_steps >= 0, got {self.peak_lr} and {self.warmup_steps}")
    if not (self.end_lr >= 0 and self.weight_decay >= 0 and self.clip_norm >= 0):
      raise UserError(
        f"optimizer expected end_lr, weight_decay and clip_norm >= 0, got {self.end_lr}, {self.weight_decay} and "
        f"{self.clip_norm}"
      )
    if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1 and self.eps > 0):
      raise UserError(f"optimizer expected b1 and b2 in [0, 1) and eps > 0, got {self.b1}, {self.b2} and {self.eps}")


def _cosine(config, steps):
  return optax.cosine_decay_schedule(
    config.peak_lr, max(1, steps - config.warmup_steps), alpha=config.end_lr / config.peak_lr if config.peak_lr else 0.0
  )


SCHEDULES = {
  "constant": lambda config, steps: optax.constant_schedule(config.peak_lr),
  "cosine": _cosine,
}


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
  """Learning rate as a function of the update's number, counted from 0; `steps` is where a cosine ends."""
  after = SCHEDULES[config.schedule](config, steps)
  if not config.warmup_steps:
    return after
  warmup = optax.linear_schedule(config.peak_lr / config.warmup_steps, config.peak_lr, max(1, config.warmup_steps - 1))
  return optax.join_schedules([warmup, after], [config.warmup_steps])


def transformation(config: OptimizerConfig, steps: int, decay_mask) -> optax.GradientTransformation:
  """The optax chain. `decay_mask`: tree of bools in the structure of the parameters, True where weight decay applies."""
  adamw = optax.adamw(
    schedule(config, steps), b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay, mask=decay_mask
  )
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw
