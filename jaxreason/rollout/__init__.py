"""Floor 3, rollouts: from prompts to samples, inside the training program.

`prepare` makes the rollout's copy of the weights, `state` is what decoding carries, `programs` are the compiled parts
(prefill, begin, grow, decode) and `engine` is the host loop that drives them chunk by chunk.
"""
