"""Floor 3, rewards: what an environment answers to one turn of a policy.

What enters: the state after the turn, the text shown next, a reward or none, whether the episode is over. What leaves: a
frozen record and its JSON form, the only thing that crosses from a worker process to the trainer (never a pickle).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxreason.rewards import frames

JUDGED = ("ok", "limit")
UNJUDGED = ("unjudged", "infra_error")
STATUSES = JUDGED + UNJUDGED
STATE_BYTES = 256 * 2**10
TEXT_BYTES = 128 * 2**10


class TooLarge(ValueError):
  """A state or a text over its cap."""


@dataclass(frozen=True)
class Turn:
  """An environment's answer to one turn, or its reset, which is turn 0: no text, reward 0, not done.

  The statuses `ok` and `limit` (the policy's text ran out of time or memory, broke its judge twice, or made the state or the
  next text larger than their caps) carry a reward, which is 0 for `limit`: a policy must not escape its zero by hanging its
  environment. `unjudged` (the environment ran, and gave no reward) and `infra_error` (our side failed, or the environment
  raised) carry none: whoever trains must leave the episode out, never count it as 0.

  Attributes:
    state: JSON values, for the next step; empty after `limit` and `infra_error`.
    text: what the policy is shown next; empty when done.
    reward: of this turn, in [0, 1], or None when it was not judged.
    done: no further step is to be asked for.
    status: one of `STATUSES`.
    detail: one line, why.
    seconds: wall-clock time that the step took.

  Raises:
    TooLarge: the state has more than 256 KiB as ASCII JSON, or the text more than 128 KiB.
    ValueError: a value has the wrong type, or they do not fit each other.
  """

  state: Mapping
  text: str
  reward: float | None
  done: bool
  status: str
  detail: str = ""
  seconds: float = 0.0

  def __post_init__(self):
    for name, kinds in _KINDS.items():
      if not isinstance(getattr(self, name), kinds):
        raise ValueError(f"expected {name} to be {_WORDS[name]}, got {type(getattr(self, name)).__name__}")
    if self.status not in STATUSES:
      raise ValueError(f"expected a status out of {', '.join(STATUSES)}, got {self.status!r}")
    if (self.reward is None) != (self.status in UNJUDGED):
      raise ValueError(f"expected no reward for {', '.join(UNJUDGED)} and one for the others, got {self.reward!r}")
    if self.reward is not None and not (_is_number(self.reward) and 0 <= self.reward <= (self.status == "ok")):
      raise ValueError(f"expected a reward in [0, 1], and 0 for 'limit', got {self.reward!r} for {self.status!r}")
    if self.done and self.text:
      raise ValueError(f"expected an empty text of a turn that is done, got {len(self.text)} characters")
    if self.status in ("limit", "infra_error") and not self.done:
      raise ValueError(f"expected a turn of status {self.status!r} to be done")
    if not _is_number(self.seconds):
      raise ValueError("expected seconds to be a number")
    for name, value, cap in (("state", dict(self.state), STATE_BYTES), ("text", self.text, TEXT_BYTES)):
      if (size := _size(name, value)) > cap:
        raise TooLarge(f"a {name} of {size} bytes is over the cap of {cap}")

  def to_json(self) -> dict:
    """The turn as a dict of plain JSON values; `from_json` gives it back."""
    return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "state": dict(self.state)}

  @classmethod
  def from_json(cls, data: Mapping) -> "Turn":
    """A turn from what `to_json` gave. It may come from a process that ran hostile text, so every type is checked.

    Raises:
      ValueError: a key is missing or unknown, a value has the wrong type or is too large.
    """
    if not isinstance(data, Mapping) or set(data) != set(cls.__dataclass_fields__):
      raise ValueError(f"expected a mapping with exactly the keys {', '.join(cls.__dataclass_fields__)}")
    return cls(**data)


_KINDS = {"state": Mapping, "text": str, "done": bool, "status": str, "detail": str}
_WORDS = {"state": "a dict", "text": "a string", "done": "a bool", "status": "a string", "detail": "a string"}


def _is_number(value) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _size(name: str, value) -> int:
  try:
    return len(frames.encode(value))
  except (TypeError, ValueError, RecursionError) as error:
    raise ValueError(f"expected the {name} to be JSON values, got: {error}") from error
