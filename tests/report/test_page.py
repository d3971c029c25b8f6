"""The report of runs: what enters the page, and that text of a model is never markup."""

import base64
import gzip
import json
import random

import pytest

from jaxreason.cli.main import main
from jaxreason.report import page

EVIL = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def run_of(folder, *, samples, name="a", steps=3):
  workdir = folder / name
  workdir.mkdir()
  numbers = {"phase": "train", "time/step": 2.0, "time/rollout": 1.5}
  rows = [{"step": step, "reward": step / steps} | numbers for step in range(steps)]
  (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  statuses = ("correct", "wrong", "unparsable", "infra_error")
  text = random.Random(0)  # so that it hardly compresses
  with open(workdir / "completions.jsonl", "w") as file:
    for number in range(samples):
      status = statuses[number % 4]
      reward = {"correct": 1.0, "infra_error": None}.get(status, 0.0)
      line = {
        "step": number * steps // samples, "phase": "train", "id": str(number // 4), "visit": number // 4, "sample": number % 4,
        "prompt": EVIL if number < 4 else f"question {number // 4}",
        "response": f"{EVIL} answer {number} " + text.randbytes(150).hex(),
        "status": status, "reward": reward, "tokens": 3, "finished": status != "unparsable", "turns": 1, "detail": EVIL,
      }  # fmt: skip
      if number % 4 < 2:
        line |= {"pieces": [EVIL, " answer", f" {number}"], "logprobs": [-0.1, -1.0, -3.0]}
      file.write(json.dumps(line) + "\n")
  results = {"before": {"greedy": {"pass@1": 0.25}}, "after": {"greedy": {"pass@1": 0.5}}}
  (workdir / "results.json").write_text(json.dumps(results))
  return workdir


def test_the_page_holds_the_runs_as_data_and_nothing_of_them_as_markup(tmp_path, capsys):
  first, second = (run_of(tmp_path, samples=24, name=name) for name in "ab")
  assert main(["report", f"--workdir={first},{second}"]) == 0
  text = (first / "report.html").read_text()
  assert capsys.readouterr().out.strip() == str(first / "report.html")
  assert "taken" not in text and text.count("<script") == 2 and "://" not in text.replace("http://www.w3.org/2000/svg", "")
  packed = text.split('id="data">')[1].split("</script>")[0]
  runs = json.loads(gzip.decompress(base64.b64decode(packed)))
  assert [run["name"] for run in runs] == ["a", "b"] and len(runs[0]["samples"]) == 24
  assert runs[0]["samples"][0]["response"].startswith(EVIL)


def test_of_many_completions_some_are_kept_evenly(tmp_path, monkeypatch):
  monkeypatch.setattr(page, "MOST", 10)
  monkeypatch.setattr(page, "DETAILED", 2)
  run = page._run(run_of(tmp_path, samples=40))
  assert len(run["samples"]) == 10 and run["left_out"] == 30 and {one["step"] for one in run["samples"]} == {0, 1, 2}
  assert sum("pieces" in one for one in run["samples"]) == 2


@pytest.mark.parametrize(("flags", "told"), [
  ([], "expected --workdir"), (["--workdir=nowhere"], "expected the directory of a run"),
])  # fmt: skip
def test_what_is_no_run_is_told_in_one_line(flags, told, capsys):
  assert main(["report", *flags]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert told in line
