"""Floor 4: from frozen settings to the parts of a run, everything jitted once.

What enters: `RunSettings`. What leaves: a `Run`: rows, tokenizer, model configuration, mesh and compiled programs with
their shardings and donations bound. `read` checks all that can be checked without a device; `place` makes the mesh.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from jaxreason import assemble as assembly
from jaxreason import checks, packing, passes, phases, processes, rollout_plan, sharding, stored, tasks
from jaxreason import objective as objectives
from jaxreason.data import tokenizer as tokenizers
from jaxreason.data.characters import FILE as CHARACTERS_FILE
from jaxreason.data.characters import characters, load_characters
from jaxreason.data.tokenizer import Tokenizer
from jaxreason.errors import UserError
from jaxreason.initial import adapters_of, initial_params, reader_of
from jaxreason.model import quantized, remat, training_attention, weights
from jaxreason.model.config import ModelConfig
from jaxreason.records import Layout
from jaxreason.rollout.engine import RolloutPrograms
from jaxreason.settings import RunSettings
from jaxreason.tasks import Rows


class Programs(NamedTuple):
  """The compiled parts of a step."""

  rollout: RolloutPrograms
  assemble: Callable  # (rollouts, width=) -> Batch
  reference: Callable  # (reference, batch, temperature, rewards, judged) -> batch with reference_logprobs
  teacher: Callable | None  # (params, batch, temperature) -> batch with teacher_logprobs; None without a teacher
  values: Callable  # (critic, batch, rewards) -> batch with values, advantages and returns
  old_policy: Callable  # (params, batch, temperature) -> batch with old_logprobs
  take: Callable  # (batch without a layout, rows) -> the samples `rows` of it
  supervise: Callable  # (state, batch, temperature) -> (state, stats), donated
  update: Callable  # the same of the stage after that: reinforcement learning, or pairs
  start_sft: Callable  # (params) -> TrainState; of adapters' params the base is the state's as it is
  start_rl: Callable  # the same for the stage after that
  start_reference: Callable  # (params that are trained) -> reference
  sync_reference: Callable  # (reference, params that are trained) -> reference


class Run(NamedTuple):
  """All that a run is made of, before its first step."""

  settings: RunSettings
  rows: Rows
  tokenizer: Tokenizer
  config: ModelConfig
  mesh: jax.sharding.Mesh
  programs: Programs
  initial_params: Callable  # () -> params on the mesh
  teacher_params: Callable | None  # the same of the teacher; None without one
  reward_model: ModelConfig | None = None  # sizes of the model that scores samples; None without one


class Parts(NamedTuple):
  """What a run is made of that needs no device."""

  settings: RunSettings
  rows: Rows
  tokenizer: Tokenizer
  config: ModelConfig  # its compute dtype is settled once the platform is known
  teacher: ModelConfig | None  # the same of the teacher; None without one
  reward_model: ModelConfig | None = None  # the same of the model that scores samples; None without one


def build(settings: RunSettings, *, devices=None) -> Run:
  """Makes a `Run`: `read`, then `place`.

  Args:
    settings: of `settings.freeze`.
    devices: default all.

  Raises:
    UserError: one line for what does not fit together.
  """
  return place(read(settings), devices=devices)


def read(settings: RunSettings) -> Parts:
  """Rows, tokenizer and model sizes: all that can be wrong without a device. Raises UserError for what is."""
  load = tasks.load_pairs if settings.stage == "preference" else tasks.load
  rows = load(settings.data, problems=settings.evaluation.problems, seed=settings.seed)
  checks.check_rows(settings, rows)
  tokenizer = load_tokenizer(settings)
  if settings.stage == "preference":
    rows = checks.fitting_pairs(settings, rows, tokenizer)
  config = model_config(settings, tokenizer)
  if settings.model.source:
    checks.check_positions(settings, config.max_positions)
  checks.check_environment(settings, tokenizer)
  if settings.rollout.matmul != "compute":
    quantized.check()
    if config.experts:
      raise UserError(f"config.rollout.matmul expected compute for a model with experts, got {settings.rollout.matmul!r}")
  if settings.rollout.replay_routing and not config.experts:
    raise UserError("config.rollout.replay_routing expected False, got True: the model has no experts")
  checks.check_lengths(settings, rows, tokenizer)
  for phase in ("sft", settings.stage):  # learning rates of parameters that the model has
    phases.transformation(settings, config, phase), phases.critic_transformation(settings, config, phase)
  return Parts(
    settings, rows, tokenizer, config, teacher_config(settings, tokenizer), reward_model_config(settings, tokenizer)
  )


def place(parts: Parts, *, devices=None) -> Run:
  """The parts on a mesh over `devices` (default all), with their programs. Raises UserError for sizes that do not divide."""
  settings = parts.settings
  mesh = sharding.make_mesh(settings.mesh, devices)
  checks.check_batches(settings, mesh)
  checks.check_memory(settings, mesh)
  checks.check_processes(settings)
  models = (parts.config, parts.teacher, parts.reward_model)
  config, teacher, scorer = (part and settled(part, settings, mesh) for part in models)
  if config.remat == "offload":
    remat.check_offload(mesh.devices.flat[0])
  for model in filter(None, (config, teacher, scorer)):
    sharding.check_divides(
      mesh, heads=model.heads, kv_heads=model.kv_heads, mlp=model.expert_mlp or model.mlp, vocab=model.vocab_size,
      embed=model.embed,
    )  # fmt: skip
    if model.experts:
      sharding.check_divides(mesh, expert=model.experts)
  programs = compile_programs(settings, config, mesh, teacher)
  params = initial_params(settings.model.source, settings.seed, config, mesh, settings.lora.source)
  teacher_params = teacher and initial_params(settings.teacher.source, settings.seed, teacher, mesh)
  return Run(settings, parts.rows, parts.tokenizer, config, mesh, programs, params, teacher_params, scorer)


def longest(settings: RunSettings) -> int:
  """Positions that a model from scratch declares: what it is trained on, and 2,048 at least."""
  shape = settings.rollout
  given = [section.max_tokens for section in (settings.sft, settings.preference) if section.steps]
  return max(2048, shape.max_prompt_tokens + shape.max_new_tokens, *given)


def load_tokenizer(settings: RunSettings) -> Tokenizer:
  """The model's tokenizer, or the task's characters for a model from scratch."""
  if settings.model.source:
    return tokenizer_of(settings.model.source, chat=settings.model.chat)
  alphabet = tasks.alphabet(settings.data)
  if alphabet is None:
    raise UserError(
      f"config.model.source expected a checkpoint for task {settings.data.task!r}, got none; give a path or a hub id"
    )
  return characters(alphabet)


def tokenizer_of(source: str, *, chat: bool) -> Tokenizer:
  """The tokenizer that lies with a checkpoint."""
  if (Path(source).expanduser() / CHARACTERS_FILE).is_file():  # an exported run whose tokenizer was ours
    return load_characters(Path(source).expanduser())
  reader = reader_of(source)
  return tokenizers.from_transformers(reader.tokenizer(source), chat=chat, stop_ids=reader.stop_ids(source))


def teacher_config(settings: RunSettings, tokenizer: Tokenizer) -> ModelConfig | None:
  """The sizes of the model to distil from, which reads the same tokens; None where the objective has no teacher."""
  source = settings.teacher.source
  if not source:
    return None
  config = reader_of(source).read_config(source)
  _check_vocabulary("teacher.source", source, tokenizer, tokenizer_of(source, chat=False))
  return dataclasses.replace(config, compute_dtype="float32", head_dtype=settings.model.head_dtype)


def reward_model_config(settings: RunSettings, tokenizer: Tokenizer) -> ModelConfig | None:
  """The sizes of the model that scores samples, which reads the same tokens; None where the settings name none."""
  source = settings.rewards.model.source
  if not source:
    return None
  if (run := stored.reward_model(source)) is not None:
    theirs = load_tokenizer(run.settings)
    config = model_config(run.settings, theirs)
  else:
    config, theirs = reader_of(source).read_config(source), tokenizer_of(source, chat=False)
  _check_vocabulary("rewards.model.source", source, tokenizer, theirs)
  return dataclasses.replace(config, tie_embeddings=True, compute_dtype="float32")  # it has no output matrix


def _check_vocabulary(name: str, source: str, tokenizer: Tokenizer, theirs: Tokenizer) -> None:
  if theirs.vocabulary != tokenizer.vocabulary:
    raise UserError(
      f"config.{name} expected a model with the policy's vocabulary of {tokenizer.vocab_size:,} tokens, got another "
      f"one of {theirs.vocab_size:,} in {source}; take a model of the same family"
    )


def model_config(settings: RunSettings, tokenizer: Tokenizer) -> ModelConfig:
  """The model's sizes and switches, without reading its weights."""
  chosen = settings.model
  dtype = "float32" if chosen.compute_dtype == "auto" else chosen.compute_dtype
  switches = {"compute_dtype": dtype, "head_dtype": chosen.head_dtype, "remat": chosen.remat}
  switches["lora"] = adapters_of(settings.lora)
  balance = {"balance_coef": chosen.balance_coef} if chosen.balance_coef >= 0 else {}
  if chosen.source:
    return dataclasses.replace(reader_of(chosen.source).read_config(chosen.source), **switches, **balance)
  if chosen.experts:
    switches |= {  # Qwen3-MoE's shape, so that it can be exported
      "qk_norm": True,
      "experts": chosen.experts, "experts_per_token": chosen.experts_per_token, "expert_mlp": chosen.expert_mlp,
      "normalize_routing": chosen.normalize_routing, "balance_coef": 0.001,
    }  # fmt: skip
  switches |= balance
  return ModelConfig(
    vocab_size=tokenizer.vocab_size, embed=chosen.embed, layers=chosen.layers, heads=chosen.heads, kv_heads=chosen.kv_heads,
    head_dim=chosen.head_dim, mlp=chosen.mlp, rope_theta=chosen.rope_theta, max_positions=longest(settings), **switches,
  )  # fmt: skip


def settled(config: ModelConfig, settings: RunSettings, mesh) -> ModelConfig:
  """The configuration with what depends on the platform: compute dtype "auto" is bfloat16 on accelerators, and attention."""
  fast = settings.model.compute_dtype == "auto" and mesh.devices.flat[0].platform != "cpu"
  dtype = "bfloat16" if fast else config.compute_dtype
  return dataclasses.replace(config, compute_dtype=dtype, attention=training_kernel(settings, config, mesh)[0])


def training_kernel(settings: RunSettings, config: ModelConfig, mesh) -> tuple[str, str]:
  """(kernel, why) of attention where no cache is read: in training, and in passes over finished samples."""
  if settings.model.attention == "einsum":
    return "einsum", "plain XLA: config.model.attention asks for it"
  return training_attention.choose(
    mesh.devices.flat[0].platform, heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, mesh=mesh,
  )  # fmt: skip


def layout_of(run: Run, phase: str, prompt_lengths, lengths, columns: int, minibatches: int = 1) -> Layout | None:
  """Where the samples of a batch lie in the packed rows of a phase; None where it does not pack.

  Args:
    run: its settings and mesh count.
    phase: "sft", "preference" or "train".
    prompt_lengths: [B] tokens, on the host.
    lengths: [B] tokens of prompt and completion.
    columns: S, of the batch's tokens.
    minibatches: that the samples are for, each in the phase's number of micro-batches.
  """
  settings = run.settings
  together = settings.rollout.group if settings.train.share_prompts else 1
  chosen, group = {
    "sft": (settings.sft, 1), "preference": (settings.preference, 2), "train": (settings.train, together),
  }[phase]  # fmt: skip
  if not chosen.row_tokens:
    return None
  pack = functools.partial(
    packing.pack, prompt_lengths, lengths, columns=columns, row_tokens=chosen.row_tokens,
    micro_batches=chosen.micro_batches * minibatches, multiple=sharding.parts("batch", run.mesh),
    blocks=run.config.attention == "einsum" and sharding.parts("length", run.mesh) == 1,
  )  # fmt: skip
  shared = pack(group=group)
  # Samples that stand together fit into fewer gaps: sometimes sharing a prompt takes more rows than it spares.
  alone = pack() if group > 1 else shared
  return alone if alone.rows.size < shared.rows.size else shared


def _beside_base(run: Callable, shardings) -> Callable:
  """The jitted update of a state that has a base, which is read, neither donated nor given back: its arrays stay the same."""

  def beside(state, base, batch, temperature):
    state, stats = run(state.replace(base=base), batch, temperature)
    return state.replace(base=None), stats

  program = jax.jit(beside, donate_argnums=0, out_shardings=(shardings, None))

  def updated(state, batch, temperature):
    after, stats = program(state.replace(base=None), state.base, batch, temperature)
    return after.replace(base=state.base), stats

  return updated


def _started(begun: Callable, trained, base):
  """The state of what is trained, beside a base that does not go through the program, which would copy it."""
  return phases.on_base(begun(trained), base)


def compile_programs(settings: RunSettings, config: ModelConfig, mesh, teacher: ModelConfig | None = None) -> Programs:
  """Every jitted function of a run; `teacher` is the teacher's config. Nothing is compiled before it is first called."""
  jit, fed = jax.jit, functools.partial(processes.feeding, mesh)
  chunk_tokens = settings.train.chunk_tokens

  def shardings(phase):
    return jax.tree.map(lambda leaf: leaf.sharding, phases.abstract_state(settings, config, mesh, phase))

  def step(phase, micro_batches):
    run = phases.update_of(settings, config, phase, micro_batches)
    if config.lora.rank:
      return fed(_beside_base(run, shardings(phase).replace(base=None)), 1)
    return fed(jit(run, donate_argnums=0, out_shardings=(shardings(phase), None)), 1)

  def start(phase):
    begun = jit(phases.start_of(settings, config, phase), out_shardings=shardings(phase).replace(base=None))

    return lambda params: _started(begun, *weights.parts(params, config))

  # Passes without gradient go over the whole batch.
  shape = dict(micro_batches=settings.train.micro_batches * settings.train.minibatches, chunk_tokens=chunk_tokens)
  of_samples = sharding.sharding(mesh, ("batch",))
  kept = phases.abstract_reference(settings, config, mesh)
  where_kept = jax.tree.map(lambda leaf: leaf.sharding, kept)
  mix, on_device = settings.reference.sync_mix, settings.reference.memory == "device"
  fetched = (lambda tree: tree) if on_device else sharding.on_device

  def reference(params, batch, temperature, rewards, judged):
    batch = passes.with_reference(fetched(params), batch, temperature, config=config, **shape)
    return objectives.penalized(settings.objective, rewards, judged, batch)

  def sync(reference, params):
    if mix == 1:
      return phases.copied(params)
    return jax.tree.map(lambda old, new: (1 - mix) * old + mix * new, fetched(reference), params)

  assemble = functools.partial(assembly.assemble, objective=settings.objective)
  values = functools.partial(
    passes.with_values, config=config, objective=settings.objective, micro_batches=shape["micro_batches"]
  )
  old_policy = functools.partial(
    passes.with_old_policy, config=config, truncation=phases.replayed_truncation(settings, "train"), **shape
  )
  return Programs(
    rollout=rollout_plan.programs_for(settings, config, mesh),
    assemble=fed(jit(assemble, static_argnames="width", out_shardings=of_samples), 0),
    reference=jit(reference),
    teacher=teacher and jit(functools.partial(passes.with_teacher, config=teacher, **shape)),
    values=jit(values),
    old_policy=jit(old_policy),
    take=jit(lambda batch, rows: jax.tree.map(lambda x: x[rows], batch), out_shardings=of_samples),
    supervise=step("sft", settings.sft.micro_batches),
    update=step(settings.stage, {"preference": settings.preference, "train": settings.train}[settings.stage].micro_batches),
    start_sft=start("sft"),
    start_rl=start(settings.stage),
    start_reference=jit(phases.copied, out_shardings=where_kept),
    # A reference that becomes the policy is not read, and one on the host is of another memory than what it is made of.
    sync_reference=jit(sync, donate_argnums=0 if mix < 1 and on_device else (), out_shardings=where_kept),
  )
