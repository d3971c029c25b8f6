"""Floor 0, advantages: from the rewards of a group of samples to one advantage each."""

from jaxreason.advantages.group import group_relative

__all__ = ["group_relative"]
