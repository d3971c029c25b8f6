"""What a run reads before a device is touched: what does not fit together is told, and base models get plain prompts."""

import json
from pathlib import Path

import pytest

from jaxreason import build, limits, settings
from jaxreason.errors import UserError

SOURCE = str(Path(__file__).parents[1] / "fixtures/models/smollm.gguf")


def chosen(**changes):
  """Settings with changes by dotted name, with __ for the dot."""
  config = settings.default_config()
  config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
  return settings.freeze(config)


def test_a_base_model_is_given_plain_text():
  chat, plain = (build.load_tokenizer(chosen(model__source=SOURCE, model__chat=chat)) for chat in (True, False))
  assert plain.render("2+3=") == plain.encode("2+3=")
  assert len(chat.render("2+3=")) > len(plain.render("2+3="))
  assert chat.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
  ("name", "value", "words"),
  [
    ("seed", 2**32 - 1, "at least 0 and at most 4294967294, got 4294967295"),
    ("model.rope_theta", 0.0, "> 0, got 0.0"),
    ("data.train_rows", -1, "at least 0, got -1"),
    ("data.train_rows", 0, "at least 1 for a generated task, got 0"),
    ("sft.rows", -1, "at least 0, got -1"),
    ("sft.max_tokens", 0, "at least 1, got 0"),
    ("train.chunk_tokens", 0, "at least 1, got 0"),
    ("rewards.max_unjudged", 1.5, "at least 0 and at most 1, got 1.5"),
    ("rewards.max_unjudged", float("nan"), "a finite number, got nan"),
    ("rewards.deadline_s", 0.0, "at least 0.001, got 0.0"),
    ("rewards.memory_mb", 63, "at least 64, got 63"),
  ],
)
def test_a_setting_out_of_its_bounds_is_told(name, value, words):
  with pytest.raises(UserError, match=f"config.{name} expected {words}"):
    chosen(**{name: value})


def test_replaying_a_truncation_that_is_not_there_is_told():
  replayed = dict(objective__replay_truncation=True)
  with pytest.raises(UserError, match=r"replay_truncation expected rollout.top_p, top_k or min_p to truncate, got none"):
    chosen(**replayed)
  for cut in (dict(rollout__top_p=0.9), dict(rollout__top_k=3), dict(rollout__min_p=0.1)):
    assert chosen(**replayed, **cut).objective.replay_truncation


def test_every_bounded_setting_exists_and_its_default_is_within():
  defaults = settings.flat(settings.thaw(chosen()))
  assert all(least <= defaults[name] <= most for name, least, most in limits.BOUNDS)


def test_a_rollout_longer_than_the_checkpoint_is_told():
  short = dict(rollout__max_prompt_tokens=16, rollout__max_new_tokens=16, rollout__long_prompts="truncate_left")
  positions = build.read(chosen(model__source=SOURCE, **short)).config.max_positions
  with pytest.raises(UserError, match=f"max_new_tokens={positions} expected to fit into the {positions} positions of .*gguf"):
    build.read(chosen(model__source=SOURCE, rollout__max_prompt_tokens=1, rollout__max_new_tokens=positions))
  with pytest.raises(UserError, match=f"sft.max_tokens={positions + 1} expected to fit into the {positions} positions"):
    build.read(chosen(model__source=SOURCE, **short, sft__steps=1, sft__max_tokens=positions + 1))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      dict(data__files__verifier="meth"),
      r"row 'rows.jsonl:1' expected a verifier among .*, got 'meth' \(did you mean 'math'\?\)",
    ),
    (dict(sft__steps=1), "config.sft.steps expected rows with demonstrations, got rows without"),
  ],
)
def test_rows_that_cannot_be_used_are_told_before_a_device_is_touched(tmp_path, changes, words):
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps({"question": f"{i}+1=", "answer": str(i + 1)}) + "\n" for i in range(9)))
  few = dict(data__task="files", data__files__train=str(path), evaluation__problems=2, model__source=SOURCE)
  with pytest.raises(UserError, match=words):
    build.read(chosen(**few, **changes))
