"""Qwen2.5-1.5B-Instruct on GSM8K with 16 chips of a TPU v5e (4x4).

`jaxreason plan --config=pod_qwen2_5_1_5b --topology=v5e:4x4`
"""

from jaxreason.settings import default_config


def get_config():
  config = default_config()
  config.name = "pod_qwen2_5_1_5b"
  config.model.update(source="Qwen/Qwen2.5-1.5B-Instruct", remat="block")
  config.mesh.update(data=1, fsdp=16)
  config.data.update(task="files", train_rows=0)
  config.data.files.update(
    train="openai/gsm8k/main", evaluation="openai/gsm8k/main", train_split="train", evaluation_split="test",
    prompt="question", answer="answer", answer_after="####",
    template="{prompt}\nThink step by step, then give the final answer as \\boxed{}.",
  )  # fmt: skip
  config.rollout.update(
    prompts=32, group=8, max_new_tokens=1024, max_prompt_tokens=256, long_prompts="drop", chunk=32, prompt_bucket=64,
    cache_bucket=256,
  )  # fmt: skip
  config.optimizer.update(peak_lr=1e-6, warmup_steps=10)
  config.train.update(steps=200, micro_batches=8, chunk_tokens=1024, save_every=20, keep=2)
  config.evaluation.update(problems=200, samples=1, every=20, show=4)
  return config
