"""Lines wait for room on a disk, and a full one does not hide why a run ended."""

import pytest

from jaxreason.appended import Appended
from jaxreason.preemption import Minutes


def test_what_does_not_fit_is_kept_and_told_when_asked():
  file = Appended("/dev/full")  # every write to it says that the disk is full
  file.append("a")
  file.append("b")
  for _ in range(2):
    with pytest.raises(OSError):
      file.sync()
  assert file._held == [b"a\n", b"b\n"]
  file.end(failing=True)
  with pytest.raises(OSError):
    lost = Appended("/dev/full")
    lost.append("a")
    lost.end(failing=False)


def test_lines_come_in_order_behind_what_is_there(tmp_path):
  (tmp_path / "rows").write_text("first\n")
  file = Appended(tmp_path / "rows")
  for line in ("second", "third"):
    file.append(line)
  file.close()
  file.close()
  assert (tmp_path / "rows").read_text() == "first\nsecond\nthird\n"


def test_minutes_are_due_when_they_have_passed_and_never_where_none_are_set():
  always, late, never = Minutes(1e-12), Minutes(1e6), Minutes(0)
  assert [always.due(), always.due(), late.due(), never.due()] == [True, True, False, False]
