"""Floor 0: the exception that is a user's mistake, and how it is worded; and the one that ends a run in good order.

What enters: what was expected, what came, what to change. What leaves: one line. The command line prints that line and
exits 2; as a library it is an ordinary `ValueError`.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
  """A mistake in what the user gave (a key, a type, a size, a path), told in one line without a traceback."""


def nearest(name: str, valid: Iterable[str]) -> str:
  """` (did you mean 'peak_lr'?)` for the valid name nearest to `name`, or an empty string when none is near."""
  found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
  return f" (did you mean {found[0]!r}?)" if found else ""


class Preempted(Exception):
  """The run has saved and ended, because it was asked to; it goes on from there."""
