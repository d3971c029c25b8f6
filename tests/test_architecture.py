"""The house keeps its floors: imports go down, each floor brings in its own libraries and no other, and files stay small.

A new file or folder under jaxreason/ needs its line in `FLOORS`.
"""

import ast
import functools
import graphlib
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "jaxreason"
FILES = sorted(PACKAGE.rglob("*.py"))

# The floor of every file: by its own name, or by that of the folder it is in.
FLOORS = {
  # 0, arithmetic: arrays in, arrays out
  "__init__": 0, "errors": 0, "masks": 0, "logprobs": 0, "sampling": 0, "losses": 0, "advantages": 0,
  "corrections": 0, "shaping": 0, "inputs": 0, "truncation": 0, "chunked": 0, "measures": 0,
  # 1, nouns
  "records": 1, "sharding": 1, "processes": 1, "objective": 1, "recipes": 1,
  # 2, the model
  "model": 2,
  # 3, programs
  "policy": 3, "critic": 3, "rollout": 3, "update": 3, "passes": 3, "optimizer": 3, "assemble": 3, "packing": 3,
  # 3, host rooms
  "data": 3, "rewards": 3, "environments": 3, "checkpoint": 3, "metrics": 3, "preemption": 3, "watchdog": 3,
  "appended": 3, "events": 3,
  # 4, the house
  "settings": 4, "limits": 4, "tasks": 4, "checks": 4, "build": 4, "answers": 4, "groups": 4, "collect": 4, "pending": 4,
  "given": 4, "pairs": 4, "prefer": 4, "rollout_numbers": 4, "rollout_plan": 4, "evaluate": 4, "progress": 4, "train": 4,
  "bench": 4, "initial": 4, "sampled": 4,
  "plan": 4, "completions": 4,
  "debug": 4, "report": 4, "epochs": 4, "skipped": 4, "phases": 4, "typed": 4, "scored": 4, "stored": 4, "task_settings": 4,
  # 5, the street
  "cli": 5,
}  # fmt: skip

# Host rooms see floors 0 and 1, and neither each other nor the programs.
HOST_ROOMS = {"data", "rewards", "environments", "checkpoint", "metrics", "appended", "events", "preemption", "watchdog"}
# But for one: an environment asks verifiers, and runs in their workers. Rewards know no environment.
MAY_SEE = {"environments": {"rewards"}, "metrics": {"appended", "events"}}

# Libraries that each floor adds to those of the floors below it.
LIBRARIES = {
  0: {"jax", "chex", "numpy"},
  1: {"flax.struct", "optax"},
  2: set(),
  3: set(),
  4: {"ml_collections", "rich", "matplotlib"},
  5: set(),
}

# Libraries of single rooms and files, beside those of their floor.
OWN_LIBRARIES = {
  "model/hf": {"safetensors", "transformers", "huggingface_hub"},
  "model/peft": {"safetensors"},
  "model/gguf": {"gguf"},
  "model/quantized": {"qwix"},
  "model/gguf_tokenizer": {"tokenizers", "transformers"},
  "data": {"grain", "transformers", "huggingface_hub", "jinja2", "pyarrow"},
  "data/tasks/reasoning_gym": {"reasoning_gym"},
  "rewards": {"math_verify"},
  "checkpoint": {"orbax"},
  "metrics": {"tensorboardX"}, "events": {"tensorboardX"},
}


def name_of(path):
  """`jaxreason/model/hf.py` -> `model/hf`."""
  return path.relative_to(PACKAGE).with_suffix("").as_posix()


def room_of(path):
  return name_of(path).split("/")[0]


def floor_of(path):
  return FLOORS[room_of(path)]


@functools.cache
def tree_of(path):
  return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
  """Dotted names that a file imports, anywhere in it: `from a import b` gives `a.b`."""
  for node in ast.walk(tree_of(path)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path} imports relatively; name the module in full"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner(path):
  """The files of the package that a file imports."""
  for name in imports(path):
    parts = name.split(".")
    if parts[0] == "jaxreason":
      yield file_of(parts[1:])


def file_of(parts):
  """The file behind a dotted name whose last parts may be things inside it."""
  for count in range(len(parts), -1, -1):
    base = PACKAGE.joinpath(*parts[:count])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
      if candidate in FILES:
        return candidate
  raise AssertionError(parts)


def outer(path):
  """Libraries that a file imports; flax by its part."""
  for name in imports(path):
    parts = name.split(".")
    if parts[0] != "jaxreason" and parts[0] not in sys.stdlib_module_names:
      yield ".".join(parts[:2]) if parts[0] == "flax" else parts[0]


def test_every_file_has_a_floor_and_every_floor_a_file():
  rooms = {room_of(path) for path in FILES}
  assert rooms - FLOORS.keys() == set(), "give these a floor in FLOORS"
  assert FLOORS.keys() - rooms == set(), "these are gone; take them out of FLOORS"


def test_imports_go_down():
  upward = [
    f"{name_of(path)} (floor {floor_of(path)}) imports {name_of(other)} (floor {floor_of(other)})"
    for path in FILES
    for other in inner(path)
    if floor_of(other) > floor_of(path)
  ]
  assert upward == []


def test_host_rooms_know_neither_each_other_nor_the_programs():
  strays = [
    f"{name_of(path)} imports {name_of(other)}"
    for path in FILES
    for other in inner(path)
    if floor_of(path) == 3 and room_of(other) != room_of(path)
    if room_of(other) not in MAY_SEE.get(room_of(path), ())
    if (room_of(path) in HOST_ROOMS and floor_of(other) > 1) or room_of(other) in HOST_ROOMS
  ]
  assert strays == []


def test_no_file_imports_itself_through_others():
  graph = {name_of(path): {name_of(other) for other in inner(path)} - {name_of(path)} for path in FILES}
  list(graphlib.TopologicalSorter(graph).static_order())


def allowed(path):
  own = [libraries for name, libraries in OWN_LIBRARIES.items() if name in (name_of(path), room_of(path))]
  below = [libraries for floor, libraries in LIBRARIES.items() if floor <= floor_of(path)]
  return set().union(*own, *below)


def test_each_floor_brings_in_its_own_libraries_only():
  strays = [f"{name_of(path)} imports {library}" for path in FILES for library in set(outer(path)) - allowed(path)]
  assert strays == []


def test_what_must_stay_light_imports_only_the_standard_library():
  for name in ("__init__.py", "errors.py"):
    assert set(outer(PACKAGE / name)) == set()


def test_what_runs_in_workers_never_imports_jax():
  rooms = ("rewards", "environments")
  strays = [name_of(path) for path in FILES if room_of(path) in rooms and {"jax", "numpy", "chex"} & set(outer(path))]
  assert strays == []


def test_no_room_is_called_by_what_it_is_not():
  names = {part for path in FILES for part in name_of(path).split("/")}
  assert names & {"utils", "util", "common", "helpers", "helper", "misc", "base", "core", "tools"} == set()


def test_functions_and_files_stay_small():
  long = [
    f"{name_of(path)}.{node.name} has {node.end_lineno - node.lineno + 1} lines"
    for path in FILES
    for node in ast.walk(tree_of(path))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 60
  ]
  sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
  long += [f"{name} has {lines} lines" for name, lines in sizes.items() if lines > 350]
  assert long == []


def test_every_file_says_which_room_it_is():
  """The first line names the floor, but for the front door."""
  silent = [
    name_of(path)
    for path in FILES
    if path != PACKAGE / "__init__.py" and not (ast.get_docstring(tree_of(path)) or "").startswith(f"Floor {floor_of(path)}")
  ]
  assert silent == []


def constants(node):
  return {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}


def axis_names(path):
  """Where a file names a mesh axis as text: "fsdp" and "tensor" anywhere, "data" (a word of many uses) where meshes are."""
  for node in ast.walk(tree_of(path)):
    if isinstance(node, ast.Constant) and node.value in ("fsdp", "tensor"):
      yield node.lineno
    made_of_axes = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in MADE_OF_AXES
    shape_of_mesh = isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("mesh.shape")
    if (made_of_axes or shape_of_mesh) and "data" in constants(node):
      yield node.lineno


MADE_OF_AXES = {"PartitionSpec", "P", "NamedSharding", "Mesh", "make_mesh", "psum", "pmean", "pmax", "all_gather", "axis_index"}


def test_mesh_axes_are_named_in_one_file():
  assert list(axis_names(PACKAGE / "sharding.py"))
  named = [f"{name_of(path)}:{line}" for path in FILES if path.name != "sharding.py" for line in axis_names(path)]
  assert named == []


def test_config_dicts_stop_where_settings_are_frozen():
  """Inside are frozen dataclasses: below the street only those who read settings from a file know ConfigDict."""
  strays = [name_of(path) for path in FILES if floor_of(path) < 5 and "ml_collections" in outer(path)]
  assert set(strays) <= {"settings", "progress", "debug", "stored"}
