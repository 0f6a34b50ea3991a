"""Runs inside the sandbox: executes a program, evaluates calls of it, sends their values out.

Stands alone: it is copied into the sandbox, where nothing of this package exists. Reads one JSON
job from standard input and writes one line: the job's nonce, then the values.
"""

import io
import json
import os
import sys

DEPTH = 50


def encode(value, depth=0):
  """Plain data by exact type, so that no class of the program takes part in a comparison."""
  kind = type(value)
  if depth > DEPTH:
    raise ValueError("nested too deeply")
  if value is None or kind in (bool, int, str):
    return ["v", value]
  if kind is float:
    return ["f", value.hex() if value == value and abs(value) != float("inf") else str(value)]
  if kind is complex:
    return ["c", encode(value.real), encode(value.imag)]
  if kind is bytes:
    return ["b", value.hex()]
  if kind in (list, tuple, set, frozenset):
    return [kind.__name__, [encode(item, depth + 1) for item in value]]
  if kind is dict:
    return ["d", [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]]
  for base in (int, float, str, list, tuple, dict, set):  # Counter, OrderedDict, namedtuple, ...
    if issubclass(kind, base) and kind.__module__ in ("collections", "enum"):
      return encode(base(value), depth)
  raise ValueError(f"a {kind.__name__} is no plain data")


def main():
  job = json.loads(sys.stdin.buffer.read())
  out = os.dup(1)
  os.dup2(2, 1)  # what the program prints is no result
  sys.stdin = io.StringIO()
  space = {"__name__": "__main__", "__builtins__": __builtins__}
  dumps, write = json.dumps, os.write
  exec(compile(job["setup"], "<setup>", "exec"), space)
  exec(compile(job["program"], "<program>", "exec"), space)
  values = []
  for expression in job["expressions"]:
    name = expression.partition("(")[0]
    if name.isidentifier() and name not in space and hasattr(space.get("Solution"), name):
      space[name] = getattr(space["Solution"](), name)
    values.append(encode(eval(compile(expression, "<test>", "eval"), space)))
  sys.stdout.flush()
  data = ("\n" + job["nonce"] + dumps(values) + "\n").encode()
  while data:
    data = data[write(out, data) :]


if __name__ == "__main__":
  main()
