"""ScaleRL's recipe on the quickstart's problems (Khatri et al. 2025, https://arxiv.org/abs/2510.13786): CISPO, advantages
normalised over the batch, the mean over prompts, prompts without variance left out of the loss, prompts that were solved at a
rate of 0.9 leave the pool, and generation that does not wait for updates. Of the prompts that come next, those are taken first
that the policy solves about half the time, which is not of the paper: fewer prompts are then left out of the loss.

Answers live on across updates; admission is bounded for 8 of them (its PipelineRL-8), keys and values of older policies are
kept, as there. Of 2,000 prompts, so that they come again and solved ones are seen to leave. For another task or model, set
`config.data` and `config.model`.
"""

from quickstart import get_config as quickstart


def get_config():
  config = quickstart()
  config.name = "scalerl"
  config.objective = "scalerl"
  config.data.train_rows = 2_000
  config.rollout.update(slots=128, max_staleness=8, max_solve_rate=0.9, order="difficulty")
  return config
