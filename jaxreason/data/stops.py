"""Floor 3, host room `data`: texts that end a sample.

What enters: a tokenizer and the texts. What leaves: a function that finds where the first of them ends among a sample's tokens.
"""

from collections.abc import Callable, Sequence

from jaxreason.data.tokenizer import Tokenizer


def stop_finder(tokenizer: Tokenizer, stops: Sequence[str]) -> Callable[[Sequence[int], int], int | None] | None:
  """Finds where the first of some texts ends in a sample's tokens; None without texts.

  A text of n bytes lies in at most n tokens, so only the last n before what is new are looked at again.
  """
  if not stops:
    return None
  reach = max(len(stop.encode()) for stop in stops)

  def cut(tokens: Sequence[int], seen: int) -> int | None:
    first = max(0, seen - reach)
    count = lambda end: sum(tokenizer.decode([int(token) for token in tokens[first:end]]).count(stop) for stop in stops)
    before = count(seen)
    if count(len(tokens)) <= before:
      return None
    return next((end for end in range(seen + 1, len(tokens) + 1) if count(end) > before), None)

  return cut
