"""Parses a compiled program, XLA's HLO text, into computations and their instructions."""

import dataclasses
import functools
import math
import re

_DTYPE_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16}
_SHAPE = re.compile(r"\b(pred|token|opaque|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALL = re.compile(
  r"(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Array:
  """The type of one array.

  Attributes:
    dtype: as HLO spells it, e.g. "bf16".
    dims: sizes of its axes.
    hbm: whether it lies in the chip's main memory, not in on-chip memory.
  """

  dtype: str
  dims: tuple[int, ...]
  hbm: bool

  @property
  def elements(self) -> int:
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    if self.dtype in ("token", "opaque"):
      return 0
    digits = re.search(r"\d+", self.dtype)
    bits = _DTYPE_BITS.get(self.dtype) or int(digits.group())
    return math.ceil(self.elements * bits / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction of a computation.

  Attributes:
    name: unique within its computation.
    opcode: e.g. "fusion".
    types: types of its results, one unless it returns a tuple.
    operands: names of the instructions it reads.
    attributes: text after the operands; of a parameter its number, of a constant its value.
    root: whether it is the computation's result.
  """

  name: str
  opcode: str
  types: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str
  root: bool

  @property
  def bytes(self) -> int:
    """Bytes of its results in the chip's main memory."""
    return sum(a.bytes for a in self.types if a.hbm)

  @property
  def called(self) -> dict[str, str]:
    """Computations it calls, by role: "calls", "body", "condition", ..."""
    return dict(_CALL.findall(self.attributes))


class Module:
  """A parsed HLO module.

  Attributes:
    computations: instructions by name, by the name of their computation.
    entry: name of the computation that runs first.
  """

  def __init__(self, text: str):
    """Args:
    text: `jax.stages.Compiled.as_text()`.
    """
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.entry = ""
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
      if header := _COMPUTATION.match(line):
        current = self.computations[header[2]] = {}
        if header[1]:
          self.entry = header[2]
      elif match := _INSTRUCTION.match(line):
        instruction = _parse(match[2], match[3], bool(match[1]))
        if instruction:
          current[instruction.name] = instruction

  def instructions(self, computation: str) -> list[Instruction]:
    return list(self.computations[computation].values())

  def parameters(self, computation: str) -> list[Instruction]:
    return [i for i in self.instructions(computation) if i.opcode == "parameter"]

  def types(self, computation: str, operand: str) -> tuple[Array, ...]:
    """Types of an operand; none for one that is not in the computation."""
    found = self.computations[computation].get(operand)
    return found.types if found else ()

  @functools.cache  # noqa: B019 - a module lives as long as the process that plans
  def users(self, computation: str) -> dict[str, list[Instruction]]:
    """Instructions that read each instruction of a computation."""
    users: dict[str, list[Instruction]] = {}
    for i in self.instructions(computation):
      for operand in set(i.operands):
        users.setdefault(operand, []).append(i)
    return users


def group_size(attributes: str) -> int:
  """Chips in one group of a collective, from any of XLA's notations for groups."""
  if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{}]*\{([^}]*)\}", attributes):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
    return int(iota[2])
  if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
    return len(listed[1].split(","))
  return 2 if "source_target_pairs={{" in attributes else 1


def braced(attributes: str, key: str) -> str:
  """Returns the text in the braces of `key={...}`; "" without such a key."""
  at = attributes.find(key + "={")
  return attributes[at + len(key) + 2 : attributes.index("}", at)] if at >= 0 else ""


def _parse(name: str, rest: str, root: bool) -> Instruction | None:
  """`TYPE opcode(operands), attributes`; a type may be a tuple in parentheses."""
  end = _closing(rest, 0) + 1 if rest.startswith("(") else _space_outside(rest)
  match = re.match(r"\s*([\w\-]+)\(", rest[end:])
  if not match:
    return None
  start = end + match.end() - 1
  close = _closing(rest, start)
  inside, attributes = rest[start + 1 : close], rest[close + 1 :]
  types = tuple(_arrays(rest[:end]))
  if match[1] in ("constant", "parameter"):
    return Instruction(name, match[1], types, (), inside, root)
  operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or tuple(
    part.strip().split(" ")[-1] for part in inside.split(",") if part.strip()
  )
  return Instruction(name, match[1], types, operands, attributes, root)


def _arrays(text: str) -> list[Array]:
  return [
    Array(dtype, tuple(int(d) for d in dims.split(",") if d), "S(" not in (layout or ""))
    for dtype, dims, layout in _SHAPE.findall(text)
  ]


def _closing(text: str, start: int) -> int:
  depth = 0
  for at in range(start, len(text)):
    depth += (text[at] == "(") - (text[at] == ")")
    if not depth:
      return at
  return len(text)


def _space_outside(text: str) -> int:
  depth = 0
  for at, char in enumerate(text):
    depth += (char in "{[(") - (char in "}])")
    if char == " " and not depth:
      return at
  return len(text)
