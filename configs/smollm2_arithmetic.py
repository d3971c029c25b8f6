"""SmolLM2-135M-Instruct learns two-operand arithmetic in words.

As shipped it never boxes an answer, so a short supervised stage on 96 worked examples gives GRPO something to tell apart.
`make smollm2` fetches the weights. It saves every five steps and goes on after a kill.
"""

from jaxreason.settings import default_config


def get_config():
  config = default_config()
  config.name = "smollm2_arithmetic"
  config.model.source = ".cache/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
  config.data.update(task="word_problems", train_rows=4000)
  config.data.word_problems.update(operations="+-", smallest=2, largest=49)
  config.sft.update(steps=6, batch=16, rows=96, max_tokens=160, micro_batches=4, row_tokens=320)
  config.sft.optimizer.update(peak_lr=2e-5, schedule="cosine", warmup_steps=2)
  # At temperature 1 few samples of a model this small, just started, are right; the policy is the tempered distribution.
  config.rollout.update(
    prompts=8, group=8, max_new_tokens=64, max_prompt_tokens=128, chunk=16, prompt_bucket=16, cache_bucket=32, temperature=0.6
  )
  config.optimizer.update(peak_lr=5e-6, warmup_steps=2)
  config.train.update(steps=40, micro_batches=4, row_tokens=448, chunk_tokens=512, save_every=5, keep=1)
  config.evaluation.update(problems=200, samples=1, every=0, show=6)
  return config
