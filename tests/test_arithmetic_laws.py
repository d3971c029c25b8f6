"""Laws of every public function of the arithmetic (`arithmetic_cases`).

All functions run in one program a law, which compiles once; a test is one function's part of what came out.
"""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arithmetic_cases import CASES, EMPTY, ROOMS, Case, G, P, S, T, example
from jax.sharding import Mesh, PartitionSpec

from jaxreason import masks

every = pytest.mark.parametrize("name", CASES)
EXAMPLE = example()
PLAIN = np.float32(0), False
# Arrays whose last axis is not one of tokens.
VOCABULARY = ("student", "teacher", "logits", "several", "judged")


def arguments(one, arrays, garbage, soiled):
  """The case's arrays by argument, with garbage, if `soiled`, in all that its mask and its validity leave out. Where a
  function takes no mask, a reduction leaves its loss at padding out, and log-probabilities there may be garbage too."""
  found = {}
  for argument, name in one.arrays.items():
    x = jnp.asarray(arrays[name])
    if argument not in ("mask", "valid") and jnp.issubdtype(x.dtype, jnp.floating):
      kept = jnp.ones(x.shape, bool)
      if "valid" in one.arrays and (x.ndim > 2):
        valid = jnp.asarray(arrays[one.arrays["valid"]])
        kept &= valid if valid.ndim == x.ndim else valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim))
      if "mask" in one.arrays:
        mask = jnp.asarray(arrays["mask"])
        kept &= mask if x.ndim == 4 else mask.any(-1) if x.ndim == 3 else True
      elif argument.endswith("logprobs") and x.ndim == 4 and name not in VOCABULARY:
        kept &= jnp.asarray(arrays["mask"])
      x = jnp.where(soiled & ~kept, garbage.astype(x.dtype), x)
    found[argument] = x
  return found


def read(out, arrays):
  """What is looked at of an output: of one value a token, those of the mask."""
  mask = jnp.asarray(arrays["mask"])
  return jnp.where(mask, out, 0) if out.shape == mask.shape else out


def outcome(one, arrays, garbage, soiled, call=Case.__call__):
  """(outputs, the gradient of their sum by each float argument)."""
  given = arguments(one, arrays, garbage, soiled)
  floating = {argument: x for argument, x in given.items() if jnp.issubdtype(x.dtype, jnp.floating)}

  def total(floating):
    outputs = jax.tree.map(lambda out: read(out, arrays), call(one, {**given, **floating}))
    summed = [jnp.sum(out) for out in jax.tree.leaves(outputs) if jnp.issubdtype(out.dtype, jnp.floating)]
    return sum(summed, jnp.float32(0)), outputs

  gradients, outputs = jax.grad(total, has_aux=True)(floating)
  return outputs, gradients


@jax.jit
def everything(arrays, garbage, soiled):
  return {name: outcome(one, arrays, garbage, soiled) for name, one in CASES.items()}


@functools.cache
def plain():
  return jax.device_get(everything(EXAMPLE, *PLAIN))


def check_finite(outcome, when=""):
  for leaf in jax.tree.leaves(outcome):
    assert np.isfinite(np.asarray(leaf, np.float64)).all(), when


def check_close(got, expected, **tolerance):
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, **{"rtol": 1e-4, "atol": 1e-5, **tolerance})


def test_the_table_has_every_public_function():
  public = {
    f"{room.__name__}.{name}"
    for room in ROOMS
    for name, function in vars(room).items()
    if inspect.isfunction(function) and not name.startswith("_") and name in getattr(room, "__all__", [name])
    if hasattr(room, "__all__") or function.__module__ == room.__name__
  }
  in_table = {
    f"{room.__name__}.{one.function.__name__}" for one in CASES.values() for room in ROOMS
    if one.function.__module__.startswith(room.__name__)
  }  # fmt: skip
  assert public == in_table


@every
def test_values_and_gradients_are_finite_and_nothing_flows_through_a_mask(name):
  """The mask has holes, and one row of each group is empty."""
  outputs, gradients = plain()[name]
  check_finite((outputs, gradients))
  for argument, gradient in gradients.items():
    if gradient.shape == EXAMPLE["mask"].shape and "mask" in CASES[name].arrays:
      assert not gradient[~EXAMPLE["mask"]].any(), argument


@functools.cache
def soiled(garbage):
  return jax.device_get(everything(EXAMPLE, np.float32(garbage), True))


@every
def test_what_is_masked_is_read_by_nobody(name):
  for garbage in (np.nan, -np.inf, np.inf, 1e30):
    check_close(soiled(garbage)[name], plain()[name], rtol=1e-6, atol=1e-7)


LOG = [name for name in EXAMPLE if name.endswith("logprobs")]
EXTREMES = {
  "down": lambda name, x: x - 1e4 if name == "logprobs" or "chosen" in name else x,
  "up": lambda name, x: x + 1e4 if name == "logprobs" or "chosen" in name else x,
  "impossible": lambda name, x: np.full_like(x, -np.inf) if name == "logprobs" or "chosen" in name else x,
  "sampler_impossible": lambda name, x: x if name == "logprobs" else np.full_like(x, -np.inf),
  "both_impossible": lambda name, x: np.full_like(x, -np.inf),
  "some_of_each": lambda name, x: np.where(
    np.random.default_rng(len(name)).random(x.shape) < 0.5, -np.inf, x - 1e4 * (len(name) % 3)
  ).astype(np.float32),
}


@functools.cache
def extreme(kind):
  arrays = {name: EXTREMES[kind](name, x) if name in LOG else x for name, x in EXAMPLE.items()}
  return jax.device_get(everything(arrays, *PLAIN))


@every
def test_any_log_ratio_is_finite_with_its_gradient(name):
  """Log-probabilities 10,000 nats apart, and impossible tokens, at masked and unmasked places alike."""
  for kind in EXTREMES:
    check_finite(extreme(kind)[name], kind)


@functools.cache
def without_a_token():
  arrays = {**EXAMPLE, **{name: np.zeros_like(EXAMPLE[name]) for name in ("mask", "valid", "judged")}}
  return jax.device_get(everything(arrays, *PLAIN))


@every
def test_a_batch_without_a_token_or_a_verdict_is_finite(name):
  check_finite(without_a_token()[name])


# Made at random by place.
NOT_OF_HOLES = {"clip_cov_choice"}


def cut(name, x, mask):
  """Without the samples that are empty and without the places that the mask leaves out."""
  if x.ndim < 3:
    return x
  x, mask = np.delete(x, EMPTY, axis=2), np.delete(mask, EMPTY, axis=2)
  return x if x.ndim == 3 or name in VOCABULARY else x[mask].reshape(*mask.shape[:-1], 4)


@functools.cache
def without_holes():
  arrays = {name: cut(name, x, EXAMPLE["mask"]) for name, x in EXAMPLE.items()}
  values = lambda arrays: {name: one(arguments(one, arrays, *PLAIN)) for name, one in CASES.items()}
  return jax.device_get(jax.jit(values)(arrays))


@pytest.mark.parametrize("name", sorted(CASES.keys() - NOT_OF_HOLES))
def test_holes_and_empty_rows_are_as_if_they_had_been_deleted(name):
  tidy = lambda out: cut("", out, EXAMPLE["mask"]) if out.shape[:3] == (S, P, G) else out
  check_close(without_holes()[name], jax.tree.map(tidy, plain()[name][0]))


@functools.cache
def mapped_on_two_devices():
  """Unit by unit under vmap, under grad, under shard_map, under jit."""
  mesh = Mesh(np.asarray(jax.devices()[:2]), ("stack",))
  part = lambda arrays: {name: outcome(one, arrays, *PLAIN, call=Case.mapped) for name, one in CASES.items()}
  stacks = PartitionSpec("stack")
  return jax.device_get(jax.jit(jax.shard_map(part, mesh=mesh, in_specs=stacks, out_specs=stacks))(EXAMPLE))


@every
def test_leading_axes_vmap_and_shard_map_agree(name):
  check_close(mapped_on_two_devices()[name], plain()[name])


def rounded(x):
  return np.asarray(x.astype(jnp.bfloat16)) if x.dtype == np.float32 else x


@functools.cache
def of_half_precision():
  arrays = {name: rounded(x) for name, x in EXAMPLE.items()}
  values = lambda arrays: {name: one(arguments(one, arrays, *PLAIN)) for name, one in CASES.items()}
  widened = {name: x.astype(np.float32) if x.dtype == jnp.bfloat16 else x for name, x in arrays.items()}
  return jax.device_get((jax.jit(values)(arrays), everything(widened, *PLAIN)))


@every
def test_half_precision_is_widened_before_anything_is_computed(name):
  half, full = (outcomes[name] for outcomes in of_half_precision())
  check_close(jax.tree.map(lambda out: np.asarray(read(out, EXAMPLE)), half), full[0])
  assert {leaf.dtype for leaf in jax.tree.leaves(half)} <= {np.dtype(np.float32), np.dtype(bool)}


@every
def test_float64_is_kept(name):
  with jax.enable_x64(True):
    given = {a: np.float64(EXAMPLE[n]) if EXAMPLE[n].dtype == np.float32 else EXAMPLE[n] for a, n in CASES[name].arrays.items()}
    found = {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(CASES[name], jax.tree.map(jnp.asarray, given)))}
  assert found <= ({np.dtype(np.float32)} if name == "clip_fractions" else {np.dtype(np.float64), np.dtype(bool)})


@functools.cache
def of_one_token():
  """One sample a group, of one token, half of them masked; and rows of many places with one token, or none."""
  short = lambda name, x: x[:, :, :1, :1] if x.ndim == 4 and name not in VOCABULARY else x[:, :, :1] if x.ndim > 2 else x
  arrays = {name: short(name, x) for name, x in EXAMPLE.items()}
  arrays["mask"] = np.arange(S * P).reshape(S, P, 1, 1) % 2 == 0
  sparse = {**EXAMPLE, "mask": EXAMPLE["mask"] & (np.arange(T) == 3)}
  return jax.device_get([everything(arrays, *PLAIN), everything(sparse, *PLAIN)])


@every
def test_one_token_and_a_group_of_one_are_finite(name):
  for outcomes in of_one_token():
    check_finite(outcomes[name])


def refused(one, given, argument):
  """Tracing alone finds bad input."""
  with pytest.raises(ValueError, match=r"expected .*, got ") as error:
    jax.eval_shape(one.call, {a: jnp.asarray(x) for a, x in given.items()})
  assert one.function.__name__ in str(error.value) or name_of_inner(one) in str(error.value), argument


def name_of_inner(one):
  """Some functions are others with a setting."""
  return {
    "gpg": "reinforce", "kimi_quadratic": "dro", "clip_cov": "clipped_surrogate", "decoupled_surrogate": "clipped_surrogate",
    "centered": "group_relative", "leave_one_out": "group_relative", "lite_ppo": "group_relative", "token_mean": "masked_mean",
    "icepop": "masked_importance_weights", "constant_norm": "sequence_sum",
  }.get(one.function.__name__, one.function.__name__)  # fmt: skip


COUNTED = {"lengths", "correct", "total", "denominator"}


@every
def test_bad_input_is_told_with_the_function_and_what_was_expected(name):
  one = CASES[name]
  first = lambda x: x[(0,) * (4 - one.unit)] if x.ndim > 2 or one.unit == 3 else x
  unit = {argument: first(EXAMPLE[array]) for argument, array in one.arrays.items()}
  for argument, x in unit.items():
    integers_are_bad = x.dtype == np.float32 and argument not in COUNTED and one.function.__module__ != masks.__name__
    if integers_are_bad:
      refused(one, {**unit, argument: np.zeros(x.shape, np.int32)}, argument)
    if len(unit) > 1 and x.ndim and name not in ("divide",):
      refused(one, {**unit, argument: np.concatenate([x, x])}, argument)
  if "rewards" in unit and one.unit == 3:
    empty = {argument: x[:, :0] if x.ndim > 1 else x for argument, x in unit.items()}
    refused(one, empty, "G = 0")


@every
def test_nothing_at_all_is_nothing_or_told(name):
  """No prompts, no samples or no tokens: empty arrays, or an error that is ours."""
  one = CASES[name]
  for axis, free in itertools.product((1, 2, 3), (False, True)):
    none = {a: jnp.asarray(EXAMPLE[n].take([], axis) if EXAMPLE[n].ndim > axis else EXAMPLE[n]) for a, n in one.arrays.items()}
    try:
      jax.eval_shape(one.mapped if free or not one.free else one.call, none)
    except ValueError as error:
      assert "expected" in str(error), (axis, error)
