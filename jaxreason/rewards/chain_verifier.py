"""Floor 3, rewards: the judge of the built-in arithmetic-chain task.

What enters: a response such as `#17` (terse) or `+8=12+5=17#17` (worked), the gold integer as text, and whether the
response was finished (ended by its stop token, not cut off). What leaves: a verdict, with `parts['worked']` = 1.0 when
working precedes the marker. Exact text rules, no evaluation: the working earns nothing and costs nothing.
"""

import re

from jaxreason.rewards.verdict import Verdict

# The quantifiers are possessive so that a long response cannot make the matcher backtrack.
_RESPONSE = re.compile(r"([0-9+\-=]*+)#(-?[0-9]{1,200})")
_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,200})\s*")


def grade(response: str, answer: str, finished: bool = True) -> Verdict:
  """1 when the response is well-formed, finished and ends in the right integer; 0 otherwise.

  Well-formed is optional working made of digits, `+`, `-` and `=` alone, then exactly one `#`, then a plain integer to
  the very end.

  Args:
    response: the text that the model wrote, without its stop token.
    answer: the gold integer, as text.
    finished: False when the response was cut off before its stop token: then it is never rewarded.

  Returns:
    A verdict: `correct`, `wrong` (another integer, or unfinished), `unparsable` (malformed) or `bad_answer` (the gold
    text is no integer).
  """
  gold = _INTEGER.fullmatch(answer)
  if gold is None:
    return Verdict(None, "bad_answer", detail="expected the answer to be an integer")
  match = _RESPONSE.fullmatch(response)
  parts = {"worked": 0.0 if response.startswith("#") or "#" not in response else 1.0}
  if match is None:
    return Verdict(0.0, "unparsable", detail="expected digits, + - and =, then one # and an integer", parts=parts)
  extracted = match.group(2)
  if not finished:
    return Verdict(0.0, "wrong", extracted=extracted, detail="the response was cut off", parts=parts)
  if int(extracted) != int(gold.group(1)):
    return Verdict(0.0, "wrong", extracted=extracted, detail="another integer", parts=parts)
  return Verdict(1.0, "correct", extracted=extracted, parts=parts)
