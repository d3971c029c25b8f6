"""Floor 3, host room: one run per directory.

What enters: the path of a lock file. What leaves: the file, locked for this process, and who held it last where that run died
before it could let go. The kernel lets go of a lock when its holder dies, however it dies.
"""

import errno
import fcntl
import json
import os
import socket
from pathlib import Path

from jaxreason.errors import UserError


def take(path: Path) -> tuple[int, dict | None]:
  """Locks the file for this process; also tells who held it last, if that run died without closing.

  Raises:
    UserError: another process that lives holds it.
  """
  lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
  try:
    owner = _owner(lock)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      taken = True
    except OSError as error:
      # Some network file systems have no locks: there the pid and the boot it belongs to decide.
      taken = error.errno != errno.EWOULDBLOCK and not _alive(owner)
    if not taken:
      who = f"process {owner['pid']} on {owner['machine']}" if owner else "another process"
      raise UserError(f"expected one run per directory, got {path.parent} held by {who}; stop it or give another --workdir")
    mine = {"pid": os.getpid(), "machine": socket.gethostname(), "boot": _boot()}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(mine).encode(), 0)
  except BaseException:
    os.close(lock)
    raise
  return lock, owner


def _owner(lock: int) -> dict | None:
  try:
    return json.loads(os.pread(lock, 4096, 0))
  except ValueError:
    return None  # empty after a clean end, torn if the machine died while it was written


def _alive(owner: dict | None) -> bool:
  if owner is None or owner["boot"] != _boot() or owner["pid"] == os.getpid():
    return False
  try:
    os.kill(owner["pid"], 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True


def _boot() -> str:
  """This boot's id: after a restart of the machine the same pid is somebody else."""
  try:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  except OSError:
    return ""
