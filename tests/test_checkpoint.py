"""Checkpoints: what is read equals what was saved, to the bit, and no moment of dying loses a step."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreason
from jaxreason.checkpoint import Checkpoints, SaveFailed, lock, manifest
from jaxreason.errors import UserError

REPOSITORY = Path(__file__).parents[1]


@flax.struct.dataclass
class Blocks:
  kernel: jax.Array
  bias: jax.Array | None


def state_at(step, width=4):
  params = {"embed": jnp.full((3, width), step, jnp.float32), "blocks": Blocks(jnp.full((2, width, width), 1.0 / step), None)}
  key = jax.random.key_data(jax.random.fold_in(jax.random.key(0), step))
  return {"params": params, "optimizer": optax.adamw(1e-3).init(params), "step": jnp.int32(step), "key": key}


def abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_restores_bits_structure_and_host(tmp_path):
  state = state_at(3) | {
    "odd": jnp.array([np.nan, -0.0, np.inf, 1e-42], jnp.float32),
    "payload": jax.lax.bitcast_convert_type(jnp.uint32(0x7FC01234), jnp.float32),
    "half": jnp.arange(5, dtype=jnp.bfloat16),
    "flag": jnp.bool_(True),
    "empty": jnp.zeros((0, 4)),
    "nothing": None,
  }
  host = {"position": 2**60, "best": {"pass@1": 0.1 + 0.2}, "config": {"layers": [1, 2], "name": "ünïcode"}, "none": None}
  with Checkpoints(tmp_path / "a" / "b") as checkpoints:
    assert checkpoints.latest_step() is None and checkpoints.read_host() is None
    checkpoints.save(3, state, host)
    assert checkpoints.read_host() == host
  with Checkpoints(tmp_path / "a" / "b") as checkpoints:
    for like in (state, abstract(state), jax.eval_shape(lambda: state)):
      step, restored, restored_host = checkpoints.restore(like)
      assert step == 3 and restored_host == host
      assert_same_bits(restored, state)


def test_restores_onto_the_shardings_asked_for(tmp_path):
  mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"x": jnp.arange(8.0)}, {})
    _, state, _ = checkpoints.restore({"x": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharding)})
  assert state["x"].sharding == sharding


def test_saved_state_may_be_donated_at_once(tmp_path):
  advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
  state = {"w": jnp.zeros((256, 256))}
  with Checkpoints(tmp_path, keep=5) as checkpoints:
    for step in range(5):
      checkpoints.save(step, state, {})
      state = advance(state)
    for step in range(5):
      assert (checkpoints.restore(state, step)[1]["w"] == step).all()


def test_a_save_goes_on_beside_updates_that_donate_its_state(tmp_path):
  advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
  state = {"w": jnp.zeros((512, 512)), "one": jnp.zeros(())}
  with Checkpoints(tmp_path, keep=9) as checkpoints:
    for step in range(6):
      checkpoints.begin(step, state, {})
      assert step not in checkpoints.steps() or not checkpoints._underway.end.is_alive()
      for _ in range(3):
        state = advance(state)
    checkpoints.finish()
    for step in range(6):
      restored = checkpoints.restore(state, step)[1]
      assert (restored["w"] == 3 * step).all() and restored["one"] == 3 * step
    checkpoints.begin(6, state, {})  # closing waits for it
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.unclosed is None and checkpoints.settle(print) == 6


def test_an_older_step_lives_until_the_new_one_is_whole(tmp_path, monkeypatch):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, {"x": jnp.ones(3)}, {})
    gate, write = threading.Event(), manifest.write
    monkeypatch.setattr(manifest, "write", lambda *told: gate.wait(30) and write(*told))
    checkpoints.begin(2, {"x": jnp.ones(3)}, {})
    checkpoints.poll()
    assert checkpoints.steps() == [1] and checkpoints.latest_step() == 1
    gate.set()
    checkpoints.finish()
    assert checkpoints.steps() == [2]
  about = json.loads((tmp_path / "2" / "manifest.json").read_text())["about"]
  assert about["step"] == 2 and about["code"] == jaxreason.__version__ and len(about["config"]) == 64


def test_part_of_a_state_restores_without_the_rest(tmp_path):
  state = state_at(2)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, state, {})
    like = state | {"optimizer": None}
    assert_same_bits(checkpoints.restore(like, partial=True)[1], like)
    with pytest.raises(UserError, match=r"expected nothing for leaf optimizer/0/count, got int32\[\] from checkpoint 2"):
      checkpoints.restore(like)


def test_keeps_the_newest_and_the_best(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2, 3, 4, 5, 6):
      checkpoints.save(step, {"x": jnp.full(3, step)}, {"best_step": 2})
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.restore({"x": jnp.zeros(3, jnp.int32)}, 2)[1]["x"].tolist() == [2, 2, 2]
    checkpoints.save(7, {"x": jnp.full(3, 7)}, {"best_step": 2}, best_step=6)
    assert checkpoints.steps() == [6, 7]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["6", "7", "lock"]


def test_mismatches_name_the_leaf_and_both_shapes(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state_at(1), {})
    with pytest.raises(UserError, match=r"float32\[2,5,5\] for leaf .*blocks/kernel, got float32\[2,4,4\].*other leaves"):
      checkpoints.restore(state_at(1, width=5))
    wrong_type = state_at(1) | {"step": jnp.float32(1)}
    with pytest.raises(UserError, match=r"expected float32\[\] for leaf step, got int32\[\] from checkpoint 1"):
      checkpoints.restore(wrong_type)
    with pytest.raises(UserError, match=r"expected float32\[\] for leaf more, got nothing"):
      checkpoints.restore(state_at(1) | {"more": jnp.float32(1)}, partial=True)
    with pytest.raises(UserError, match=r"expected a whole checkpoint 9 in .*, got 1 "):
      checkpoints.restore(state_at(1), 9)
    with pytest.raises(UserError, match=r"expected a step after 1, .* got 1"):
      checkpoints.save(1, state_at(1), {})
    with pytest.raises(TypeError, match=r"leaf key, got key<.*jax.random.key_data"):
      checkpoints.save(2, {"key": jax.random.key(0)}, {})
    assert checkpoints.steps() == [1]
  with Checkpoints(tmp_path / "new") as checkpoints, pytest.raises(UserError, match=r"expected a checkpoint in .*, got none"):
    checkpoints.restore(state_at(1))


def test_second_run_on_a_directory_is_refused(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"x": jnp.ones(2)}, {"a": 1})
    with pytest.raises(UserError, match=f"expected one run per directory, .* held by process {os.getpid()}"):
      Checkpoints(tmp_path)
    with Checkpoints(tmp_path, read_only=True) as reader:  # a reader does not mind
      assert reader.read_host() == {"a": 1}
      with pytest.raises(UserError, match="read_only"):
        reader.save(2, {"x": jnp.ones(2)}, {})
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.unclosed is None


def test_reader_makes_nothing(tmp_path):
  with Checkpoints(tmp_path / "none", read_only=True) as reader:
    assert reader.latest_step() is None
  assert not (tmp_path / "none").exists()


def test_without_file_locks_the_living_pid_decides(tmp_path, monkeypatch):
  def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", no_locks)
  owner = {"pid": os.getppid(), "machine": "here", "boot": lock._boot()}
  (tmp_path / "lock").write_text(json.dumps(owner))
  with pytest.raises(UserError, match="held by process"):
    Checkpoints(tmp_path)
  (tmp_path / "lock").write_text(json.dumps(owner | {"boot": "another"}))
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.unclosed["boot"] == "another"


def test_a_directory_that_cannot_be_made_is_the_users_mistake(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"expected a checkpoint directory that can be written, got .*Not a directory"):
    Checkpoints(tmp_path / "file" / "checkpoints")
  with pytest.raises(UserError, match="local directory"):
    Checkpoints("gs://bucket/run")


def test_reading_host_starts_no_device(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(4, {"x": jnp.ones(2)}, {"position": 7})
  program = """
import sys
import threading
from jaxreason.checkpoint import Checkpoints
with Checkpoints(sys.argv[1]) as checkpoints:
  print(checkpoints.latest_step(), checkpoints.read_host()["position"])
from jax.extend.backend import backends
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
  done = run_program(program, tmp_path)
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == ["4", "7"]


FULL_DISK = """
import resource, signal, sys
import jax.numpy as jnp, numpy as np
from jaxreason.checkpoint import Checkpoints, SaveFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
noise = np.random.default_rng(0).standard_normal(1 << 18, np.float32)
with Checkpoints(sys.argv[1]) as checkpoints:
  checkpoints.save(1, {"x": jnp.asarray(noise)}, {"n": 1})
  for size in (0, 100, 4096, 1 << 19):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
      checkpoints.save(2, {"x": jnp.asarray(noise + 1)}, {"n": 2})
      print("saved", size)
    except SaveFailed as error:
      print("failed")
    print(checkpoints.steps())
  resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
  checkpoints.save(2, {"x": jnp.asarray(noise + 2)}, {"n": 3})
"""


def test_a_save_that_does_not_fit_fails_loudly_and_works_again_later(tmp_path):
  done = run_program(FULL_DISK, tmp_path)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == ["failed", "[1]"] * 4
  noise = np.random.default_rng(0).standard_normal(1 << 18, np.float32)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps() == [1, 2]
    for step, added in ((1, 0), (2, 2)):
      assert (checkpoints.restore({"x": jnp.zeros(1 << 18)}, step)[1]["x"] == noise + np.float32(added)).all()


def test_a_save_that_orbax_calls_done_but_is_not_whole_fails(tmp_path, monkeypatch):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"x": jnp.ones(2)}, {})
    manager = checkpoints._open_manager()
    monkeypatch.setattr(manager, "save", lambda *_, **__: True)
    with pytest.raises(SaveFailed, match="older steps are intact"):
      checkpoints.save(2, {"x": jnp.ones(2)}, {})
    checkpoints.save(2, {"x": jnp.ones(2)}, {})
    assert checkpoints.steps() == [1, 2]


# One process loads the libraries and forks, before any device is up, a run for each moment to die at: the n-th touch of
# the file system inside the third save, which also deletes the first step.
DYING = """
import json, os, signal, sys
sys.path.insert(0, "tests")
from test_checkpoint import state_at
from jaxreason.checkpoint import Checkpoints

TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

def run(directory, die_at):
  touched = [None]
  def count(event, args):
    if touched[0] is not None and event in TOUCHES and directory in str(args[0]):
      touched[0] += 1
      if touched[0] == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
  sys.addaudithook(count)
  with Checkpoints(directory, keep=2) as checkpoints:
    for step in (1, 2, 3):
      touched[0] = 0 if step == 3 else None
      checkpoints.save(step, state_at(step), {"position": step, "text": "x" * 5000})
  return touched[0]

def apart(directory, die_at):
  child = os.fork()
  if child == 0:
    touches = run(directory, die_at)
    open(directory + ".touches", "w").write(str(touches))
    os._exit(0)
  return os.waitpid(child, 0)[1]

root, moments = sys.argv[1], int(sys.argv[2])
assert apart(root + "/whole", 0) == 0
touches = int(open(root + "/whole.touches").read())
for n in range(moments):
  die_at = 1 + n * touches // moments
  assert os.WTERMSIG(apart(f"{root}/{die_at}", die_at)) == signal.SIGKILL
"""


def test_killed_at_any_touch_of_the_disk_the_step_before_is_there(tmp_path):
  done = run_program(DYING, tmp_path, "12")
  assert done.returncode == 0, done.stderr
  runs = [p for p in tmp_path.iterdir() if p.name.isdigit()]
  assert len(runs) == 12
  latest = set()
  for run in runs:
    with Checkpoints(run, keep=2) as checkpoints:
      assert checkpoints.unclosed["pid"] != os.getpid()  # a stale lock is seen and taken over
      left = {p.name for p in run.iterdir()} - {"lock"}
      assert left == set(map(str, checkpoints.steps()))
      step, state, host = checkpoints.restore(abstract(state_at(1)))
      latest.add(step)
      assert host["position"] == step
      assert_same_bits(state, state_at(step))
      for older in checkpoints.steps():  # none is half deleted
        assert_same_bits(checkpoints.restore(state, older)[1], state_at(older))
      checkpoints.save(4, state_at(4), {})
      assert checkpoints.steps() == [step, 4]
  assert latest == {2, 3}  # some died before the third step was whole, some while the first was deleted


def test_killed_at_random_times_while_saving(tmp_path):
  program = """
import sys
import threading
sys.path.insert(0, "tests")
from test_checkpoint import state_at
from jaxreason.checkpoint import Checkpoints
with Checkpoints(sys.argv[1], keep=1) as checkpoints:
  step = checkpoints.latest_step() or 0
  while True:
    step += 1
    checkpoints.save(step, state_at(step), {"position": step})
    print(step, flush=True)
"""
  for delay in (0.0, 0.013, 0.037):
    process = start_program(program, tmp_path)
    seen = int(process.stdout.readline())
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    told = [seen, *map(int, process.communicate()[0].split())]
    with Checkpoints(tmp_path, keep=1) as checkpoints:
      step, state, _ = checkpoints.restore(abstract(state_at(1)))
      assert step in (told[-1], told[-1] + 1)
      assert_same_bits(state, state_at(step))


def start_program(program, *arguments):
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
  command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
  pipe = subprocess.PIPE
  return subprocess.Popen(command, env=environment, cwd=REPOSITORY, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def run_program(program, *arguments):
  process = start_program(program, *arguments)
  out, err = process.communicate(timeout=120)
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def flipped(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(bytes(data))


DAMAGE = {
  "a flipped bit": flipped,
  "a file cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
  "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
  "a file that is gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_happens_to_a_file_of_the_newest_step_the_one_before_is_gone_on_from(tmp_path, damage):
  with Checkpoints(tmp_path / "whole") as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, state_at(step), {"position": step})
  newest = (tmp_path / "whole" / "2").rglob("*")
  files = [p.relative_to(tmp_path / "whole") for p in newest if p.is_file() and p.stat().st_size]
  assert len(files) > 5
  for number, name in enumerate(files):
    copy = tmp_path / str(number)
    shutil.copytree(tmp_path / "whole", copy)
    DAMAGE[damage](copy / name)
    if (copy / name).exists() and (copy / name).read_bytes() == (tmp_path / "whole" / name).read_bytes():
      continue  # it was zeros
    with Checkpoints(copy, read_only=True) as reader, pytest.raises(UserError, match=r"checkpoint 2 in .*, got a damaged one"):
      reader.restore(abstract(state_at(2)), 2)
    said = []
    with Checkpoints(copy) as checkpoints:
      assert checkpoints.settle(said.append) == 1 and checkpoints.steps() == [1]
      step, state, host = checkpoints.restore(abstract(state_at(1)))
      assert step == host["position"] == 1
      assert_same_bits(state, state_at(1))
      assert len(said) == 1 and "checkpoint 2" in said[0] and "put aside as damaged-2" in said[0]
      checkpoints.save(2, state_at(2), {"position": 2})
      assert checkpoints.settle(said.append) == 2 and len(said) == 1
    assert (copy / "damaged-2").is_dir()


def test_a_run_whose_steps_are_all_damaged_never_begins_anew(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.settle(print) is None
    for step in (1, 2):
      checkpoints.save(step, state_at(step), {})
  for step in (1, 2):
    flipped(tmp_path / str(step) / "host" / "metadata")
  for _ in range(2):  # the second time they have been put aside already
    told = r"got only damaged ones \(damaged-1, damaged-2\)"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=told):
      checkpoints.settle(lambda line: None)
