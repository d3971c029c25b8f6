"""Floor 3, rollouts: from prompts to samples, inside the training program.

`config` has settings and sizes, `prepare` makes the rollout's copy of the weights, `state` is what decoding carries, `programs`
are the compiled parts (extend, insert, decode), `engine` drives them by slot number, and `slots` knows who is where.
"""
