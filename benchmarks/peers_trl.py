"""TRL's side of `benchmarks.peers`: run by another interpreter, imports nothing of jaxreason.

    python peers_trl.py TASK.json ANSWER.json

What is timed is `GRPOTrainer._generate_single_turn` (trl/trainer/grpo_trainer.py) of a trainer that TRL itself has built: its
generation config (sampling at temperature 1, top_p 1, top_k 0, no compilation, a growing cache), prompts repeated for each
sample and padded on the left, `unwrap_model_for_generation`, `torch.no_grad`, transformers' `generate`, completions as
lists. float32, where TRL's own default would be bfloat16 autocast. No token ends a completion, so that all are decoded whole.
"""

import importlib.metadata
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

# What GRPOConfig is given beyond the sizes.
VARIANTS = {"default": {}, "static": {"cache_implementation": "static"}}


def trainer_of(task: dict, extra: dict, folder: str) -> GRPOTrainer:
  """A trainer whose generation never stops early."""
  rows = len(task["prompts"]) * task["group"]
  given = {
    "output_dir": folder, "use_cpu": True, "bf16": False, "report_to": "none", "per_device_train_batch_size": rows,
    "num_generations": task["group"], "max_completion_length": task["new"], "model_init_kwargs": {"dtype": "float32"},
  }  # fmt: skip
  trainer = GRPOTrainer(
    model=task["model"],
    reward_funcs=lambda completions, **_: [0.0] * len(completions),
    args=GRPOConfig(**(given | extra)),
    train_dataset=Dataset.from_dict({"prompt": ["never read"] * rows}),
  )
  trainer.generation_config.eos_token_id = trainer.generation_kwargs["eos_token_id"] = None
  trainer.eos_token_ids = [-1]  # of which TRL masks what follows
  return trainer


def measure(task: dict, name: str) -> dict:
  with tempfile.TemporaryDirectory() as folder:
    trainer = trainer_of(task, VARIANTS[name], folder)
  repeated = [prompt for prompt in task["prompts"] for _ in range(task["group"])]

  def rollout() -> None:
    completions, _ = trainer._generate_single_turn(repeated, None, {}, task["group"])
    written = [len(completion) for completion in completions]
    if written != [task["new"]] * len(repeated):
      raise SystemExit(f"expected {len(repeated)} completions of {task['new']} tokens, got lengths {written}")

  trainer.model.train()  # as within a training step
  times = []
  for _ in range(task["warm_up"] + task["repeats"]):
    began = time.perf_counter()
    rollout()
    times.append(time.perf_counter() - began)
  config = trainer.model.config
  return {
    "seconds": times[task["warm_up"] :],
    "warm_up_seconds": times[: task["warm_up"]],
    "dtype": str(trainer.model.dtype).removeprefix("torch."),
    "attention": config._attn_implementation,
  }


def main() -> None:
  task = json.loads(Path(sys.argv[1]).read_text())
  torch.set_num_threads(task["threads"])
  transformers.logging.disable_progress_bar()
  names = ("trl", "transformers", "torch")
  Path(sys.argv[2]).write_text(
    json.dumps(
      measure(task, task["variant"])
      | {"threads": torch.get_num_threads(), "versions": {name: importlib.metadata.version(name) for name in names}}
    )
  )


if __name__ == "__main__":
  main()
