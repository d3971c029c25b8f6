"""Floor 1: published objectives by name.

What enters: a name. What leaves: an `Objective` with the settings that its paper gives. A recipe sets objective fields only:
how many samples, which learning rate and how stale a rollout may be are settings of the run.
"""

import dataclasses

from jaxreason.errors import UserError, nearest
from jaxreason.objective import Objective

RECIPES = {
  # GRPO, Shao et al. 2024, eq. 3 and section 4.2, https://arxiv.org/abs/2402.03300: β = 0.04, the mean over answers of means
  # over tokens. ε is not in the paper; 0.2 is PPO's. TRL and verl have β = 0 as their default.
  "grpo": Objective(reduction="sequence_mean", kl_coef=0.04),
  # Dr. GRPO, Liu et al. 2025, section 3.2, https://arxiv.org/abs/2503.20783: no standard deviation and no length is divided by.
  "dr_grpo": Objective(advantage_std="none", reduction="constant_norm"),
  # DAPO, Yu et al. 2025, section 3 and 4.1, https://arxiv.org/abs/2503.14476: ε_high = 0.28, token mean, no KL. Its dynamic
  # sampling and its overlong reward shaping are settings of the run.
  "dapo": Objective(clip_high=0.28, reduction="token_mean"),
  # GSPO, Zheng et al. 2025, section 5.1, https://arxiv.org/abs/2507.18071. AReaL's recipe of this name clips at 0.4.
  "gspo": Objective(surrogate="gspo", clip_low=3e-4, clip_high=4e-4, reduction="sequence_mean"),
  # GMPO, Zhao et al. 2025, https://arxiv.org/abs/2507.20673: bounds e^-0.4 and e^0.4.
  "gmpo": Objective(surrogate="gmpo", clip_low=0.4, clip_high=0.4, reduction="sequence_mean"),
  # CISPO, MiniMax 2025, eq. 4 and 5, https://arxiv.org/abs/2506.13585: token mean, the cap alone, of no printed value; 5 is one
  # of those that ScaleRL found alike, Khatri et al. 2025, appendix A.17.2, https://arxiv.org/abs/2510.13786.
  "cispo": Objective(surrogate="cispo", max_ratio=5.0, reduction="token_mean"),
  # SAPO, Gao et al. 2025, https://arxiv.org/abs/2511.20347: τ = 1.0 and 1.05, the mean over answers.
  "sapo": Objective(surrogate="sapo", reduction="sequence_mean"),
  # LUSPO, Liu et al. 2026, section 5.1, https://arxiv.org/abs/2602.05261.
  "luspo": Objective(surrogate="luspo", clip_low=2e-3, clip_high=2.5e-3, reduction="sequence_mean"),
  # VESPO, Shen et al. 2026, https://arxiv.org/abs/2602.10693, under the token mean of its authors' code and of TRL.
  "vespo": Objective(surrogate="vespo", reduction="token_mean"),
  # DPPO, Qi et al. 2026, appendix C.1, https://arxiv.org/abs/2602.04879, binary total variation, δ = 0.15. The paper divides by
  # no standard deviation and bounds no weight in these runs; 20 is verl's bound where its configuration gives none.
  "dppo": Objective(surrogate="dppo_tv", clip_low=0.15, clip_high=0.15, max_ratio=20.0, reduction="token_mean"),
  # RLOO, Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740: REINFORCE with the mean of the other samples. The
  # paper's KL in the reward is left out, as for verifiable rewards; TRL clips a whole answer's ratio, 1 on own samples.
  "rloo": Objective(surrogate="reinforce", advantage="leave_one_out", reduction="sequence_sum"),
  # REINFORCE++, Hu et al. 2025, https://arxiv.org/abs/2501.03262: PPO's clip, returns whitened over the tokens of the batch.
  "reinforce_pp": Objective(advantage="reinforce_plus_plus", reduction="token_mean"),
  # The same paper's variant for several samples a prompt: the group's mean off first; k2 where a KL is asked for.
  "reinforce_pp_baseline": Objective(advantage="reinforce_plus_plus_baseline", kl="k2", reduction="token_mean"),
  # Lite PPO, Liu et al. 2025, https://arxiv.org/abs/2508.08221: the group's mean, the batch's standard deviation, token mean.
  "lite_ppo": Objective(advantage="lite_ppo", reduction="token_mean"),
  # TOPR, Le Roux et al. 2025, https://arxiv.org/abs/2503.14286: wrong answers weighed by their truncated ratio, others by 1.
  # The paper tells them by the reward's sign; here the group's mean is taken off first.
  "topr": Objective(surrogate="topr", advantage_std="none", reduction="sequence_sum"),
  # MaxRL, Tajwar et al. 2026, https://arxiv.org/abs/2602.02710: divided by the group's mean, which weighs hard prompts up.
  "max_rl": Objective(surrogate="reinforce", advantage="max_rl", reduction="token_mean"),
}


def recipe(name: str) -> dict:
  """The fields of a recipe, for `config.objective.update(recipe("dapo"))`.

  Raises:
    UserError: there is no recipe of that name.
  """
  if name not in RECIPES:
    raise UserError(f"config.objective expected one of {', '.join(RECIPES)}, got {name!r}{nearest(name, RECIPES)}")
  return dataclasses.asdict(RECIPES[name])
