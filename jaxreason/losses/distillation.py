"""Floor 0, losses: distillation from a teacher.

What enters: log-probabilities under the student and the teacher, of the whole vocabulary or of the taken tokens. What
leaves: one value per token, in nats, to be minimised. T tokens, V vocab.
"""

import jax
import jax.numpy as jnp

from jaxreason.inputs import log_probabilities, one_of
from jaxreason.losses.ratios import bounded


def distill(
  logprobs: jax.Array,
  teacher_logprobs: jax.Array,
  *,
  form: str = "k1",
  behavior_logprobs: jax.Array | None = None,
  log_ratio_cap: float | None = 20.0,
) -> jax.Array:
  """How far the student π is from the teacher q, one value per token.

    reverse  Σᵥ π(v) (log π(v) - log q(v))      forward  Σᵥ q(v) (log q(v) - log π(v))
    k1       rₜ sg(log π(aₜ) - log q(aₜ)),   rₜ = π(aₜ)/μ(aₜ)

  "k1" needs the taken tokens alone: it is the reverse KL as a policy gradient, whose gradient is right when the tokens
  were drawn from μ. On-policy distillation is "k1" on the student's own answers. "forward" on the teacher's answers, by
  one token each, is `sft`.

  Args:
    logprobs: the student's, float, nats: [..., V], normalised, for "reverse" and "forward"; [..., T] for "k1". Gradients
      flow here only.
    teacher_logprobs: the teacher's, of the same shape.
    form: "k1", "reverse" or "forward".
    behavior_logprobs: [..., T] float, log μ, for "k1"; None: μ is the student itself.
    log_ratio_cap: nats, of the log ratios of "k1"; or None. The other forms exponentiate no ratio and need none: a cap would
      leave a student without gradient where it is farthest off.

  Returns:
    [..., T] float32 for "k1", [...] for the others. AReaL has both the "k1" here (without an RL loss beside it) and, beside
    one, log π - log q differentiated as it stands, whose gradient has mean 0 over the student's tokens.

  Source: reverse: MiniLLM, Gu et al. 2023, https://arxiv.org/abs/2306.08543; forward: Hinton et al. 2015,
  https://arxiv.org/abs/1503.02531; both: GKD, Agarwal et al. 2023, https://arxiv.org/abs/2306.13649; k1: Thinking Machines
  2025, https://thinkingmachines.ai/blog/on-policy-distillation/.
  """
  one_of("distill", ("k1", "reverse", "forward"), form=form)
  logprobs, teacher_logprobs = log_probabilities("distill", logprobs=logprobs, teacher_logprobs=teacher_logprobs)
  teacher_logprobs = jax.lax.stop_gradient(teacher_logprobs)
  if form == "reverse":
    return _divergence(logprobs, teacher_logprobs)
  if form == "forward":
    return _divergence(teacher_logprobs, logprobs)
  behavior_logprobs = logprobs if behavior_logprobs is None else behavior_logprobs
  _, behavior_logprobs = log_probabilities("distill", logprobs=logprobs, behavior_logprobs=behavior_logprobs)
  ratio = jnp.exp(bounded(logprobs - jax.lax.stop_gradient(behavior_logprobs), log_ratio_cap))
  return ratio * jax.lax.stop_gradient(bounded(logprobs - teacher_logprobs, log_ratio_cap))


def _divergence(log_p, log_q):
  """Σ p (log p - log q) over the last axis; tokens of probability 0 add nothing, because their log p is finite here."""
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
