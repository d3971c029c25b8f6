"""Floor 3, host room: what a run needs to go on, kept on disk: `steps` and its parts, each in a file."""

from jaxreason.checkpoint.steps import Checkpoints, SaveFailed

__all__ = ["Checkpoints", "SaveFailed"]
