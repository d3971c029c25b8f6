"""Floor 2, the model: parameters are a pytree and the decoder is a function of it.

`config` says the sizes, `weights` is the one table of weights, `decoder` computes hidden states with `attention` and
`cache`, and `hf` and `gguf` read and write checkpoints, with what they share in `reading`.
"""
