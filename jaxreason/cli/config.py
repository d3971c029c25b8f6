"""Floor 5, command line: from `--config` and its overrides to checked settings, before any device is touched.

What enters: the name of a shipped config or the path of a file with `get_config()`, and overrides such as
`--config.optimizer.peak_lr=1e-6`. What leaves: a `ConfigDict` with each override in the type of the value it replaces, or
one line that says what was expected, what came and what to change.
"""

import importlib.util
import math
import os
import re
import sys
import traceback
from pathlib import Path

import ml_collections

from jaxreason import settings
from jaxreason.errors import UserError, nearest
from jaxreason.recipes import recipe

_PACKAGE = Path(__file__).resolve().parents[1]
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

Overrides = list[tuple[str, str]]  # (name, text), of `main.take_overrides`


def load(source: str, overrides: Overrides) -> ml_collections.ConfigDict:
  """The config of a name or path, overrides applied.

  Raises:
    UserError: no such file, a mistake inside it, an unknown key or a value of the wrong type.
  """
  return apply(read(locate(source)), overrides)


def shipped() -> dict[str, Path]:
  """The configs that come with jaxreason, by name: in the installed package, or in the checkout it runs from."""
  folder = _PACKAGE / "configs"
  if not folder.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
    folder = _PACKAGE.parent / "configs"
  return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def locate(source: str) -> Path:
  """The file of a shipped config's name, or of a path.

  Raises:
    UserError: there is neither.
  """
  names = shipped()
  if source in names:
    return names[source]
  path = Path(source).expanduser()
  if path.is_file():
    return path
  if path.is_dir():
    raise UserError(f"--config expected a file with get_config(), got {source}, which is a directory; name a file in it")
  if path.suffix == ".py" or os.sep in source:
    raise UserError(f"--config expected a file with get_config(), got {source}, which does not exist; check the path")
  raise UserError(
    f"--config expected one of {', '.join(names)} or the path of a .py file, got {source!r}{nearest(source, names)}"
  )


def read(path: Path) -> ml_collections.ConfigDict:
  """What the file's `get_config()` returns, with the default of every setting that it leaves out.

  Raises:
    UserError: whatever goes wrong inside the file, in one line with the file and the line number.
  """
  folder, path = str(path.resolve().parent), path.resolve()
  sys.path.insert(0, folder)  # so that a config can be made from the one beside it
  try:
    spec = importlib.util.spec_from_file_location("jaxreason_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(vars(module).get("get_config")):
      raise UserError(f"expected a function get_config() in {path}, got none; see configs/quickstart.py")
    config = module.get_config()
  except UserError:
    raise
  except Exception as error:
    raise UserError(f"config file {path}{_line_of(error, path)}: {_told(error)}") from error
  finally:
    sys.path.remove(folder)
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
      f"expected get_config() in {path} to return a ConfigDict, got {type(config).__name__}; start from default_config()"
    )
  try:
    return settings.complete(config)
  except UserError as error:
    raise UserError(f"config file {path}: {error}") from error


def apply(config: ml_collections.ConfigDict, overrides: Overrides) -> ml_collections.ConfigDict:
  """The config with overrides in it, in their order; a recipe before all others, so that single fields override it.

  Raises:
    UserError: an unknown name, a section in place of a setting, or text that the setting's type does not read.
  """
  for name, text in sorted(overrides, key=lambda override: override[0] != "objective"):
    if name == "objective":  # a recipe by its name
      config.objective.update(recipe(text))
      continue
    present = settings.flat(config.to_dict())
    if name not in present:
      inside = [other.removeprefix(f"{name}.") for other in present if other.startswith(f"{name}.")]
      if inside:
        raise UserError(f"config.{name} is a section, not a setting; set one of its {', '.join(inside)}")
      raise UserError(f"config.{name} is not a setting{_nearest_setting(name, present)}")
    config.update_from_flattened_dict({name: parsed(name, text, present[name])})
  return config


def parsed(name: str, text: str, present) -> bool | int | float | str:
  """`text` in the type of the value that is there now."""
  kind = type(present)
  if kind is bool:
    if text.lower() not in _TRUE + _FALSE:
      raise UserError(f"config.{name} expected true or false, got {text!r}")
    return text.lower() in _TRUE
  if kind is str:
    return text
  try:
    value = kind(text)
  except ValueError:
    raise UserError(f"config.{name} expected {kind.__name__}, got {text!r}; it is {present!r} now") from None
  if not math.isfinite(value):
    raise UserError(f"config.{name} expected a finite number, got {text!r}")
  return value


def _nearest_setting(name: str, present: dict) -> str:
  """The nearest whole name; where none is near, the setting of another section with the same last word."""
  last = name.rpartition(".")[2]
  same = [other for other in present if other.rpartition(".")[2] == last]
  return nearest(name, present) or (f" (did you mean {same[0]!r}?)" if same else "")


def _line_of(error: Exception, path: Path) -> str:
  if isinstance(error, SyntaxError):
    return f" line {error.lineno}"
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
  return f" line {lines[-1]}" if lines else ""


def _told(error: Exception) -> str:
  """An error in one line; ConfigDict's own, which list the whole config, are put shortly."""
  text = str(error.args[0]) if error.args else ""
  meant = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text)
  hint = f" (did you mean {meant[1]!r}?)" if meant else ""
  unknown = re.search(r'Key "(.+?)" does not exist', text) or re.search(r'instead of "(.+?)"', text)
  if isinstance(error, AttributeError | KeyError) and unknown:
    return f"{unknown[1]!r} is not a setting{hint}"
  cast = re.search(r"field '(\w+)'.*?\. (.*) is of original type <class '(.+?)'> and cannot .*? <class '(.+?)'>", text)
  if isinstance(error, TypeError) and cast:
    name, value, came, wanted = cast.groups()
    return f"{name} expected {_plain(wanted)}, got {value} of type {_plain(came)}"
  if isinstance(error, SyntaxError):
    return f"expected Python, got {error.msg}"
  first = (text.strip().splitlines() or [""])[0][:200]
  return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _plain(name: str) -> str:
  """'float' of 'float', 'a section' of a ConfigDict's long name."""
  return "a section" if name.endswith(("ConfigDict", "RunConfig")) else name.rpartition(".")[2]
