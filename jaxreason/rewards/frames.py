"""Floor 3, rewards: length-prefixed JSON, the language between the pool and its workers.

What enters: a JSON value, or a file descriptor. What leaves: bytes, or the value. A frame is four bytes of big-endian
length and then that many bytes of ASCII JSON. Both sides cap the length before they read, and nothing is ever unpickled:
a worker that ran hostile text can send at worst a wrong value of a known size.
"""

import json
import os
import struct

REQUEST_BYTES = 32 * 2**20
REPLY_BYTES = 2**20
TESTER_BYTES = 16 * 2**20  # of what tests hand to a submission: they are the row's own, and may bring large arguments
HEADER = struct.Struct(">I")

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True).encode


class FrameError(ValueError):
  """A frame that is too long or is not JSON."""


def encode(value) -> bytes:
  """The JSON of `value` as ASCII bytes (lone surrogates survive as escapes), keys sorted, without a header.

  Raises:
    TypeError, ValueError: the value is not JSON (a set, an array, NaN, a cycle).
  """
  return _encode(value).encode("ascii")


def pack(body: bytes, cap: int) -> bytes:
  """`body` with its header.

  Raises:
    FrameError: the body is longer than `cap` bytes.
  """
  if len(body) > cap:
    raise FrameError(f"a frame of {len(body)} bytes is over the cap of {cap}")
  return HEADER.pack(len(body)) + body


def decode(body: bytes):
  """The value in a frame's body.

  Raises:
    FrameError: it is not JSON, or nested too deeply to be read.
  """
  try:
    return json.loads(body)
  except (ValueError, RecursionError) as error:
    raise FrameError(f"a frame that is not JSON: {type(error).__name__}") from error


def read(fd: int, cap: int):
  """The next value from a blocking descriptor, or None at its end (the other side has gone).

  Raises:
    FrameError: too long, or not JSON.
  """
  header = _read_exactly(fd, HEADER.size)
  if header is None:
    return None
  (size,) = HEADER.unpack(header)
  if size > cap:
    raise FrameError(f"a frame of {size} bytes is over the cap of {cap}")
  body = _read_exactly(fd, size)
  return None if body is None else decode(body)


def write(fd: int, body: bytes, cap: int) -> None:
  """Writes one frame to a blocking descriptor."""
  view = memoryview(pack(body, cap))
  while view:
    view = view[os.write(fd, view) :]


def _read_exactly(fd: int, size: int) -> bytes | None:
  chunks = []
  while size:
    chunk = os.read(fd, min(size, 2**20))
    if not chunk:
      return None
    chunks.append(chunk)
    size -= len(chunk)
  return b"".join(chunks)
