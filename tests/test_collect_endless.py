"""Laws of samples that live on across updates: none is lost or trained twice, and every token says who wrote it.

P = 4 prompts x G = 4 samples, 24 slots, chunks of 3 of at most 12 tokens; the weights of each version are others.
"""

import base64
import dataclasses
import functools
import json

import jax
import judges
import numpy as np
import pytest
import tiny_run

from jaxreason import collect, policy, rollout_plan
from jaxreason.assemble import join
from jaxreason.collect import Collector
from jaxreason.rewards.pool import VerifierPool

P, G, STEPS = 4, 4, 6


@pytest.fixture(scope="module")
def pool():
  with VerifierPool(judges.VERIFIERS, workers=2) as opened:
    yield opened


@functools.cache
def params_of(version):
  """Weights that differ from version to version."""
  first = tiny_run.learner().initial_params()
  keys = iter(jax.random.split(jax.random.key(version), len(jax.tree.leaves(first))))
  return jax.tree.map(lambda x: x + 0.02 * jax.random.normal(next(keys), x.shape), first)


def run_of(verifier="by_row", **rollout):
  """A run whose random model stops early, or late, with three tokens that end a sample."""
  settings = dict(prompts=P, group=G, slots=24, chunk=3, max_staleness=1) | rollout
  run = tiny_run.changed(tiny_run.learner(), rollout=settings, rewards=dict(require_finished=False))
  run = run._replace(tokenizer=dataclasses.replace(run.tokenizer, stop_ids=(2, 7, 11)))
  return run._replace(rows=run.rows._replace(train=[row | {"verifier": verifier} for row in run.rows.train]))


def told(state):
  """What a state says that each sample on its way has, by (visit, sample): names to arrays, and whether it has a verdict."""
  kinds = dict(tokens=np.int32, logprobs=np.float32, log_mass=np.float32, versions=np.int32, own=bool)
  found = {}
  for group in state["groups"]:
    for one in [*group["ended"], *group["written"]]:
      assert (group["visit"], one["sample"]) not in found
      record = {name: np.frombuffer(base64.b64decode(one["record"][name]), dtype) for name, dtype in kinds.items()}
      found[group["visit"], one["sample"]] = record | {"judged": one.get("judged")}
  return found


def collected(collector, steps, after=lambda step, collector, found: None):
  """The batches of some steps."""
  found = []
  with jax.set_mesh(tiny_run.learner().mesh):
    for step in steps:
      found.append(collector.collect(params_of(step), step))
      after(step, collector, found)
  return found


@functools.cache
def usual(refresh):
  """(batches, states after each) of a run over six versions."""
  states = []
  with VerifierPool(judges.VERIFIERS, workers=1) as pool:
    keep = lambda step, collector, _: states.append(json.loads(json.dumps(collector.state())))
    return collected(Collector(run_of(refresh_cache=refresh), pool), range(STEPS), keep), states


def written(batches):
  """Records of all trained samples, by (visit, sample)."""
  found = {}
  for batch in batches:
    assert batch.rollouts.tokens.shape[:2] == (P, G)
    for number, sample in enumerate(batch.samples):
      name = (int(batch.rollouts.visit_ids[number // G]), number % G)
      assert name not in found, "trained twice"
      assert sample.written.name == name
      found[name] = sample
  return found


def begins_with(sample, had):
  """Whether a sample goes on behind what it had, with the log-probs and versions that its tokens had."""
  return all((values[: len(had["tokens"])] == had[name]).all() for name, values in sample.written.record.kept.items())


@pytest.mark.parametrize("refresh", [False, True])
def test_samples_live_on_across_updates_and_are_trained_once(refresh):
  batches, states = usual(refresh)
  trained = written(batches)
  lived = 0
  for state in states:
    for name, had in told(state).items():
      if name in trained:
        assert begins_with(trained[name], had)
        lived += 0 < len(had["tokens"]) < len(trained[name].written.record.tokens)
  assert lived > 8
  last = {group["visit"] for group in states[-1]["groups"]}
  begun = {visit for visit, _ in trained} | last
  assert begun == set(range(len(begun))) and states[-1]["queue"]["next_visit"] == len(begun)
  mixed = [sample.written.record.versions for sample in trained.values() if len(set(sample.written.record.versions)) > 1]
  assert len(mixed) > 8
  assert all((np.diff(versions) >= 0).all() for versions in mixed)


@pytest.mark.parametrize("refresh", [False, True])
def test_no_more_groups_are_begun_than_staleness_allows(refresh):
  batches, states = usual(refresh)
  begun = np.cumsum([batch.numbers["groups/begun"] for batch in batches])
  assert all(count <= (1 + step + 1) * P for step, count in enumerate(begun))
  assert begun[-1] > STEPS * P
  assert [state["trained"] for state in states] == [P * (step + 1) for step in range(STEPS)]


def test_staleness_numbers_are_those_of_the_record():
  some = 0
  for step, batch in enumerate(usual(True)[0]):
    rollouts, numbers = batch.rollouts, batch.numbers
    ages = np.where(rollouts.own, step - rollouts.versions, -1).reshape(P * G, -1)
    assert (ages.max(axis=1) >= 0).all()
    assert numbers["staleness/mean"] == pytest.approx(ages[ages >= 0].mean())
    if ages.max() > 0:
      some += 1
      assert numbers["staleness/max"] == ages.max()
      for age in range(4):
        assert numbers[f"staleness/samples_{age}"] == pytest.approx(np.mean(ages.max(axis=1) == age))
  assert some > 3


def differences(batches):
  """|log-prob at sampling - log-prob of the training path, of the weights of the token's version|, over samples of several."""
  compute = jax.jit(functools.partial(policy.completion_logprobs, config=tiny_run.learner().config, width=12))
  found = []
  for step, batch in enumerate(batches):
    rollouts = batch.rollouts
    prompt_lengths, lengths = np.repeat(rollouts.prompt_lengths, G), rollouts.lengths.reshape(-1)
    tokens = join(np.repeat(rollouts.prompts, G, 0), prompt_lengths, rollouts.tokens.reshape(P * G, -1), lengths)
    flat = lambda x: x.reshape(P * G, -1)
    for version in range(step + 1):
      sizes = dict(tokens=tokens, prompt_lengths=prompt_lengths, lengths=prompt_lengths + lengths, temperature=1.0)
      expected, _ = compute(params_of(version), **sizes)
      by_it = flat(rollouts.own) & (flat(rollouts.versions) == version)
      by_it &= (flat(rollouts.versions).min(axis=1, where=flat(rollouts.own), initial=99) < version)[:, None]
      found += np.abs(np.asarray(expected) - flat(rollouts.logprobs))[by_it].tolist()
  return found


def test_with_a_refreshed_cache_a_token_is_drawn_from_the_policy_of_its_version():
  """Also behind tokens of an older one. With the old keys and values it is drawn from a mixture of both."""
  fresh, kept = differences(usual(True)[0]), differences(usual(False)[0])
  assert len(fresh) > 50 and max(fresh) < 1e-5
  assert len(kept) > 50 and max(kept) > 1e-2


def test_what_is_too_old_is_dropped_and_counted(pool):
  """With three updates of staleness the groups of the first step wait to be trained on, three updates long."""
  run = run_of(max_staleness=3, max_age=1, slots=64, refill_zero_variance=False)
  batches = collected(Collector(run, pool), range(STEPS))
  assert all(batch.numbers.get("staleness/max", 0) <= 1 for batch in batches)
  dropped = sum(batch.numbers["groups/too_old"] for batch in batches)
  assert dropped > 0 and dropped == sum(batch.numbers["groups/unused"] for batch in batches)
  lengths = [batch.numbers["completions/mean_length_too_old"] for batch in batches if batch.numbers["groups/too_old"]]
  assert lengths and all(1 <= length <= 24 for length in lengths)
  written(batches)
  begun = np.cumsum([batch.numbers["groups/begun"] - batch.numbers["groups/too_old"] for batch in batches])
  assert all(count <= (3 + step + 1) * P for step, count in enumerate(begun))
  old = collected(Collector(run_of(max_staleness=3, slots=64), pool), range(STEPS))
  assert max(batch.numbers.get("staleness/max", 0) for batch in old) >= 3


def test_groups_with_one_reward_are_replaced_here_too(pool):
  collector = Collector(run_of(refill_zero_variance=True, max_waves=30), pool)
  batches = collected(collector, range(STEPS))
  assert all(np.ptp(batch.rollouts.rewards, axis=1).all() for batch in batches)
  written(batches)
  count = lambda name: sum(batch.numbers[f"groups/{name}"] for batch in batches)
  assert count("same_reward") == count("unused") > 0
  assert count("begun") == STEPS * P + count("unused") + len(collector.state()["groups"])
  few = collected(Collector(run_of(refill_zero_variance=True, max_waves=1), pool), range(STEPS))
  written(few)
  begun = np.cumsum([batch.numbers["groups/begun"] - batch.numbers["groups/unused"] for batch in few])
  assert all(count <= (1 + step + 1) * P for step, count in enumerate(begun))


@pytest.mark.parametrize("rollout", [{}, dict(refresh_cache=True), dict(max_staleness=3, slots=48, prefix_sharing="lanes")])
def test_a_restored_collector_takes_up_what_was_on_its_way(pool, rollout, monkeypatch):
  """Whatever had a verdict keeps it, and all others are judged; every visit and sample is trained once."""
  ahead = int("refresh_cache" in rollout)
  monkeypatch.setattr(collect, "training_shape", lambda *of: rollout_plan.training_shape(*of)._replace(ahead=ahead))
  run = run_of("stamped", **rollout)
  first = Collector(run, pool)
  before = collected(first, range(3))
  state = json.loads(json.dumps(first.state()))
  again = Collector(run, pool)
  again.restore(state)
  assert told(again.state()).keys() == told(state).keys()
  twice = json.loads(json.dumps(again.state()))  # nothing has run in between
  for name, had in told(twice).items():
    assert all((had[field] == told(state)[name][field]).all() for field in ("tokens", "logprobs", "versions", "own"))
  again = Collector(run, pool)
  again.restore(twice)
  after = collected(again, range(3, 8))
  trained = written(before + after)
  on_way = told(state)
  assert any(had["judged"] for had in on_way.values()) or not rollout
  assert any(had["tokens"].size for had in on_way.values() if not had["judged"])
  for name, had in on_way.items():
    assert name in trained and begins_with(trained[name], had)
    if had["judged"]:
      assert trained[name].verdict.detail == had["judged"]["detail"]
  begun = {visit for visit, _ in trained} | {visit for visit, _ in told(again.state())}
  begun |= {group["visit"] for group in again.state()["groups"]}
  assert begun == set(range(again.state()["queue"]["next_visit"]))


def test_whole_groups_are_taken_up_in_the_order_in_which_they_ended(pool):
  run = run_of(max_staleness=3, slots=64, chunk=1)
  first = Collector(run, pool)
  collected(first, range(1))
  params = run.programs.rollout.prepare(params_of(0))
  with jax.set_mesh(run.mesh):
    while len(first._answers.ready()) < 5:
      first._answers.advance(params, 0)
  again = Collector(run, pool)
  again.restore(json.loads(json.dumps(first.state())))
  order = [[group.visit for group in one._answers.ready()] for one in (first, again)]
  assert order[0] == order[1] != sorted(order[0])


@pytest.mark.parametrize("ahead", [0, 1])
def test_saving_changes_nothing(pool, ahead, monkeypatch):
  """Also where a chunk is dispatched before the last one was looked at."""
  monkeypatch.setattr(collect, "training_shape", lambda *of: rollout_plan.training_shape(*of)._replace(ahead=ahead))
  saved, plain = Collector(run_of(), pool), Collector(run_of(), pool)
  for step in range(6):
    (one,), (other,) = collected(saved, [step]), collected(plain, [step])
    jax.tree.map(np.testing.assert_array_equal, one.rollouts, other.rollouts)
    saved.state()
