"""Runs inside the program's sandbox: executes it, asks it, and sends out its replies.

Self-contained: it is copied into the sandbox, where nothing of this package exists. Reads one JSON
job from standard input and writes one line, the replies as plain data. The program shares this
interpreter and can forge that line; it says only what its functions returned, so forging it is the
same as returning it. Nothing here knows the right answers.
"""

import array
import collections
import datetime
import decimal
import fractions
import io
import itertools
import json
import os
import sys
import types

DEPTH = 50
MOST_ITEMS = 1_000_000


def encode(value, depth=0):
  """Plain data by exact type, so that no class of the program takes part in a comparison."""
  kind = type(value)
  if depth > DEPTH:
    raise ValueError("nested too deeply")
  if value is None or kind is bool:
    return value
  if kind is int:
    return ["int", hex(value)]
  if kind is float:
    return ["float", value.hex()]
  if kind is str:
    return ["str", value]
  if kind in (bytes, bytearray):
    return [kind.__name__, value.hex()]
  if kind is decimal.Decimal:
    return ["decimal", str(value)]
  deeper = depth + 1
  if kind in (list, tuple, set, frozenset, collections.deque):
    return [kind.__name__, [encode(item, deeper) for item in value]]
  if kind in (dict, collections.Counter, collections.OrderedDict):
    return [kind.__name__, [[encode(k, deeper), encode(v, deeper)] for k, v in value.items()]]
  if kind is array.array:
    return ["array", [encode(value.typecode), encode(value.tolist(), deeper)]]
  if kind in PARTS:
    name, attributes = PARTS[kind]
    return [name, [encode(getattr(value, part), deeper) for part in attributes]]
  if kind in VIEWS:
    name, pairs = VIEWS[kind]
    return [name, [[encode(k, deeper), encode(v, deeper)] for k, v in pairs(value)]]
  if isinstance(value, tuple) and hasattr(kind, "_fields"):
    return encode(tuple(value), depth)
  if kind.__module__ in ("collections", "enum"):
    for base in (int, float, str, list, dict):
      if issubclass(kind, base):
        return encode(base(value), depth)
  if hasattr(kind, "__next__"):
    items = list(itertools.islice(value, MOST_ITEMS))
    return ["iterator", [encode(item, deeper) for item in items]]
  raise ValueError(f"a {kind.__name__} is not plain data")


DATE, CLOCK = ("year", "month", "day"), ("hour", "minute", "second", "microsecond")
PARTS = {
  range: ("range", ("start", "stop", "step")),
  complex: ("complex", ("real", "imag")),
  fractions.Fraction: ("fraction", ("numerator", "denominator")),
  datetime.datetime: ("datetime", DATE + CLOCK),
  datetime.date: ("date", DATE),
  datetime.time: ("time", CLOCK),
  datetime.timedelta: ("timedelta", ("days", "seconds", "microseconds")),
}
VIEWS = {
  type({}.keys()): ("keys", lambda keys: [(key, None) for key in keys]),
  type({}.values()): ("values", enumerate),
  type({}.items()): ("items", list),
}


def main():
  job = json.loads(sys.stdin.buffer.read())
  out = os.dup(1)
  os.dup2(2, 1)  # what the program prints is not a reply
  sys.stdin = io.StringIO()
  # As an imported module: code below `if __name__ == "__main__"` would ask for input.
  module = sys.modules["program"] = types.ModuleType("program")
  space = module.__dict__
  dumps, write = json.dumps, os.write
  for part in ("before", "program", "after"):
    exec(compile(job[part], f"<{part}>", "exec"), space)
  for name in job["names"]:
    if name not in space and hasattr(space.get("Solution"), name):
      space[name] = getattr(space["Solution"](), name)
  replies = []
  for asked in job["asked"]:
    if isinstance(asked, str):
      reply = eval(compile(asked, "<test>", "eval"), space)
    else:
      name, args, kwargs = asked
      reply = eval(name, space)(*args, **kwargs)
    replies.append(encode(reply))
  sys.stdout.flush()
  data = dumps(replies).encode()
  while data:
    data = data[write(out, data) :]


if __name__ == "__main__":
  main()
