"""Runs inside the judge's sandbox: decides whether a program's replies pass its tests.

Self-contained: it is copied into the sandbox, which holds no line of the program. Replies arrive as
text that the program may have forged; they become plain data of exact types here and are never
executed.
"""

import array
import collections
import datetime
import decimal
import fractions
import json
import math
import os
import sys

SEQUENCES = {
  "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque,
  "iterator": iter, "range": lambda parts: range(*parts),
  "array": lambda parts: array.array(*parts),
  "fraction": lambda parts: fractions.Fraction(*parts), "complex": lambda parts: complex(*parts),
  "datetime": lambda parts: datetime.datetime(*parts),
  "date": lambda parts: datetime.date(*parts), "time": lambda parts: datetime.time(*parts),
  "timedelta": lambda parts: datetime.timedelta(*parts),
}  # fmt: skip
MAPPINGS = {
  "dict": dict, "Counter": lambda pairs: collections.Counter(dict(pairs)),
  "OrderedDict": collections.OrderedDict, "keys": lambda pairs: dict(pairs).keys(),
  "values": lambda pairs: dict(pairs).values(), "items": lambda pairs: dict(pairs).items(),
}  # fmt: skip
SCALARS = {
  "int": lambda text: int(text, 16), "float": float.fromhex, "str": str, "bytes": bytes.fromhex,
  "bytearray": bytearray.fromhex, "decimal": decimal.Decimal,
}  # fmt: skip


def decode(item):
  """Plain data as `code_harness.encode` wrote it; raises on anything else."""
  if item is None or item is True or item is False:
    return item
  tag, value = item
  if tag in SCALARS:
    if type(value) is not str:
      raise ValueError("a scalar is written as text")
    return SCALARS[tag](value)
  if tag in SEQUENCES:
    return SEQUENCES[tag]([decode(part) for part in value])
  return MAPPINGS[tag]([(decode(key), decode(part)) for key, part in value])


def same(value, want):
  """Equality with a value that came from JSON, where a tuple was written as a list."""
  if isinstance(want, list):
    alike = type(value) in (list, tuple) and len(value) == len(want)
    return alike and all(map(same, value, want))
  if isinstance(want, dict):
    alike = isinstance(value, dict) and value.keys() == want.keys()
    return alike and all(same(value[key], want[key]) for key in want)
  numbers = (int, float)
  if type(value) in numbers and type(want) in numbers and float in (type(value), type(want)):
    if value == want or (value != value and want != want):
      return True
    try:
      return math.isclose(value, want, rel_tol=1e-9)
    except OverflowError:  # a whole number beyond every float
      return False
  return type(value) is type(want) and value == want


def passes(job, space):
  values = [decode(item) for item in json.loads(job["reply"])]
  if "wanted" in job:
    pairs = zip(values, job["wanted"], strict=True)
    return all(same(value, want) for value, want in pairs)
  if len(values) != job["count"]:
    return False
  space["__asked__"] = values
  return all(bool(eval(compile(check, "<test>", "eval"), space)) for check in job["checks"])


def main():
  job = json.loads(sys.stdin.buffer.read())
  out = os.dup(1)
  os.dup2(2, 1)  # what the set-up prints is not a verdict
  space = {"__name__": "__main__", "__builtins__": __builtins__}
  try:
    exec(compile(job["setup"], "<setup>", "exec"), space)
  except BaseException as error:
    os.write(out, json.dumps({"setup": f"{type(error).__name__}: {error}"}).encode())
    return
  try:
    verdict = passes(job, space)
  except Exception:  # a wrong value may break the check
    verdict = False
  os.write(out, json.dumps({"passed": verdict}).encode())


if __name__ == "__main__":
  main()
