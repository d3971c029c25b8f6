"""Laws of router replay: what is recorded is what the routers chose, and an update takes it in the place of their choice."""

import dataclasses
import functools

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_replies
import tiny

from jaxreason import assemble, build, packing, passes, pending, rollout_plan, sampled, sharding, update
from jaxreason import settings as rooms
from jaxreason.errors import UserError
from jaxreason.model import decoder, weights
from jaxreason.objective import Objective
from jaxreason.rewards.verdict import Verdict
from jaxreason.rollout.engine import Draw
from jaxreason.sharding import MeshSizes

CONFIG = dataclasses.replace(tiny.CONFIG, experts=4, experts_per_token=2, expert_mlp=16, normalize_routing=True)
# With one expert a token its weight is 1 whatever the router says: a router then decides who, and nothing else.
ONE = dataclasses.replace(CONFIG, experts_per_token=1)
PROMPTS = [tiny.tokens(seed, length) for seed, length in enumerate((3, 6, 4, 6))]


@functools.cache
def programs(config, routed=True):
  return rollout_plan.rollout_programs(config, routed=routed)


@functools.partial(jax.jit, static_argnums=1)
def chosen_of(params, config, tokens):
  columns = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  return decoder.apply(params, config, tokens, columns).aux.chosen


@pytest.mark.parametrize("lane", [1, 2], ids=["copies", "lanes"])
@pytest.mark.parametrize("give_up", [False, True], ids=["in its slot", "in another slot"])
def test_the_experts_of_every_token_that_was_fed_are_recorded(lane, give_up):
  """Of prompts, of what the policy wrote and of what was said to it, slots refilled."""
  params = tiny.params(CONFIG)
  made = programs(CONFIG)
  with_prompts = {visit: prompt for visit, prompt in test_replies.PROMPTS.items() if visit in list(test_replies.PROMPTS)[:4]}
  sizes = drawn.shape(4, lane=lane, budget=test_replies.T)
  found = test_replies.conversed(
    sizes, prompts=with_prompts, group=2, give_up=give_up, programs=made, params=made.prepare_training(params)
  )
  assert sum(test_replies.turns(written) for written in found.values()) > 4
  for written in found.values():
    whole = np.concatenate([with_prompts[written.visit], written.record.tokens])
    expected = np.asarray(chosen_of(params, CONFIG, np.pad(whole, (0, 64 - len(whole)))[None]))[:, 0, : len(whole) - 1]
    expected = np.sort(np.moveaxis(expected, 0, 1), axis=-1)
    got = np.concatenate([written.prompt_experts, written.record.experts])
    np.testing.assert_array_equal(np.sort(got.reshape(len(got), CONFIG.layers, -1), axis=-1), expected)
    again = pending._written(written.visit, pending._of_written(written))
    np.testing.assert_array_equal(again.record.experts, written.record.experts)
    np.testing.assert_array_equal(again.prompt_experts, written.prompt_experts)


def judged(row, tokens) -> Verdict:
  right = sum(tokens) % 2
  return Verdict(float(right), "correct" if right else "wrong")


@functools.cache
def batch(config, routed=True):
  draw = Draw(jax.random.key(3), (tiny.STOP,))
  params = tiny.params(config)
  rollouts = sampled.rollouts(programs(config, routed), params, PROMPTS, judged, draw, group=4, max_new_tokens=8, slots=8)
  made = assemble.assemble(rollouts, objective=Objective(), width=8)
  layout = packing.pack(made.prompt_lengths, made.lengths, columns=made.tokens.shape[1], row_tokens=32, micro_batches=2)
  return {"a row for each sample": made, "packed": made.replace(layout=jax.tree.map(jnp.asarray, layout))}


def turned(params):
  """The same model with routers that would choose others."""
  return params.replace(blocks=params.blocks.replace(router=-params.blocks.router))


logprobs = jax.jit(
  lambda params, batch, config: passes.completions(params, batch, 1.0, config=config, micro_batches=2)[0], static_argnums=2
)


@pytest.mark.parametrize("rows", ["a row for each sample", "packed"])
def test_an_update_takes_the_recorded_experts_in_the_place_of_its_routers_choice(rows):
  made, params = batch(ONE)[rows], tiny.params(ONE)
  trained = lambda values: np.where(made.mask, values, 0.0)
  recorded = trained(made.behavior_logprobs)
  np.testing.assert_allclose(trained(logprobs(params, made, ONE)), recorded, atol=1e-4)
  np.testing.assert_allclose(trained(logprobs(turned(params), made, ONE)), recorded, atol=1e-4)
  free = trained(logprobs(turned(params), made.replace(experts=None), ONE))
  assert np.abs(free - recorded).max() > 0.01
  others = jax.jit(functools.partial(passes.with_reference, config=ONE, micro_batches=2))(turned(params), made, 1.0)
  np.testing.assert_allclose(trained(others.reference_logprobs), free, atol=1e-4)  # another model routes by itself


@pytest.mark.parametrize("rows", ["a row for each sample", "packed"])
def test_over_an_axis_of_experts_gradients_are_those_of_one_device_and_reach_the_routers(rows):
  made = batch(CONFIG)[rows]
  step = functools.partial(update.value_and_gradients, config=CONFIG, objective=Objective(), micro_batches=2)
  params = turned(tiny.params(CONFIG))
  expected, told = jax.jit(step)(params, made, 1.0)
  mesh = sharding.make_mesh(MeshSizes(2, expert=2), jax.devices()[:4])
  with jax.set_mesh(mesh):
    layout = made.layout and packing.pack(
      made.prompt_lengths, made.lengths, columns=made.tokens.shape[1], row_tokens=32, micro_batches=2, multiple=4
    )
    placed = jax.device_put(params, weights.shardings(CONFIG, mesh))
    gradients, stats = jax.jit(step)(placed, made.replace(layout=layout), 1.0)
  assert float(stats["loss"]) == pytest.approx(float(told["loss"]), rel=1e-5)
  assert np.all(np.linalg.norm(expected.blocks.router, axis=-1).sum(-1) > 0)
  for got, leaf in zip(*map(jax.tree.leaves, (gradients, expected)), strict=True):
    assert np.linalg.norm(np.asarray(got) - np.asarray(leaf)) <= 1e-5 * np.linalg.norm(leaf)


def test_without_the_switch_nothing_is_recorded_and_samples_are_the_same():
  free, recorded = batch(CONFIG, False)["packed"], batch(CONFIG)["packed"]
  assert free.experts is None and recorded.experts is not None
  jax.tree.map(np.testing.assert_array_equal, free, recorded.replace(experts=None))


def test_a_dense_model_has_no_routing_to_replay():
  config = rooms.default_config()
  config.rollout.replay_routing = True
  with pytest.raises(UserError, match=r"config.rollout.replay_routing expected False, got True: the model has no experts"):
    build.build(rooms.freeze(config), devices=jax.devices()[:1])
