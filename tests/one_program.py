"""Three steps of one run, from prompts to gradients, and what they told; started as a program, one process of several.

Arguments: own number, processes, port, file for the result, checkpoint, a JSON object of settings. Process 0 writes the result.
"""

import json
import sys

import jax
import numpy as np

STEPS = 3


def settings_of(source, **sizes):
  import tiny_run

  # Rewards that answers drawn at random differ in; an optimizer whose step grows with the gradient: where that of a parameter
  # is nothing but roundings, AdamW's first step is as large as any.
  return tiny_run.settings(
    sft__steps=0, train__steps=STEPS, train__row_tokens=0, rollout__prompts=8, rollout__group=2, objective__kl_coef=0.0,
    rewards__compose='[{"verifier": "length", "most": 2, "edge": 12}]', rewards__require_finished=False,
    model__source=str(source), optimizer__name="sgd", optimizer__b1=0.0, optimizer__peak_lr=0.1,
    optimizer__clip_norm=0.0, **{f"mesh__{axis}": size for axis, size in sizes.items()},
  )  # fmt: skip


def told_of(source, checkpoints=None, **sizes):
  """{name: array} of `STEPS` steps: tokens, advantages, loss and the gradient of every parameter.

  Args:
    source: the checkpoint that the run begins from.
    checkpoints: a directory for what the last step leaves; None for none.
    sizes: of the mesh.
  """
  import tiny

  from jaxreason import build, processes, train
  from jaxreason.answers import pool_of
  from jaxreason.checkpoint import Checkpoints
  from jaxreason.collect import Collector
  from jaxreason.progress import Held, Progress, saved_tree

  settings = settings_of(source, **sizes)
  count = int(np.prod([max(1, size) for size in vars(settings.mesh).values()]))
  run = build.build(settings, devices=jax.devices()[:count])
  found = {}
  with jax.set_mesh(run.mesh), pool_of(settings) as pool:
    collector, held, progress = Collector(run, pool), Held(None, None, None), Progress("", "")
    held.state = run.programs.start_rl(run.initial_params())
    for step in range(STEPS):
      underway = train.begin(run, collector, held, progress, (None, None), step)
      held.state, stats = run.programs.update(held.state, underway.batch, 1.0)
      found[f"{step} tokens"] = processes.fetched(underway.batch.tokens)
      found[f"{step} advantages"] = processes.fetched(underway.batch.advantages)
      found[f"{step} loss"] = np.asarray(stats["loss"])
      # Plain gradient descent keeps the last gradient as its momentum.
      (gradients,) = (leaf for leaf in jax.tree.leaves(held.state.opt_state, is_leaf=tiny.is_params) if tiny.is_params(leaf))
      for name, leaf in jax.tree_util.tree_leaves_with_path(processes.fetched(gradients)):
        found[f"{step} gradient{jax.tree_util.keystr(name)}"] = leaf
    if checkpoints:
      with Checkpoints(checkpoints) as steps:
        steps.save(STEPS, saved_tree(held.state), {})
  return found


def main(number: str, count: str, port: str, result: str, source: str, sizes: str) -> None:
  jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(number), initialization_timeout=60)
  found = told_of(source, f"{result}.checkpoints", **json.loads(sizes))
  met = met_elsewhere()
  if jax.process_index() == 0:
    np.savez(result, **found, devices=jax.device_count(), met=met)


def met_elsewhere() -> str:
  """What this process is told of what process 1 met."""
  from jaxreason import processes
  from jaxreason.errors import UserError

  try:
    processes.agree(UserError("the disk is full") if jax.process_index() == 1 else None)
  except UserError as error:
    return str(error)
  return ""


if __name__ == "__main__":
  main(*sys.argv[1:])
