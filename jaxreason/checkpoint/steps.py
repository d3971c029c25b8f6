"""Floor 3, host room: what a run needs to go on as if it had never stopped, kept on disk by Orbax.

What enters: a step number, a pytree of arrays (parameters, optimizer, keys as key data) and a JSON-able dict (data position,
best so far, config, fingerprints). What leaves: the same three, bit for bit, on whatever shardings the reader asks for.

A step is a directory `<step>/` that holds `state` (the arrays, by name) and `host` (the dict and a table of every array's
shape and type). It appears by one rename once it is whole, so a run killed at any moment finds the step before. One run per
directory: an advisory lock that the kernel lets go of when its holder dies. Reading `host` touches no device.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxreason import __version__, processes
from jaxreason.checkpoint import lock, manifest
from jaxreason.checkpoint.leaves import check_fits, named, signature
from jaxreason.checkpoint.underway import Thread, Underway, hashed, one_voice, unused
from jaxreason.errors import UserError

_FORMAT = 3
_LOCK = "lock"
_DELETED = "deleted"
_DAMAGED = "damaged-"
_HOST = "host/metadata"


class SaveFailed(OSError):
  """A step could not be saved (disk full, directory gone). The steps before it are intact and saving may be tried again."""


class Checkpoints:
  """The steps kept in one directory. A context manager: opening takes the directory's lock, closing lets it go.

  Args:
    directory: a local directory, made if need be. Half-written steps of a killed run are removed on opening.
    keep: how many of the newest steps to keep; the best one is kept beside them.
    read_only: only read (evaluation, export): takes no lock, makes and removes nothing, may run beside a training run.

  Raises:
    UserError: the directory cannot be written, or another run holds it.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int = 3, read_only: bool = False):
    if "://" in str(directory):
      raise UserError(f"expected a local directory for checkpoints, got {directory}; give a path on a mounted file system")
    if keep < 1:
      raise UserError(f"expected to keep at least 1 checkpoint, got keep={keep}; set keep to 1 or more")
    self.directory = Path(directory).absolute()
    self.keep = keep
    self.read_only = read_only
    self._verified: set[int] = set()
    self.unclosed: dict | None = None  # who held the directory last, if that run died before it could close
    self._manager: ocp.CheckpointManager | None = None
    self._lock: int | None = None
    self._underway: Underway | None = None
    if not read_only:
      problem = None
      try:
        if processes.is_first():  # of several processes it holds the directory for all
          self._take()
      except UserError as error:
        problem = error
      processes.agree(problem)

  def _take(self) -> None:
    try:
      self.directory.mkdir(parents=True, exist_ok=True)
      self._lock, self.unclosed = lock.take(self.directory / _LOCK)
      self._sweep()
    except OSError as error:
      self.close()
      raise UserError(
        f"expected a checkpoint directory that can be written, got {self.directory} ({error.strerror or error}); "
        "give another --workdir or mend its permissions"
      ) from error

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Waits for a save underway and lets go of the directory. A second call does nothing."""
    underway, self._underway = self._underway, None
    if underway is not None:
      underway.end.join()
    self._drop_manager()
    if self._lock is not None:
      os.ftruncate(self._lock, 0)  # an empty lock file tells the next run that this one ended in good order
      os.close(self._lock)
      self._lock = None

  def steps(self) -> list[int]:
    """The steps on disk, oldest first: those with a manifest, which is written last."""
    return [step for step in self._folders() if (self.directory / str(step) / manifest.NAME).is_file()]

  def _folders(self) -> list[int]:
    if not self.directory.is_dir():
      return []
    return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isascii() and p.name.isdigit() and p.is_dir())

  def settle(self, say: Callable[[str], None]) -> int | None:
    """Reads steps from the newest on until one is as it was written, and tells which; None in a new directory.

    What is damaged is renamed to `damaged-STEP` and told: a run goes on from the step before, and never from the beginning.

    Raises:
      UserError: there were steps, and all of them are damaged.
    """
    problem = None
    if processes.is_first():
      try:
        self._quarantine(say)
      except UserError as error:
        problem = error
    processes.agree(problem)
    return max(self.steps(), default=None)

  def _quarantine(self, say: Callable[[str], None]) -> None:
    wrong = ""
    for step in reversed(self._folders()):
      folder = self.directory / str(step)
      wrong = manifest.verify(folder)
      if not wrong:
        self._verified.add(step)
        return
      self._drop_manager()
      os.rename(folder, unused(self.directory / f"{_DAMAGED}{step}"))
      say(f"warning: checkpoint {step} in {self.directory} is damaged ({wrong}); put aside as {_DAMAGED}{step}")
    damaged = sorted(path.name for path in self.directory.glob(f"{_DAMAGED}*"))
    if damaged:
      raise UserError(
        f"expected a whole checkpoint in {self.directory}, got only damaged ones ({', '.join(damaged)}); put one back from a "
        "copy, or give another --workdir to start anew"
      )

  def latest_step(self) -> int | None:
    """The newest step whose files are there in their sizes, or None in a new directory. `settle` reads them whole."""
    whole = (step for step in reversed(self.steps()) if not manifest.glance(self.directory / str(step), [_HOST]))
    return next(whole, None)

  def read_host(self, step: int | None = None) -> dict | None:
    """The JSON part of a step (the newest if None) by plain file reading: no device is touched. None if there is no step."""
    step = self.latest_step() if step is None else step
    return None if step is None else self._document(step)["host"]

  def save(self, step: int, state: Any, host: Mapping[str, Any], *, best_step: int | None = None) -> None:
    """As `begin`, and waits for it: the step is on disk, read back and whole, and steps no longer kept are deleted.

    Raises:
      SaveFailed, UserError: as `begin` and `finish`.
    """
    self.begin(step, state, host, best_step=best_step)
    self.finish()

  def begin(self, step: int, state: Any, host: Mapping[str, Any], *, best_step: int | None = None) -> None:
    """Copies a state and writes it while the run goes on; `state` may be donated at once.

    The step counts once `finish` or `poll` has returned: its manifest is written last, and older steps are deleted after that.
    One save is underway at a time.

    Args:
      step: larger than every step on disk.
      state: any pytree of arrays; typed PRNG keys as `jax.random.key_data`. None leaves and empty arrays are fine.
      host: JSON-able.
      best_step: the step not to delete whatever its age; `host['best_step']` where not given.

    Raises:
      SaveFailed: this save could not begin, or the one before it, which was still underway, failed.
      UserError: `step` is not newer than those on disk, or this is a read-only view.
    """
    self.finish()
    latest = max(self.steps(), default=None)
    if self.read_only:
      raise UserError(f"expected a checkpoint directory opened for writing, got {self.directory} opened read_only")
    if latest is not None and step <= latest:
      raise UserError(
        f"expected a step after {latest}, the newest in {self.directory}, got {step}; go on from it or give another --workdir"
      )
    leaves = named(state)
    table = {name: signature(leaf) for name, leaf in leaves.items()}
    document = {"format": _FORMAT, "host": dict(host), "leaves": table}
    text = json.dumps(document)
    arrays = {name: leaf for name, leaf in leaves.items() if leaf.size}  # Orbax refuses arrays without elements
    shapes = {name: leaf.shape for name, leaf in arrays.items()}
    try:
      items = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), host=ocp.args.JsonSave(json.loads(text)))
      with one_voice():
        saved = self._open_manager().save(step, args=items, force=True)
    except BaseException as error:
      self._fail(step, error)
    about = {"step": step, "config": hashed(host.get("config")), "code": __version__}
    end = Thread(lambda: self._complete(step, text, shapes, saved, about))
    self._underway = Underway(step, host.get("best_step") if best_step is None else best_step, end)

  def poll(self) -> None:
    """As `finish` where the save underway has ended on every process, else nothing; all of them call it."""
    if self._underway and all(processes.exchanged(not self._underway.end.is_alive())):
      self.finish()

  def finish(self) -> None:
    """Waits for the save underway, if there is one, and then deletes the steps that are no longer kept.

    Raises:
      SaveFailed: it could not be written whole; it is gone again and nothing else has changed.
    """
    if self._underway is None:
      return
    (step, best, end), self._underway = self._underway, None
    try:
      end.join()
      there = self._folders()  # what all see, before any is deleted
      processes.agree(end.problem)
    except BaseException as error:
      self._fail(step, error)
    self._verified.add(step)
    self._retire(there, step, best)

  def _complete(self, step: int, text: str, shapes: Mapping[str, tuple], saved: bool, about: Mapping[str, Any]) -> None:
    with one_voice():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
      self._check_whole(step, text, shapes, saved)
      if processes.is_first():
        manifest.write(self.directory / str(step), about)

  def _fail(self, step: int, error: BaseException) -> None:
    self._undo(step)
    if not isinstance(error, Exception):
      raise error
    raise SaveFailed(
      f"checkpoint of step {step} in {self.directory} failed, older steps are intact: {str(error)[:400]}"
    ) from error

  def restore(self, like: Any, step: int | None = None, *, partial: bool = False) -> tuple[int, Any, dict]:
    """Reads a step, bit for bit, onto the shardings of `like`.

    Args:
      like: the state's pytree with `jax.ShapeDtypeStruct` (with shardings; without one a leaf goes to the first device) or
        arrays as leaves.
      step: the newest where None.
      partial: `like` may hold fewer leaves than the checkpoint (say, parameters without the optimizer: the same tree with None
        in its place); the others are not read.

    Returns:
      (step, state, host).

    Raises:
      UserError: there is no such step, or a leaf is missing, left over, or of another shape or type than `like` says.
    """
    step = self.latest_step() if step is None else step
    if step is None:
      raise UserError(f"expected a checkpoint in {self.directory}, got none; train first or give the --workdir of a run")
    if step in self._folders() and step not in self._verified and (wrong := manifest.verify(self.directory / str(step))):
      others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
      raise UserError(f"expected a whole checkpoint {step} in {self.directory}, got a damaged one ({wrong}); others: {others}")
    document = self._document(step)
    wanted = named(like)
    check_fits(f"checkpoint {step} in {self.directory}", wanted, document["leaves"], partial)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding or here) for k, v in wanted.items()}
    stored = {name: leaf for name, leaf in wanted.items() if leaf.size}
    args = ocp.args.PyTreeRestore(
      item=stored, restore_args=ocp.checkpoint_utils.construct_restore_args(stored), partial_restore=True
    )
    arrays = self._open_manager().restore(step, args=ocp.args.Composite(state=args))["state"] if stored else {}
    empty = {k: jax.device_put(jnp.zeros(v.shape, v.dtype), v.sharding) for k, v in wanted.items() if not v.size}
    state = jax.tree.unflatten(jax.tree.structure(like), [{**arrays, **empty}[name] for name in wanted])
    return step, state, document["host"]

  def _document(self, step: int) -> dict:
    path = self.directory / str(step) / _HOST
    try:
      document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
      found = ", ".join(map(str, self.steps())) or "no steps"
      raise UserError(
        f"expected a whole checkpoint {step} in {self.directory}, got {found} ({error}); ask for a step that is there"
      ) from error
    if document["format"] != _FORMAT:
      raise UserError(f"expected checkpoint format {_FORMAT}, got {document['format']} in {path}; use the version of its run")
    return document

  def _check_whole(self, step: int, text: str, expected: Mapping[str, tuple], saved: bool) -> None:
    written = self._manager.item_metadata(step)["state"].tree if saved and expected else {}
    shapes = {name: tuple(leaf.shape) for name, leaf in written.items()}
    same = json.dumps(self._document(step)) == text or not processes.is_first()  # who wrote it
    if not saved or not same or shapes != expected:
      raise OSError(errno.EIO, "what is on disk is not what was saved")

  def _retire(self, steps: list[int], newest: int, best: int | None) -> None:
    for step in set(steps) - {*steps[-self.keep :], newest, best}:
      with contextlib.suppress(OSError):  # the new step is safe, and the old one's turn comes again at the next save
        self._manager.delete(step)  # renames first, so a kill in between leaves no half-deleted step
    if processes.is_first():
      shutil.rmtree(self.directory / _DELETED, ignore_errors=True)

  def _undo(self, step: int) -> None:
    """Forgets a failed save: Orbax's own list of steps may hold it, and its leftovers fill the disk further."""
    self._drop_manager()
    if not processes.is_first():
      return
    with contextlib.suppress(OSError):
      self._sweep()
      if (self.directory / str(step)).is_dir():
        os.rename(self.directory / str(step), self.directory / _DELETED)
        self._sweep()

  def _sweep(self) -> None:
    for path in self.directory.iterdir():
      # A run that died may have left a step without its manifest; where none died, somebody took it away.
      half = self.unclosed is not None and path.name.isdigit() and not (path / manifest.NAME).exists()
      if ocp.utils.TMP_DIR_SUFFIX in path.name or path.name == _DELETED or (half and self._is_ours(int(path.name))):
        shutil.rmtree(path, ignore_errors=True)

  def _is_ours(self, step: int) -> bool:
    """Whether a step is of this version. One of another version has no manifest and is not touched."""
    with contextlib.suppress(UserError):
      self._document(step)
      return True
    return not (self.directory / str(step) / _HOST).exists()

  def _open_manager(self) -> ocp.CheckpointManager:
    if self._manager is None:  # made on first use, because making it starts the devices
      options = ocp.CheckpointManagerOptions(
        create=False,
        max_to_keep=None,
        todelete_subdir=_DELETED,
        save_root_metadata=False,
        prevent_write_metrics=True,
      )
      self._manager = ocp.CheckpointManager(self.directory, options=options)
    return self._manager

  def _drop_manager(self) -> None:
    manager, self._manager = self._manager, None
    if manager is not None:
      with contextlib.suppress(Exception):  # what a failed save left inside it has been told already
        manager.close()
