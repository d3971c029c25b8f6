"""Qwen3-30B-A3B on GSM8K with 128 chips of a TPU v5p (4x4x8).

`jaxreason plan --config=pod_qwen3_30b_a3b --topology=v5p:4x4x8`
"""

from jaxreason.settings import default_config


def get_config():
  config = default_config()
  config.name = "pod_qwen3_30b_a3b"
  config.model.update(source="Qwen/Qwen3-30B-A3B", remat="block")
  config.mesh.update(data=1, fsdp=16, expert=8)
  config.data.update(task="files", train_rows=0)
  config.data.files.update(
    train="openai/gsm8k/main", evaluation="openai/gsm8k/main", train_split="train", evaluation_split="test",
    prompt="question", answer="answer", answer_after="####",
    template="{prompt}\nThink step by step, then give the final answer as \\boxed{}.",
  )  # fmt: skip
  config.rollout.update(
    prompts=128, group=8, max_new_tokens=1024, max_prompt_tokens=256, long_prompts="drop", chunk=32, prompt_bucket=64,
    cache_bucket=256,
  )  # fmt: skip
  config.optimizer.update(peak_lr=1e-6, warmup_steps=10)
  config.train.update(steps=200, micro_batches=8, chunk_tokens=1024, save_every=20, keep=2)
  config.evaluation.update(problems=200, samples=1, every=20, show=4)
  return config
