"""Floor 5, command line: `jaxreason plan`.

What enters: a config and topologies of chips that need not be here. What leaves: for each program of a step what it needs
there, on the terminal or as one JSON object; exit status 3 where one does not fit.
"""

import argparse
import json

import jax
from jax.experimental import topologies

from jaxreason import rollout_plan, settings, sharding
from jaxreason.cli import config as configs
from jaxreason.errors import UserError
from jaxreason.initial import reader_of
from jaxreason.model import weights
from jaxreason.model.config import ModelConfig
from jaxreason.plan import account, chips, growth, models, programs
from jaxreason.plan.chips import GIB, Topology
from jaxreason.report.display import Display, display
from jaxreason.settings import RunSettings

DOES_NOT_FIT = 3


def command(arguments: argparse.Namespace, found: list[Topology]) -> int:
  """Plans for each topology; the compiler's environment is there already."""
  if not arguments.config:
    raise UserError(f"jaxreason plan expected --config, got none; give one of {', '.join(configs.shipped())} or a path")
  chosen = settings.freeze(configs.apply(configs.read(configs.locate(arguments.config)), arguments.overrides))
  if chosen.stage != "train" or not chosen.train.steps:
    raise UserError("jaxreason plan expected a config with steps of reinforcement learning, got none")
  if chosen.lora.rank:
    raise UserError(f"jaxreason plan expected config.lora.rank=0, got {chosen.lora.rank}; plans are of whole models")
  with display({}, quiet=arguments.json or arguments.quiet) as show:
    reports = [planned(chosen, topology, show) for topology in found]
    if arguments.plot:
      show.say(f"growth: {growth.draw(reports, arguments.plot)}")
  if arguments.json:
    print(json.dumps(reports[0] if len(reports) == 1 else reports))
  return 0 if all(report["fits"] for report in reports) else DOES_NOT_FIT


def planned(chosen: RunSettings, topology: Topology, show: Display) -> dict:
  """One topology's report, told as it comes."""
  devices = devices_of(topology)
  mesh = sharding.make_mesh(chosen.mesh, devices)
  told, held = [], None
  with jax.set_mesh(mesh):
    model = programs.settled(chosen, model_of(chosen), mesh)
    there = f"{topology.name}, {len(devices)} x {topology.chip.memory / GIB:.2f} GiB"
    show.say(f"{chosen.name}: {chosen.model.source}, {weights.count(model):,} parameters; {there}")
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1) or "one device"
    decoding, _ = rollout_plan.decode_kernel(chosen, model, mesh)
    show.say(f"mesh: {sizes}; attention in training: {model.attention}, in decoding: {decoding}")
    for one in programs.made(chosen, model, mesh):
      if isinstance(one, programs.Resident):
        held = one
        parts = {"weights": held.weights, "optimizer": held.optimizer, "reference": held.reference}
        parts |= {"rollout copy": held.copy, "KV cache": held.cache}
        show.say("on each chip: " + ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in parts.items() if size))
        continue
      told.append(account.of_program(one, chosen, model, topology.chip, len(devices), slices_of(mesh)))
      show.say(line_of(told[-1]))
    left = account.room(told, held, chosen, sharding.parts("slots", mesh)) if held else {}
  misfits = [one for one in told if not one["fits"]]
  for one in misfits:
    show.say(f"{one['name']} does not fit{over(one)}: {account.advice(one, chosen)}")
  if not misfits:
    rows = f"micro-batches of {left['micro_batch_sequences']} sequences"
    show.say(f"fits; room for {left['slots']} rollout slots (now {held.slots}), or {rows}")
  report = {"config": chosen.name, "topology": topology.name, "chips": len(devices), "mesh": dict(mesh.shape)}
  return report | {"held": held and held._asdict(), "programs": told, "room": left, "fits": not misfits}


def devices_of(topology: Topology) -> list:
  """The chips of a topology, as a compiler knows them."""
  kind = topology.chip.platform
  options = {"topology_name": topology.compiler_name}
  if kind == "cuda":
    options = {"target_config": chips.H100_TARGET, "topology": topology.compiler_name}
  try:
    return list(topologies.get_topology_desc(platform=kind, **options).devices)
  except (RuntimeError, ValueError, NotImplementedError) as error:
    reason = str(error).strip().splitlines()[0][:200]
    raise UserError(f"--topology expected a grid that {kind} compilers know, got {topology.name}: {reason}") from error


def model_of(chosen: RunSettings) -> ModelConfig:
  """The sizes of the config's model, from the table or the checkpoint that it names."""
  source = chosen.model.source
  if not source:
    raise UserError("jaxreason plan expected config.model.source, got none; name a checkpoint or a model on the hub")
  return models.config(source) or reader_of(source).read_config(source)


def slices_of(mesh) -> list[int]:
  """Of each device in the mesh's order the slice that it is in; of GPUs the host."""
  if mesh.devices.flat[0].platform != "tpu":
    return [device.process_index for device in mesh.devices.flat]
  try:
    return [device.slice_index for device in mesh.devices.flat]
  except AttributeError:  # a topology of one slice does not number it
    return [0] * mesh.size


def over(program: dict) -> str:
  """By how much, where it was compiled; the compiler's words where it was not."""
  if "total" not in program:
    return f" ({program['problem']})"
  return f" by {(program['total'] - program['allowed']) / GIB:.2f} GiB"


def line_of(program: dict) -> str:
  """A program in one line."""
  if "total" not in program:
    return f"  {program['name']:<9} does not compile into the memory there is"
  kinds = ", ".join(
    f"{one['count']} {kind} ({(one['inside'] + one['between']) / GIB:.2f} GiB)" for kind, one in program["collectives"].items()
  )
  return (
    f"  {program['name']:<9} {program['total'] / GIB:6.2f} of {program['allowed'] / GIB:.2f} GiB (arguments "
    f"{program['arguments'] / GIB:.2f}, temporary {program['temporary'] / GIB:.2f}, "
    f"beside it {program['resident'] / GIB:.2f}); "
    f"{program['flops'] / 1e12:.2f} Tflop, at least {1e3 * program['seconds_at_least']:.1f} ms by {program['bound_by']}; "
    f"{kinds or 'no collectives'}; compiled in {program['compile_seconds']:.0f} s"
  )
