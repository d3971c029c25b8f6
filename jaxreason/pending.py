"""Floor 4: groups on their way, as JSON values and back.

What enters: `Answers` between two steps. What leaves: all that a checkpoint keeps of them: what each sample has written, its
verdict where there is one, where its dialogue has got to. Keys and values are not kept: they are computed anew.
"""

import base64
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from jaxreason.answers import Answers
from jaxreason.data.prompts import Prompts
from jaxreason.groups import Dialogue, Ended, Group
from jaxreason.rewards.turn import Turn
from jaxreason.rewards.verdict import Verdict
from jaxreason.rollout.slots import Written
from jaxreason.rollout.state import Record

_DTYPES = Record(np.int32, np.float32, np.float32, np.int32, np.bool_, np.int16)


def to_json(answers: Answers) -> list[dict]:
  """The groups, in the order of admission. A verdict that is still to come will be asked for again."""
  written, dialogues = answers.so_far()
  whole = answers.ready()
  turn = {group.visit: number - len(whole) for number, group in enumerate(whole)}  # before all that will be whole later
  found = []
  for group in answers.groups.values():
    known = {sample for sample, one in group.ended.items() if one.judged.done()}  # asked once: it may be done a moment later
    waiting = [one.written for sample, one in group.ended.items() if sample not in known]
    found.append({
      "visit": group.visit, "whole_at": turn.get(group.visit),
      "budgets": {str(sample): budget for sample, budget in group.budgets.items()},
      "ended": [_of_ended(group.ended[sample]) for sample in sorted(known)],
      "written": [_of_written(one) for one in [*written, *waiting] if one.visit == group.visit],
      "dialogues": {
        str(sample): dataclasses.asdict(at) for (visit, sample), at in dialogues.items() if visit == group.visit
      },
    })  # fmt: skip
  return found


def from_json(groups: list[dict], answers: Answers, size: int, prompts: Callable[[Sequence[int]], Prompts]) -> None:
  """Asks for the groups again.

  Args:
    groups: of `to_json`.
    answers: of which nothing was asked.
    size: G.
    prompts: the prompts of visits.
  """
  packed = prompts([told["visit"] for told in groups]) if groups else None
  for row, told in enumerate(groups):
    ended = {one["sample"]: _ended(told["visit"], one) for one in told["ended"]}
    prompt = packed.tokens[row, : packed.lengths[row]]
    budgets = {int(sample): budget for sample, budget in told["budgets"].items()}
    group = Group(told["visit"], packed.rows[row], prompt, size, ended, told["whole_at"], budgets)
    dialogues = {int(sample): Dialogue(**values) for sample, values in told["dialogues"].items()}
    answers.ask(group, [_written(told["visit"], one) for one in told["written"]], dialogues)


def _of_written(written: Written) -> dict:
  kept = written.record.kept
  if written.prompt_experts is not None:
    kept = kept | {"prompt_experts": written.prompt_experts}
  record = {name: base64.b64encode(values.tobytes()).decode() for name, values in kept.items()}
  return {"sample": written.sample, "stop": written.stop, "record": record}


def _written(visit: int, told: dict) -> Written:
  encoded = dict(told["record"])
  prompt = encoded.pop("prompt_experts", None)
  decoded = {name: np.frombuffer(base64.b64decode(text), getattr(_DTYPES, name)) for name, text in encoded.items()}
  if "experts" in decoded:
    decoded["experts"] = decoded["experts"].reshape(len(decoded["tokens"]), -1)
  if prompt is not None:
    prompt = np.frombuffer(base64.b64decode(prompt), _DTYPES.experts).reshape(-1, decoded["experts"].shape[1])
  return Written(visit, told["sample"], told["stop"], Record(**decoded), prompt)


def _of_ended(ended: Ended) -> dict:
  dialogue = ended.dialogue and dataclasses.asdict(ended.dialogue)
  return _of_written(ended.written) | {"judged": ended.judged.result().to_json(), "dialogue": dialogue}


def _ended(visit: int, told: dict) -> Ended:
  judged = Future()
  judged.set_result((Turn if told["dialogue"] else Verdict).from_json(told["judged"]))
  return Ended(_written(visit, told), judged, told["dialogue"] and Dialogue(**told["dialogue"]))
