"""The table and the sentence at the end: what they claim is what the intervals allow."""

import pytest

from jaxreason.cli import results
from jaxreason.settings import RunSettings


def numbers(share, **more):
  return {"pass@1": share, "pass@1_interval": 0.05, "problems": 200, "completions/mean_length": 12.0} | more


def found(before, after, gain, interval, **more):
  both = {"greedy": numbers(after, **more), "sampled": numbers(after)}
  gains = {manner: {"gain": gain, "gain_interval": interval} for manner in both}
  return {"before": {"greedy": numbers(before, **more), "sampled": numbers(before)}, "after": both, "gain": gains}


@pytest.mark.parametrize(
  ("gain", "interval", "words"),
  [
    (0.30, 0.05, "greedy pass@1 rose from 20.0 % to 50.0 % (+30.0 ± 5.0 points)"),
    (0.30, 0.31, "greedy pass@1 did not change measurably, from 20.0 % to 50.0 % (+30.0 ± 31.0 points)"),
    (-0.3, 0.05, "greedy pass@1 fell from 20.0 % to 50.0 % (-30.0 ± 5.0 points)"),
  ],
)
def test_a_gain_is_claimed_only_when_its_interval_leaves_zero_out(gain, interval, words):
  assert words in results.sentence(found(0.2, 0.5, gain, interval), RunSettings())


def test_manners_are_told_where_the_verifier_knows_them():
  manners = {"worked_share": 0.5, "accuracy_worked": 0.9, "accuracy_terse": 0.1}
  told = results.sentence(found(0.2, 0.5, 0.3, 0.1, **manners), RunSettings())
  assert "Greedy answers that write the working out went from 50.0 % to 50.0 %" in told
  assert "90.0 % of worked ones before, 10.0 % of terse ones before" in told
  _, columns, rows = results.table(found(0.2, 0.5, 0.3, 0.1, **manners), RunSettings())
  assert columns == ["", "before", "after", "gain"]
  assert ["  right among worked answers", "90.0 %", "90.0 %", "+0.0"] in rows
  assert all(len(row) == 4 for row in rows)


def test_a_manner_that_nobody_used_is_told_as_none():
  result = found(0.2, 0.5, 0.3, 0.1, worked_share=1.0, accuracy_worked=0.5)
  result["before"]["greedy"]["accuracy_terse"] = 0.25
  rows = results.table(result, RunSettings())[2]
  assert ["  right among terse answers", "25.0 %", "none", ""] in rows


def test_a_supervised_stage_alone_has_no_before():
  after = {"after": found(0.2, 0.5, 0.3, 0.1)["after"]}
  _, columns, rows = results.table(after, RunSettings())
  assert columns == ["", "after"] and all(len(row) == 2 for row in rows)
  assert results.sentence(after, RunSettings()).startswith("Greedy pass@1 on 200 held-out problems is 50.0 % ± 5.0")


def test_prompts_that_were_cut_are_told_where_there_are_any():
  assert not any("lost their beginning" in row[0] for row in results.table(found(0.2, 0.5, 0.3, 0.1), RunSettings())[2])
  cut = found(0.2, 0.5, 0.3, 0.1, **{"prompts/truncated": 3})
  assert ["  prompts that lost their beginning", "3", "3", ""] in results.table(cut, RunSettings())[2]
