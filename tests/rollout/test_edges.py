"""Laws of the edges of a rollout: shortest and longest prompts and answers, and samples that must not or do not choose."""

import drawn
import numpy as np
import pytest
import tiny

from jaxreason.records import BUDGET, STOP_TOKEN

ALL = tuple(range(tiny.CONFIG.vocab_size))
BUCKET = 4  # of prompts; their last token is not prefilled
LENGTHS = {1: 1, 2: 2, 3: BUCKET + 1, 4: BUCKET + 2, 5: 2 * BUCKET + 1, 6: 2 * BUCKET + 2, 7: 3 * BUCKET + 1}
PROMPTS = {visit: tiny.tokens(visit, length) for visit, length in LENGTHS.items()}
LANES = pytest.mark.parametrize("lane", [1, 2])


@LANES
def test_every_sample_may_end_with_its_first_token(lane):
  found = drawn.drawn(PROMPTS, drawn.shape(lane=lane, ahead=1), stop_ids=ALL)
  assert {(len(one.record.tokens), one.stop) for one in found.values()} == {(1, STOP_TOKEN)}
  assert drawn.check(found, PROMPTS, stop_ids=ALL) == 4 * len(PROMPTS)


@LANES
@pytest.mark.parametrize("budget", [1, 4, 5, 8])
def test_every_sample_may_end_with_its_budget(lane, budget):
  """Of one token, of a chunk, of one more and of two."""
  found = drawn.drawn(PROMPTS, drawn.shape(lane=lane, budget=budget), stop_ids=(-1,))
  assert {(len(one.record.tokens), one.stop) for one in found.values()} == {(budget, BUDGET)}
  assert drawn.check(found, PROMPTS, budget=budget, stop_ids=(-1,)) == 4 * len(PROMPTS) * budget


@LANES
@pytest.mark.parametrize("longest", [BUCKET + 1, BUCKET + 2, 3 * BUCKET + 1])
def test_a_prompt_may_fill_its_bucket_be_one_over_and_be_one_token(lane, longest):
  """The first prompts are short, so that later ones widen what is there already."""
  prompts = {visit: prompt for visit, prompt in PROMPTS.items() if len(prompt) in (1, 2, longest)}
  found = drawn.drawn(prompts, drawn.shape(4, lane=lane, prompt=BUCKET, bucket=8, prefill=(1,)))
  assert drawn.check(found, prompts) > 30


@LANES
@pytest.mark.parametrize("ahead", [0, 1])
def test_a_sample_may_have_a_budget_of_its_own(lane, ahead):
  budgets = {0: 1, 1: 6, 3: 4}
  found = drawn.drawn(PROMPTS, drawn.shape(lane=lane, ahead=ahead), budgets=budgets)
  free = drawn.drawn(PROMPTS, drawn.shape(lane=lane, ahead=ahead))
  for name, one in found.items():
    most = budgets.get(name[1], drawn.T)
    np.testing.assert_array_equal(one.record.tokens, free[name].record.tokens[:most])
    assert one.stop == (BUDGET if len(free[name].record.tokens) > most else free[name].stop)
  assert {name[1] for name, one in found.items() if one.stop == BUDGET} >= {0, 1, 3}


@LANES
@pytest.mark.parametrize("least", [1, 3, 5, drawn.T])
def test_no_stop_token_is_among_the_first_that_must_be_written(lane, least):
  """With a minimum of m the first m tokens are none that stops, and the next may be one: as MinNewTokens of transformers."""
  stop_ids = (tiny.STOP, *range(5, 18))
  found = drawn.drawn(PROMPTS, drawn.shape(lane=lane, ahead=1), least=least, stop_ids=stop_ids, group=8)
  assert drawn.check(found, PROMPTS, least=least, stop_ids=stop_ids) > 100
  assert all(not np.isin(one.record.tokens[:least], stop_ids).any() for one in found.values())
  if least < drawn.T:
    assert min(len(one.record.tokens) for one in found.values()) == least + 1
  banned = [one.record.log_mass[:least] for one in found.values()]
  assert (np.concatenate(banned) < 0).all()
  assert not np.concatenate([one.record.log_mass[least:] for one in found.values()]).any()


@LANES
@pytest.mark.parametrize("least", [0, 6])
def test_greedy_samples_of_a_group_are_the_same_and_the_likeliest(lane, least):
  found = drawn.drawn(PROMPTS, drawn.shape(lane=lane, ahead=1), temperature=0.0, least=least)
  assert drawn.check(found, PROMPTS, greedy=True, least=least) > 100
  for (visit, _), one in found.items():
    np.testing.assert_array_equal(one.record.tokens, found[visit, 0].record.tokens)
    assert not np.isin(one.record.tokens[:least], drawn.STOPS).any()


@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_a_tempered_sample_is_the_tempered_policys(temperature):
  found = drawn.drawn(PROMPTS, drawn.shape(ahead=1), temperature=temperature)
  assert drawn.check(found, PROMPTS, temperature=temperature) > 100
