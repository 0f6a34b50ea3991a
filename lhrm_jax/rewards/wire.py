"""Length-prefixed JSON over pipes: what the pool and its workers speak.

JSON carries data only, so nothing a worker sends back can run in the trainer, as a pickle could.
"""

import json
import struct
from typing import Any, BinaryIO

MAX_BYTES = 64 << 20
RAISED = "the rule raised"  # starts the reason of a verdict that a worker failed to reach


def send(stream: BinaryIO, message: Any) -> None:
  """Writes one message and flushes it."""
  # ensure_ascii keeps lone surrogates, which model text may hold, out of the encoding's way.
  body = json.dumps(message).encode("ascii")
  stream.write(struct.pack("<I", len(body)) + body)
  stream.flush()


def receive(stream: BinaryIO) -> Any:
  """Reads one message; raises `EOFError` where the other side has gone."""
  head = _exactly(stream, 4)
  (size,) = struct.unpack("<I", head)
  if size > MAX_BYTES:
    raise EOFError(f"a message of {size} bytes is no message")
  return json.loads(_exactly(stream, size))


def _exactly(stream: BinaryIO, size: int) -> bytes:
  data = b""
  while len(data) < size:
    part = stream.read(size - len(data))
    if not part:
      raise EOFError("the other side of the pipe is closed")
    data += part
  return data
