"""Floor 3, rewards: what runs assert-style tests in the jail, in a process that the submission never enters.

What enters: test sources. What leaves: for each, whether it passed, failed or is broken itself. What a test uses of the
submission lives in another jailed process (`candidate`); it is reached through the private channel, values come back as
fresh built-ins, and an object of the submission's own stays there and is stood for by a `Kept`.
"""

import ast
import builtins
import importlib
import symtable
import sys
from collections.abc import Iterable

from jaxreason.rewards import frames
from jaxreason.rewards.loading import told, whole
from jaxreason.rewards.values import decode, encode, record

_ALIASES = {"np": "numpy", "pd": "pandas"}
# Raised inside the test by a call, these would end its loops early instead of failing it.
_UNFIT = (StopIteration, StopAsyncIteration)


def serve(settings: dict, channel: int) -> None:
  """Runs one test after another until the channel closes."""
  wire = _Wire(channel)
  wire.send({"ready": True})
  order = wire.receive()
  while (request := wire.receive()) is not None:
    test = _Test(wire, order["setup"], order["entry_point"])
    outcome, why = test.run(request["test"])
    wire.send({"outcome": outcome, "why": why})


class _Wire:
  """The private channel, frames in and out."""

  def __init__(self, descriptor: int):
    self._descriptor = descriptor

  def send(self, value: dict) -> None:
    frames.write(self._descriptor, frames.encode(value), frames.TESTER_BYTES)

  def receive(self) -> dict | None:
    return frames.read(self._descriptor, frames.REQUEST_BYTES)


class _Test:
  """One test and its way to the submission."""

  def __init__(self, wire: _Wire, setup: str, entry_point: str | None):
    self._wire, self._setup, self._entry_point = wire, setup, entry_point
    self._kept: dict[int, Kept] = {}
    self._classes: dict[str, type] = {}  # the setup's
    self.touched = False

  def run(self, source: str) -> tuple[str, str]:
    """(passed | failed | broken, why). Broken is what fails or ends without the submission's having had any part in it."""
    namespace = {"__name__": "tests"}
    try:
      code = compile(source, "<test>", "exec", dont_inherit=True, optimize=0)
      exec(compile(whole(self._setup), "<setup>", "exec", dont_inherit=True, optimize=0), namespace)
      self._classes = {name: thing for name, thing in namespace.items() if isinstance(thing, type)}
      self._bind(source, namespace)
    except BaseException as error:
      return "broken", told(error)
    try:
      exec(code, namespace)
      for name in _uncalled(ast.parse(source)):
        namespace[name](*[namespace["candidate"]] if name == "check" else [])
    except BaseException as error:
      return "failed" if self.touched else "broken", told(error)
    return ("passed", "") if self.touched else ("broken", "the test never used the submission")

  def _bind(self, source: str, namespace: dict) -> None:
    """Gives the test what it refers to and does not define: the setup's own, then modules, then what the submission has."""
    free = _free(source) - namespace.keys() - vars(builtins).keys()
    modules = {name for name in free if name != self._entry_point and name in _only_dotted(source)}
    for name in sorted(modules):
      module = _ALIASES.get(name, name)
      if name in _ALIASES or module in sys.stdlib_module_names:
        namespace[name] = importlib.import_module(module)
    entry = {self._entry_point} - {None}
    for name in sorted((free - namespace.keys() - {"candidate"}) | entry):
      try:
        namespace[name] = self.ask("name", name)
        self.touched |= not isinstance(namespace[name], Kept)
      except Exception:  # the submission lacks it, or lies: what follows is its own doing
        self.touched = True
        namespace.pop(name, None)
    if self._entry_point in namespace:
      namespace["candidate"] = namespace[self._entry_point]

  def ask(self, do: str, *arguments, **keywords):
    """The result of an operation on the submission; raises what it raised, as the nearest built-in exception."""
    request = {
      "do": do,
      "keep": True,
      "arguments": [encode(one, _number, self._classes, records=True) for one in arguments],
      "keywords": {name: encode(one, _number, self._classes, records=True) for name, one in keywords.items()},
    }
    self.touched |= do != "name"
    self._wire.send({"ask": request})
    reply = self._wire.receive()
    if "value" not in reply:
      raise _raised(reply, stops=do == "next")
    try:
      return decode(reply["value"], self._stand_in, self._classes)
    except Exception as error:
      raise ValueError(f"a forged value: {told(error)}") from None

  def same_record(self, kept: "Kept", own) -> bool:
    """Whether a kept object is, field by field, the test's own instance of a dataclass of the setup."""
    if not hasattr(type(own), "__dataclass_fields__") or self._classes.get(type(own).__name__) is not type(own):
      return False
    try:
      name, fields = self.ask("record", kept)
      found = record(type(own), fields) if name == type(own).__name__ else None
    except Exception:  # it is none, or lies
      return False
    return found is not None and bool(found == own)

  def _stand_in(self, number: int) -> "Kept":
    if type(number) is not int:
      raise ValueError("no number")
    return self._kept.setdefault(number, Kept(self, number))


class Kept:
  """Stands for an object that stays with the submission: a function, an instance of its classes, an iterator.

  It equals no value of the test's own, whatever its `__eq__` would say, but for a dataclass of the setup, which is compared by
  its fields; two of them are compared where they are.
  """

  def __init__(self, test: _Test, number: int):
    self._test, self._number = test, number

  def __call__(self, *arguments, **keywords):
    return self._test.ask("call", self, *arguments, **keywords)

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return self._test.ask("attribute", self, name)

  def __eq__(self, other):
    if isinstance(other, Kept):
      return self._test.ask("equal", self, other) is True
    return self._test.same_record(self, other)

  def __hash__(self):
    return hash(self._number)

  def __bool__(self):
    return self._test.ask("truth", self)

  def __len__(self):
    return self._test.ask("length", self)

  def __iter__(self):
    found = self._test.ask("iterate", self)
    return found if isinstance(found, Kept) else iter(found)

  def __next__(self):
    return self._test.ask("next", self)

  def __getitem__(self, key):
    return self._test.ask("item", self, key)

  def __contains__(self, item):
    return self._test.ask("contains", self, item)

  def __str__(self):
    return self._test.ask("text", self)

  def __repr__(self):
    return self._test.ask("representation", self)


def _number(thing) -> int:
  if isinstance(thing, Kept):
    return thing._number
  raise TypeError(f"a test cannot hand the submission a {type(thing).__name__}")


def _raised(reply: dict, *, stops: bool) -> Exception:
  """The exception that a reply tells of, as the first built-in one among its class and bases."""
  names, text = reply.get("raised"), str(reply.get("text"))
  for name in names if isinstance(names, list) else ():
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, Exception):
      if issubclass(kind, _UNFIT) and not (stops and kind is StopIteration):
        break
      try:
        return kind(text)
      except TypeError:  # those of Unicode take more than a text
        continue
  return RuntimeError(text)


def _free(source: str) -> set[str]:
  """The global names that a source reads and does not make."""
  module = symtable.symtable(source, "<test>", "exec")
  made = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
  read: set[str] = set()
  for table in _tables(module):
    for symbol in table.get_symbols():
      everywhere = symbol.is_global() or table is module
      if everywhere and symbol.is_referenced():
        read.add(symbol.get_name())
      if symbol.is_declared_global() and symbol.is_assigned():
        made.add(symbol.get_name())
  return read - made


def _tables(table: symtable.SymbolTable) -> Iterable[symtable.SymbolTable]:
  yield table
  for child in table.get_children():
    yield from _tables(child)


def _only_dotted(source: str) -> set[str]:
  """Names that a source reads as `name.attribute` and in no other way."""
  tree = ast.parse(source)
  dotted = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
  others = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in dotted}
  return {node.id for node in dotted} - others


def _uncalled(tree: ast.Module) -> list[str]:
  """The functions that a source defines to be called by whoever runs it: `check(candidate)`, and `test_...()`."""
  defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
  called = {
    node.func.id
    for statement in tree.body
    if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
    for node in ast.walk(statement)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
  }
  return [name for name in defined if (name == "check" or name.startswith("test_")) and name not in called]
