"""SmolLM2-135M-Instruct on GSM8K, or any JSONL or Parquet file or hub id with questions and answers.

Point `--config.data.files.train` and `.evaluation` at the data: local files, or `openai/gsm8k/main` where there is a
network. A model of this size solves very few of these problems; the config shows the way that real data takes.
"""

from jaxreason.settings import default_config


def get_config():
  config = default_config()
  config.name = "smollm2_gsm8k"
  config.model.source = ".cache/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
  config.data.update(task="files", train_rows=0)
  config.data.files.update(
    train="openai/gsm8k/main",
    evaluation="openai/gsm8k/main",
    train_split="train",
    evaluation_split="test",
    prompt="question",
    answer="answer",
    answer_after="####",
    template="{prompt}\nThink step by step, then give the final answer as \\boxed{}.",
  )
  config.rollout.update(
    prompts=8,
    group=8,
    max_new_tokens=192,
    max_prompt_tokens=256,
    long_prompts="drop",
    chunk=32,
    prompt_bucket=32,
    cache_bucket=64,
  )
  config.optimizer.update(peak_lr=3e-6, warmup_steps=2)
  config.train.update(steps=10, micro_batches=8, row_tokens=1024, chunk_tokens=512, save_every=5, keep=1)
  config.evaluation.update(problems=100, samples=1, every=0, show=4)
  return config
