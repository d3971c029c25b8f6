"""The quickstart: a 1.1 M parameter decoder learns, from the verifier alone, that writing the working down pays.

Sums of several one-digit terms. The supervised stage shows both manners, a terse `#17` and a worked `+8=12+5=17#17`;
reinforcement learning then rewards right answers and nothing else.
"""

from jaxreason.settings import default_config


def get_config():
  config = default_config()
  config.name = "quickstart"
  config.model.update(embed=128, layers=4, heads=4, kv_heads=4, head_dim=32, mlp=512)
  config.data.update(task="running_sums", train_rows=40_000)
  config.data.running_sums.update(min_terms=6, max_terms=10, digits=1, worked_share=0.45)
  config.sft.update(steps=2400, batch=16, max_tokens=96, row_tokens=128)
  config.sft.optimizer.update(peak_lr=2e-3, schedule="cosine", warmup_steps=50, end_lr=1e-4, b2=0.95)
  config.rollout.update(
    prompts=32, group=8, max_new_tokens=64, max_prompt_tokens=32, chunk=16, prompt_bucket=8, cache_bucket=16
  )
  config.optimizer.update(peak_lr=2e-4, schedule="cosine")
  config.critic.optimizer.update(peak_lr=1e-3, schedule="cosine")  # read by objectives with a critic
  config.train.update(steps=50, micro_batches=8, row_tokens=192, save_every=500, keep=2)
  config.evaluation.update(problems=300, samples=4, every=20, show=6)
  return config
