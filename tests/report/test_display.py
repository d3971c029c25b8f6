"""The display: a live panel on a terminal, plain lines in a log, and a model's text harmless in both."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from jaxreason.report.display import display, visible

REPOSITORY = Path(__file__).parents[2]
HOSTILE = "5+3=8\n#8 \x1b[2J\x1b]0;gone\x07[red]no[/red] [/] \u202eright \x00"


def log(totals, act, **options):
  stream = io.StringIO()
  with display(totals, stream=stream, **options) as shown:
    act(shown)
  return stream.getvalue()


def without_times(text):
  return re.sub(r"  elapsed .*", "", text)


def test_a_log_has_plain_lines():
  def act(shown):
    shown.say("cpu: 1 device\nno checkpoint [yet]")
    shown.update(0, "eval", {"greedy/pass@1": 0.25, "count": 200, "time/seconds": 3.0})
    shown.update(0, "sft", {"loss": 2.0, "entropy": float("nan"), "perf/rollout_tokens_per_second": 12345.6, "grad_norm": 1})
    shown.update(1, "sft", {"loss": 1.0})
    shown.update(2, "train", {"reward": 0.5, "pass_rate": 0.5, "completions/mean_length": 12.25, "worked_share": None})

  assert without_times(log({"sft": 2, "train": 1}, act)).splitlines() == [
    "cpu: 1 device",
    "no checkpoint [yet]",
    "eval at step 0  greedy pass@1 25.0%",
    "sft 1/2  loss 2.0000  entropy nan nats  tokens/s 12,346",
    "sft 2/2  loss 1.0000",
    "train 1/1  reward 0.500  pass rate 50.0%  length 12.2 tokens",
  ]


def test_a_log_has_every_nth_step_the_first_and_the_last():
  def act(shown):
    for step in range(33, 100):  # a run that was resumed
      shown.update(step, "train", {"reward": step})

  lines = log({"train": 100}, act, every=20).splitlines()
  assert [line.split()[1] for line in lines] == ["34/100", "41/100", "61/100", "81/100", "100/100"]
  assert "left" not in lines[0] and "left" in lines[1] and "left" not in lines[-1]
  assert 50 <= len(log({"sft": 950}, lambda shown: [shown.update(n, "sft", {}) for n in range(950)]).splitlines()) <= 60


def test_quiet_says_nothing():
  def act(shown):
    shown.say("text")
    shown.update(0, "sft", {"loss": 1})
    shown.samples("title", [{"prompt": "a", "response": "b", "verdict": "c"}])
    shown.table("title", ["a"], [["b"]])

  assert log({"sft": 1}, act, quiet=True) == ""


def test_a_log_shows_samples_and_tables():
  def act(shown):
    shown.samples("after", [{"prompt": [{"role": "user", "content": "5+3"}], "response": HOSTILE, "verdict": "correct"}])
    shown.samples("long", [{"prompt": "p", "response": "x" * 1000, "verdict": 1.0}])
    shown.table("pass@1", ["", "before", "after"], [["greedy", "8.0 %", "62.5 %"], ["sampled", 0.125, 1]])

  lines = log({}, act).splitlines()
  assert lines[1] == rf"  [correct] user: 5+3 -> {visible(HOSTILE)}"
  assert lines[3] == f"  [1.0] p -> {'x' * 400} ... and 600 more characters"
  assert lines[4:] == [
    "pass@1",
    "           before   after",
    "  -------  ------  ------",
    "  greedy    8.0 %  62.5 %",
    "  sampled   0.125       1",
  ]


def test_a_log_that_knows_ascii_only_is_served_too():
  raw = io.BytesIO()
  with display({}, stream=io.TextIOWrapper(raw, encoding="ascii", write_through=True)) as shown:
    shown.say("π ≈ 3")
  assert raw.getvalue() == b"\\u03c0 \\u2248 3\n"


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("plain ünïcode 数", "plain ünïcode 数"),
    ("a\tb\r\n", r"a\tb\r\n"),
    ("\x1b[1m\x9b", r"\x1b[1m\x9b"),
    ("\u202e\u2028\ud800", r"\u202e\u2028\ud800"),
  ],
)
def test_control_characters_are_spelt_out(text, shown):
  assert visible(text) == shown


RUN = """
import sys, time
from jaxreason.report.display import display
with display({"sft": 10, "train": 5}) as shown:
  shown.say("loading [model]")
  for step in range(15):
    phase = "sft" if step < 10 else "train"
    shown.update(step, phase, {"loss": 0.5, "entropy": 1.25, "perf/rollout_tokens_per_second": 4000})
    if step == 3:
      time.sleep(0.6)
      shown.say("saved step 3")
    if step == 13 and len(sys.argv) > 1:
      raise SystemExit("stopped")
  shown.samples("after training", [{"prompt": "5+3", "response": RESPONSE, "verdict": "correct"}])
  shown.table("pass@1", ["", "before", "after"], [["greedy", "8.0 %", "62.5 %"]])
""".replace("RESPONSE", repr(HOSTILE))


def on_a_terminal(*arguments, width=100, term="xterm-256color"):
  master, slave = pty.openpty()
  fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
  environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
  environment |= {"TERM": term, "PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1"}
  process = subprocess.Popen([sys.executable, "-c", RUN, *arguments], env=environment, stdin=slave, stdout=slave, stderr=slave)
  os.close(slave)
  out = b""
  while True:
    try:
      chunk = os.read(master, 65536)
    except OSError:  # how a terminal says that nobody writes to it any more
      break
    if not chunk:
      break
    out += chunk
  os.close(master)
  process.wait(timeout=30)
  return out.decode()


def test_a_terminal_has_a_live_panel_that_leaves_a_clean_log():
  out = on_a_terminal()
  assert "╭─ sft ─" in out and "╭─ train ─" in out and "━━━" in out and "step 4/10" in out
  plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
  assert "loading [model]" in plain and "saved step 3" in plain
  assert "loss\u00a00.5000" in plain and "tokens/s\u00a04,000" in plain
  assert "sft 10/10  loss 0.5000" in plain and "train 5/5  loss 0.5000" in plain  # what a phase ended with stays
  assert plain.index("train 5/5") < plain.index("after training") < plain.index("62.5 %")
  assert "\x1b[2J" not in out and "\x1b]0;" not in out and "\u202e" not in out and "[red]no[/red] [/]" in plain
  assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")  # the cursor is given back
  assert "╭" not in out[out.rindex("\x1b[?25h") :]


def test_a_run_that_stops_gives_the_terminal_back():
  out = on_a_terminal("stop")
  assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")
  assert "train 4/5" in out and out.rstrip().endswith("stopped")


def test_narrow_and_dumb_terminals_are_served():
  assert all(
    len(line) <= 40 for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal(width=40)).splitlines() if "│" in line
  )
  assert "\x1b" not in on_a_terminal(term="dumb")
