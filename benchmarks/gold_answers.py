"""Whether the math verifier can judge a data set: every gold answer against its own solution and against the next problem's.

    python -m benchmarks.gold_answers gsm8k_train.jsonl gsm8k_test.jsonl

Prints per file: rows, gold answers that cannot be parsed, own solutions graded correct, other answers graded wrong, answers a
second; then how many prompts of the second file occur in the first.
"""

import sys
import time

from jaxreason.data import files, sources
from jaxreason.data.overlap import overlap
from jaxreason.rewards.math_verifier import grade


def main(paths: list[str]) -> None:
  found = []
  for path in paths:
    rows = files.rows_from(path, answer_after="####")
    solutions = [record.fields["answer"] for record in sources.records(path)]
    began = time.perf_counter()
    own = [grade(solution, row["answer"]) for solution, row in zip(solutions, rows, strict=True)]
    seconds = time.perf_counter() - began
    pairs = [(s, r["answer"]) for s, r, o in zip(solutions, rows[1:], rows, strict=False) if r["answer"] != o["answer"]]
    others = [grade(solution, answer) for solution, answer in pairs]
    print(
      f"{path}: {len(rows)} rows, {sum(v.status == 'bad_answer' for v in own)} unparsable gold answers, "
      f"{sum(v.status == 'correct' for v in own)} own solutions correct, "
      f"{sum(v.status == 'wrong' for v in others)} of {len(others)} other answers wrong, {len(rows) / seconds:.0f} answers/s"
    )
    found.append(rows)
  if len(found) == 2:
    print(f"{len(overlap(*found))} prompts of the second file occur in the first")


if __name__ == "__main__":
  main(sys.argv[1:])
