"""What a compiled program does on each chip, read from XLA's text: FLOPs, bytes, collectives.

XLA's own cost analysis counts the body of a loop once. Here every computation is weighted by how
often it runs: a scan's trip count stands in its condition; loops that end by themselves (decoding)
get the counts that the caller gives. Of a choice between branches the last one counts.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Sequence

_DTYPE_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16}
_SHAPE = re.compile(r"\b(pred|token|opaque|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALL = re.compile(
  r"(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Products of scores' size in each of splash attention's kernels, whose work XLA does not know.
_SPLASH = {"splash_mqa_fwd": 2, "splash_mqa_dq": 3, "splash_mqa_dkv": 4}
_BEGINS = 'custom_call_target="AsyncCollectiveStart"'
_FREE = {
  "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call",
  "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "optimization-barrier",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a type: dtype and dimensions; `hbm` unless it is placed in on-chip memory."""

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
  name: str
  opcode: str
  types: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str
  root: bool

  @property
  def bytes(self) -> int:
    return sum(a.bytes for a in self.types if a.hbm)


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind and shape.

  Attributes:
    kind: e.g. "all-gather".
    shape: of its result, as XLA writes it.
    bytes: of the result (of the operand, for a reduce-scatter) on one chip, each time.
    chips: that take part in one group.
    count: times per run of the program.
  """

  kind: str
  shape: str
  bytes: int
  chips: int
  count: int

  @property
  def sent(self) -> float:
    """Bytes that each chip sends in all, by the ring algorithm."""
    part = (self.chips - 1) / self.chips
    factor = {"all-reduce": 2 * part, "collective-permute": 1.0}.get(self.kind, part)
    return self.count * self.bytes * factor


@dataclasses.dataclass(frozen=True)
class Costs:
  """Of one chip, for one run of a program.

  Attributes:
    flops: of matrix products, convolutions and splash attention, 2 per multiply-add.
    bytes: to and from the chip's memory, if every fusion reads its inputs and writes its outputs
      once.
    collectives: by kind and shape, the most expensive first.
  """

  flops: float
  bytes: float
  collectives: tuple[Collective, ...]


class Program:
  """A parsed HLO module."""

  def __init__(self, text: str):
    """Args:
    text: `jax.stages.Compiled.as_text()`.
    """
    self.computations: dict[str, dict[str, Instruction]] = {}
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

  def costs(self, open_loop_trips: Sequence[int] = ()) -> Costs:
    """Args:
    open_loop_trips: turns of the loops whose number is not a constant, in the program's order;
      the rest of them make none.
    """
    flops = moved = 0.0
    found: Counter[tuple[str, str, int, int]] = Counter()
    for name, (times, fused) in self._runs(open_loop_trips).items():
      for i in self.computations[name].values():
        if i.opcode in ("dot", "convolution"):
          flops += times * self._flops(name, i)
        elif i.opcode == "custom-call":
          flops += times * self._splash_flops(name, i)
        kind = i.opcode.removesuffix("-start")
        if kind in _KINDS and not self._continues(name, i):
          found[self._collective(name, i, kind)] += times
        if not fused and i.opcode not in _FREE and not i.opcode.endswith(("-done", "-update")):
          moved += times * self._moved(name, i)
    collectives = [Collective(*key, count) for key, count in found.items()]
    return Costs(flops, moved, tuple(sorted(collectives, key=lambda c: -c.sent)))

  def _runs(self, open_loop_trips: Sequence[int]) -> dict[str, tuple[int, bool]]:
    """How often each computation runs, and whether inside a fusion."""
    runs: dict[str, tuple[int, bool]] = {}
    open_loops = iter(open_loop_trips)

    def visit(name: str, times: int, fused: bool) -> None:
      before = runs.get(name, (0, fused))[0]
      runs[name] = (before + times, fused)
      for i in self.computations[name].values():
        called = dict(_CALL.findall(i.attributes))
        if i.opcode == "while":
          trips = self._trips(i, called)
          visit(called["body"], times * (next(open_loops, 0) if trips is None else trips), fused)
        elif "calls" in called:
          visit(called["calls"], times, fused or i.opcode == "fusion")
        elif i.opcode == "call":
          visit(called["to_apply"], times, fused)
        elif i.opcode == "conditional":
          branches = [called[k] for k in ("true_computation", "false_computation") if k in called]
          for listed in _BRANCHES.findall(i.attributes):
            branches += [b.strip().lstrip("%") for b in listed.split(",")]
          for branch in branches[-1:]:  # one of them runs; the last is the one that does more here
            visit(branch, times, fused)

    visit(self.entry, 1, False)
    return runs

  def _trips(self, loop: Instruction, called: dict[str, str]) -> int | None:
    known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes)
    if known:
      return int(known[1])
    compared = [
      i for i in self.computations[called["condition"]].values()
      if i.opcode == "compare" or i.opcode == "fusion"
    ]  # fmt: skip
    constants = [
      int(i.attributes)
      for i in self.computations[called["condition"]].values()
      if i.opcode == "constant" and i.types[0].dims == () and i.attributes.isdigit()
    ]
    # A scan counts from 0 up to one constant; a loop that looks at data compares more than that.
    if len(constants) != 1 or len(compared) != 1:
      return None
    return math.ceil(constants[0] / self._stride(called))

  def _stride(self, called: dict[str, str]) -> int:
    """What one turn adds to a loop's counter: 2 in products over a ring of chips, unrolled."""
    condition = self.computations[called["condition"]].values()
    counters = [i.attributes for i in condition if i.opcode == "get-tuple-element"]
    body = self.computations[called["body"]]
    results = next((i for i in body.values() if i.root), None)
    index = re.search(r"index=(\d+)", counters[0]) if len(counters) == 1 else None
    if not index or not results or results.opcode != "tuple":
      return 1
    counter = body.get(results.operands[int(index[1])])
    if not counter or counter.opcode != "add":
      return 1
    added = (body[operand] for operand in counter.operands if operand in body)
    steps = [int(i.attributes) for i in added if i.opcode == "constant" and i.attributes.isdigit()]
    return steps[0] if len(steps) == 1 and steps[0] else 1

  def _types(self, computation: str, operand: str) -> tuple[Array, ...]:
    found = self.computations[computation].get(operand)
    return found.types if found else ()

  def _flops(self, computation: str, i: Instruction) -> float:
    lhs, rhs = (self._types(computation, o)[0] for o in i.operands[:2])
    if i.opcode == "dot":
      contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
      dims = [int(d) for d in contracted[1].split(",") if d] if contracted else []
      return 2.0 * i.types[0].elements * math.prod(lhs.dims[d] for d in dims)
    return _convolution_flops(i, lhs, rhs)

  def _splash_flops(self, computation: str, i: Instruction) -> float:
    """Of a causal kernel: `T` queries see on average all but half of the last `T` of `S` slots."""
    products = next((n for kernel, n in _SPLASH.items() if i.name.startswith(kernel)), 0)
    if not products:
      return 0.0
    # After two tables of blocks: queries [..., heads, T, D], then keys [..., S, D].
    queries, keys = (self._types(computation, o)[0] for o in i.operands[2:4])
    return 2.0 * products * queries.elements * (keys.dims[-2] - queries.dims[-2] / 2)

  def _continues(self, computation: str, i: Instruction) -> bool:
    """Whether this is a piece of a collective that another instruction began.

    The TPU compiler lets a gather go on inside other fusions, and names it again in each of them.
    """
    if "async_collective_fusion_config" not in i.attributes:
      return False
    others = self.computations[computation].values()
    return not any(_BEGINS in o.attributes for o in others if o.opcode == "custom-call")

  def _collective(self, computation: str, i: Instruction, kind: str) -> tuple[str, str, int, int]:
    of_operands = sum(a.bytes for o in i.operands for a in self._types(computation, o))
    of_result = sum(a.bytes for a in i.types)
    if i.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
      of_result -= of_operands  # a start's type holds its operand too
    # The TPU compiler fuses a reduce-scatter out of an all-reduce and a slice.
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
      kind = "reduce-scatter"
    size = of_operands if kind == "reduce-scatter" else of_result
    shape = ", ".join(f"{a.dtype}[{','.join(map(str, a.dims))}]" for a in i.types[:2])
    shape += ", ..." if len(i.types) > 2 else ""
    return kind, shape, int(size), _group_size(i.attributes)

  def _moved(self, computation: str, i: Instruction) -> float:
    """Bytes that one instruction reads and writes in the chip's memory."""
    if i.opcode == "fusion":
      callee = dict(_CALL.findall(i.attributes)).get("calls", "")
      return self._read_by(callee, i) + self._written_by(callee, i)
    if i.opcode in ("dynamic-slice", "slice", "gather"):
      return 2.0 * i.bytes
    if i.opcode == "dynamic-update-slice":
      return 2.0 * sum(a.bytes for a in self._types(computation, i.operands[1]) if a.hbm)
    reads = sum(a.bytes for o in i.operands for a in self._types(computation, o) if a.hbm)
    return reads + i.bytes

  def _read_by(self, callee: str, fusion: Instruction) -> float:
    body = self.computations[callee]
    total = 0.0
    for parameter in (i for i in body.values() if i.opcode == "parameter"):
      total += self._read(callee, parameter.name, parameter.bytes)
    return total

  def _read(self, computation: str, name: str, whole: int) -> float:
    """Bytes read of a parameter: what is only sliced, or written into, is not read whole."""
    total = 0.0
    for user in self._users(computation).get(name, ()):
      if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
        total += sum(a.bytes for a in user.types)
      elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
        continue
      elif user.opcode == "fusion":
        callee = dict(_CALL.findall(user.attributes))["calls"]
        inner = [i for i in self.computations[callee].values() if i.opcode == "parameter"]
        at = user.operands.index(name)
        same = [i for i in inner if i.attributes == str(at)]
        total += self._read(callee, same[0].name, whole) if same else whole
      elif user.opcode in ("bitcast", "get-tuple-element"):
        total += self._read(computation, user.name, whole)
      else:
        return whole
    return min(total, whole)

  def _written_by(self, callee: str, fusion: Instruction) -> float:
    for i in self.computations[callee].values():
      if not i.root:
        continue
      if i.opcode == "dynamic-update-slice":
        return sum(a.bytes for a in self._types(callee, i.operands[1]))
      if i.opcode == "fusion":
        return self._written_by(dict(_CALL.findall(i.attributes))["calls"], fusion)
    return fusion.bytes

  @functools.cache  # noqa: B019 - a program lives as long as the process that plans
  def _users(self, computation: str) -> dict[str, list[Instruction]]:
    users: dict[str, list[Instruction]] = {}
    for i in self.computations[computation].values():
      for operand in set(i.operands):
        users.setdefault(operand, []).append(i)
    return users


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


def _group_size(attributes: str) -> int:
  """Chips in one group, from any of the ways XLA writes groups."""
  if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{}]*\{([^}]*)\}", attributes):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
    return int(iota[2])
  if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
    return len(listed[1].split(","))
  pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", attributes)
  return 2 if pairs else 1


def _convolution_flops(i: Instruction, lhs: Array, rhs: Array) -> float:
  """FLOPs of a convolution, as which TPUs write matrix products; batches become its windows.

  Only pairs of input and kernel that meet inside the input count, not those in the padding.
  """
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
  left, kernel, out = labels.groups()
  window = dict(re.findall(r"(\w+)=([\dx_\-]+)", _braced(i.attributes, "window=")))
  groups = int((re.search(r"feature_group_count=(\d+)", i.attributes) or (0, 1))[1])
  batch_groups = int((re.search(r"batch_group_count=(\d+)", i.attributes) or (0, 1))[1])
  spatial = sorted(c for c in kernel if c.isdigit())
  work = i.types[0].dims[out.index("b")] * i.types[0].dims[out.index("f")]
  work *= rhs.dims[kernel.index("i")]

  def of(name: str, axis: int, default: str) -> str:
    return window[name].split("x")[axis] if name in window else default

  for axis, label in enumerate(spatial):
    low = int(of("pad", axis, "0_0").split("_")[0])
    stride, dilation = int(of("stride", axis, "1")), int(of("rhs_dilate", axis, "1"))
    base = int(of("lhs_dilate", axis, "1"))
    size_in = (lhs.dims[left.index(label)] - 1) * base + 1
    size_out = i.types[0].dims[out.index(label)]
    taps = rhs.dims[kernel.index(label)]
    work *= _meetings(size_in, size_out, taps, low, stride, dilation, base)
  del groups  # the kernel's input features are those of one group already
  return 2.0 * work / batch_groups


@functools.cache
def _meetings(
  size: int, outputs: int, taps: int, low: int, stride: int, dil: int, base: int
) -> int:
  """Pairs (output, tap) that land on an input element."""
  return sum(
    0 <= (at := o * stride + k * dil - low) < size and at % base == 0
    for o in range(outputs)
    for k in range(taps)
  )


def _braced(text: str, key: str) -> str:
  at = text.find(key + "{")
  return text[at + len(key) + 1 : text.index("}", at)] if at >= 0 else ""
