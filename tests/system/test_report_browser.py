"""The report in a real browser, Debian's Chromium without a window: panels, filters, escaping, 50,000 completions."""

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/report"))
pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
  """(page, fragment) -> the page's markup after its script has run."""
  if not shutil.which("chromium"):
    quiet = {"stdout": subprocess.DEVNULL, "check": True, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    subprocess.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", "chromium"], **quiet)
  home = tmp_path_factory.mktemp("home")

  def dom(path, fragment=""):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={home}"]
    command += ["--virtual-time-budget=30000", "--dump-dom", f"file://{path}#{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=os.environ | {"HOME": str(home)})
    assert 'data-ready="yes"' in done.stdout, done.stderr[-2000:]
    return done.stdout

  return dom


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
  from test_page import run_of

  from jaxreason.report import page

  found = {}
  for name, samples in (("small", 24), ("large", 50_000)):
    folder = tmp_path_factory.mktemp(name)
    found[name] = folder / "report.html"
    found[name].write_text(page.page([run_of(folder, samples=samples)]))
  return found


def section(dom, name):
  return re.search(rf'id="{name}">(.*?)</section>', dom, re.DOTALL)[1]


def test_every_panel_is_drawn_and_a_models_markup_does_nothing(shown, reports):
  dom = shown(reports["small"], "open=0")
  assert "<title>jaxreason report</title>" in dom and "<img" not in dom
  assert "+25.0" in section(dom, "results") and "1.5" in section(dom, "timing")
  assert section(dom, "curves").count("<polyline") >= 2 and "completions with verdict correct" in section(dom, "verifiers")
  completions = html.unescape(section(dom, "completions"))
  assert "a group of 4" in completions
  assert completions.count("document.title='taken'") > 4  # as text
  assert completions.count("-3 nats") >= 1


@pytest.mark.parametrize(("fragment", "count"), [
  ("status=correct", 6), ("status=wrong", 6), ("status=truncated", 6), ("status=unjudged", 6), ("from=1&to=1", 8),
  ("text=answer%2017", 1), ("status=correct&from=2", 2),
])  # fmt: skip
def test_filters(shown, reports, fragment, count):
  assert f"{count} of 24" in shown(reports["small"], fragment)


def test_fifty_thousand_completions_are_one_file_that_answers(shown, reports):
  assert reports["large"].stat().st_size < 60e6
  dom = shown(reports["large"], "status=wrong")
  assert "12500 of 50000" in dom and dom.count('class="one"') == 40
