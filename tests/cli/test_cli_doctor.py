"""`jaxreason doctor`: well where all is well, and otherwise it names what is not."""

import json

import jax
import pytest

from jaxreason.cli import doctor
from jaxreason.cli.main import main


def test_a_healthy_machine_is_told_so_in_one_json_object(tmp_path, capsys):
  assert main(["doctor", "--json", f"--workdir={tmp_path / 'runs'}"]) == 0
  told = json.loads(capsys.readouterr().out)
  assert told["ok"] and [check["name"] for check in told["checks"]] == [
    "python", "devices", "mesh", "disk", "sandbox", "verifiers", "checkpoint", "decode",
  ]  # fmt: skip
  assert sum(check["seconds"] for check in told["checks"]) < 30
  sandbox = told["checks"][4]
  assert sandbox["detail"].split(":")[0] in ("jail", "lite")
  assert any("a planted secret fails" in line for line in sandbox["lines"])
  assert told["versions"]["jax"] == jax.__version__
  assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_what_is_wrong_is_named_and_the_other_checks_still_run(tmp_path, monkeypatch, capsys):
  (tmp_path / "file").write_text("")
  monkeypatch.setattr(doctor, "_decode", lambda: "not looked at")
  monkeypatch.setattr(doctor, "KNOWN", (("chain", "#16", "17", "correct"),))
  assert main(["doctor", f"--workdir={tmp_path / 'file' / 'runs'}"]) == 1
  lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
  assert lines["disk"].startswith("WRONG disk        expected a directory that can be written, got")
  assert lines["checkpoint"].startswith("WRONG")
  assert "chain expected 'correct' for '#16' against '17', got 'wrong'" in lines["verifiers"]
  assert lines["decode"].startswith("ok    decode")


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_without_the_device_asked_for_what_needs_one_is_not_tried(tmp_path, monkeypatch, capsys, json_too):
  monkeypatch.setattr(doctor, "_verifiers", lambda: "not looked at")
  assert main(["doctor", "--platform=tpu", f"--workdir={tmp_path}", *json_too]) == 1
  told = capsys.readouterr().out
  assert "--platform=tpu expected such a device" in told and told.count("not tried without a device") == 3
