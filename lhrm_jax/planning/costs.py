"""FLOPs, memory traffic and collectives of a compiled program, per chip.

XLA's own cost analysis counts the body of a loop once. Here every computation is weighted by how
often it runs: a scan's trip count is in its condition; loops that stop on data (decoding) get
the counts that the caller gives. Of a choice between branches the last one counts.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Mapping

from lhrm_jax.planning import hlo
from lhrm_jax.planning.hlo import Array, Instruction, Module

_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Products of the scores' size in each kernel of splash attention, which XLA's analysis cannot see.
_SPLASH = {"splash_mqa_fwd": 2, "splash_mqa_dq": 3, "splash_mqa_dkv": 4}
_BEGINS = 'custom_call_target="AsyncCollectiveStart"'
_SLICES = ("dynamic-slice", "slice", "gather")
_FREE = {
  "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call",
  "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "optimization-barrier",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind and shape.

  Attributes:
    kind: e.g. "all-gather".
    shape: result type in XLA's notation.
    bytes: size of the result (of the operand, for a reduce-scatter) on one chip, each time.
    chips: size of a group.
    count: times per run of the program.
  """

  kind: str
  shape: str
  bytes: int
  chips: int
  count: int

  @property
  def sent(self) -> float:
    """Bytes that each chip sends per run of the program, by the ring algorithm."""
    part = (self.chips - 1) / self.chips
    factor = {"all-reduce": 2 * part, "collective-permute": 1.0}.get(self.kind, part)
    return self.count * self.bytes * factor


@dataclasses.dataclass(frozen=True)
class Costs:
  """Costs of one run of a program on one chip.

  Attributes:
    flops: FLOPs of matrix products, convolutions and splash attention, 2 per multiply-add.
    bytes: memory traffic, if every fusion reads its inputs and writes its outputs once.
    collectives: by kind and shape, the most expensive first.
  """

  flops: float = 0.0
  bytes: float = 0.0
  collectives: tuple[Collective, ...] = ()


def count(text: str, open_loop_trips: Mapping[str, int] | None = None) -> Costs:
  """Counts the costs of a compiled program.

  Args:
    text: `jax.stages.Compiled.as_text()`.
    open_loop_trips: iterations of the loops whose number is not a constant, by the name of the
      innermost `jax.named_scope` around the loop, and within the loop that holds it, that is among
      the keys. Loops without one count none.
  """
  module = Module(text)
  flops = moved = 0.0
  found: Counter[tuple[str, str, int, int]] = Counter()
  for name, (times, fused) in _runs(module, open_loop_trips or {}).items():
    for i in module.instructions(name):
      if i.opcode in ("dot", "convolution"):
        flops += times * _product_flops(module, name, i)
      elif i.opcode == "custom-call":
        flops += times * _splash_flops(module, name, i)
      kind = i.opcode.removesuffix("-start")
      if kind in _KINDS and not _continues(module, name, i):
        found[_collective(module, name, i, kind)] += times
      if not fused and i.opcode not in _FREE and not i.opcode.endswith(("-done", "-update")):
        moved += times * _moved(module, name, i)
  collectives = [Collective(*key, times) for key, times in found.items()]
  return Costs(flops, moved, tuple(sorted(collectives, key=lambda c: -c.sent)))


# ---- How often


def _runs(module: Module, open_loop_trips: Mapping[str, int]) -> dict[str, tuple[int, bool]]:
  """How often each computation runs, and whether inside a fusion."""
  runs: dict[str, tuple[int, bool]] = {}

  def open_trips(loop: Instruction) -> int:
    path = re.search(r'op_name="([^"]*)"', loop.attributes)
    inside = re.split(r"\bbody\b", path[1])[-1] if path else ""  # of the loop that holds this one
    names = re.findall(r"\w+", inside)
    return next((open_loop_trips[name] for name in reversed(names) if name in open_loop_trips), 0)

  def visit(name: str, times: int, fused: bool) -> None:
    before = runs.get(name, (0, fused))[0]
    runs[name] = (before + times, fused)
    for i in module.instructions(name):
      called = i.called
      if i.opcode == "while":
        trips = _trips(module, i)
        visit(called["body"], times * (open_trips(i) if trips is None else trips), fused)
      elif "calls" in called:
        visit(called["calls"], times, fused or i.opcode == "fusion")
      elif i.opcode == "call":
        visit(called["to_apply"], times, fused)
      elif i.opcode == "conditional":
        branches = [called[k] for k in ("true_computation", "false_computation") if k in called]
        for listed in _BRANCHES.findall(i.attributes):
          branches += [b.strip().lstrip("%") for b in listed.split(",")]
        for branch in branches[-1:]:  # one of them runs; here the last is the costlier one
          visit(branch, times, fused)

  visit(module.entry, 1, False)
  return runs


def _trips(module: Module, loop: Instruction) -> int | None:
  """Iterations of a loop; `None` where they depend on data."""
  known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes)
  if known:
    return int(known[1])
  condition = module.instructions(loop.called["condition"])
  compared = [i for i in condition if i.opcode in ("compare", "fusion")]
  constants = [
    int(i.attributes) for i in condition
    if i.opcode == "constant" and i.types[0].dims == () and i.attributes.isdigit()
  ]  # fmt: skip
  # A scan counts from 0 up to one constant; a loop that stops on data compares more than that.
  if len(constants) != 1 or len(compared) != 1:
    return None
  return math.ceil(constants[0] / _stride(module, loop))


def _stride(module: Module, loop: Instruction) -> int:
  """Increment of a loop's counter: 2 in products over a ring of chips, unrolled."""
  condition = module.instructions(loop.called["condition"])
  counters = [i.attributes for i in condition if i.opcode == "get-tuple-element"]
  body = module.computations[loop.called["body"]]
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


# ---- FLOPs


def _product_flops(module: Module, computation: str, i: Instruction) -> float:
  lhs, rhs = (module.types(computation, o)[0] for o in i.operands[:2])
  if i.opcode == "convolution":
    return _convolution_flops(i, lhs, rhs)
  contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
  dims = [int(d) for d in contracted[1].split(",") if d] if contracted else []
  return 2.0 * i.types[0].elements * math.prod(lhs.dims[d] for d in dims)


def _splash_flops(module: Module, computation: str, i: Instruction) -> float:
  """FLOPs of a causal kernel: `T` queries see on average `S - T/2` of `S` slots."""
  products = next((n for kernel, n in _SPLASH.items() if i.name.startswith(kernel)), 0)
  if not products:
    return 0.0
  # After two tables of blocks: queries [..., heads, T, D], then keys [..., S, D].
  queries, keys = (module.types(computation, o)[0] for o in i.operands[2:4])
  return 2.0 * products * queries.elements * (keys.dims[-2] - queries.dims[-2] / 2)


def _convolution_flops(i: Instruction, lhs: Array, rhs: Array) -> float:
  """FLOPs of a convolution, the form TPUs give to matrix products; batches become its windows.

  Only pairs of input and kernel that meet inside the input count, not those in the padding.
  """
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
  left, kernel, out = labels.groups()
  window = dict(re.findall(r"(\w+)=([\dx_\-]+)", hlo.braced(i.attributes, "window")))
  batch_groups = int((re.search(r"batch_group_count=(\d+)", i.attributes) or (0, 1))[1])
  work = i.types[0].dims[out.index("b")] * i.types[0].dims[out.index("f")]
  work *= rhs.dims[kernel.index("i")]  # input features of one group

  def at(name: str, axis: int, default: str) -> str:
    return window[name].split("x")[axis] if name in window else default

  for axis, label in enumerate(sorted(c for c in kernel if c.isdigit())):
    base = int(at("lhs_dilate", axis, "1"))
    work *= _meetings(
      size=(lhs.dims[left.index(label)] - 1) * base + 1,
      outputs=i.types[0].dims[out.index(label)],
      taps=rhs.dims[kernel.index(label)],
      low=int(at("pad", axis, "0_0").split("_")[0]),
      stride=int(at("stride", axis, "1")),
      dilation=int(at("rhs_dilate", axis, "1")),
      base=base,
    )
  return 2.0 * work / batch_groups


@functools.cache
def _meetings(
  *, size: int, outputs: int, taps: int, low: int, stride: int, dilation: int, base: int
) -> int:
  """Pairs (output, tap) that land on an input element."""
  return sum(
    0 <= (at := o * stride + k * dilation - low) < size and at % base == 0
    for o in range(outputs)
    for k in range(taps)
  )


# ---- Collectives


def _continues(module: Module, computation: str, i: Instruction) -> bool:
  """Whether this is a piece of a collective that another instruction began.

  The TPU compiler lets a gather continue inside other fusions, and names it again in each of them.
  """
  if "async_collective_fusion_config" not in i.attributes:
    return False
  others = module.instructions(computation)
  return not any(_BEGINS in o.attributes for o in others if o.opcode == "custom-call")


def _collective(
  module: Module, computation: str, i: Instruction, kind: str
) -> tuple[str, str, int, int]:
  operand_bytes = sum(a.bytes for o in i.operands for a in module.types(computation, o))
  result_bytes = sum(a.bytes for a in i.types)
  if i.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
    result_bytes -= operand_bytes  # a start's type holds its operand too
  # The TPU compiler fuses a reduce-scatter out of an all-reduce and a slice.
  if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
    kind = "reduce-scatter"
  size = operand_bytes if kind == "reduce-scatter" else result_bytes
  shape = ", ".join(f"{a.dtype}[{','.join(map(str, a.dims))}]" for a in i.types[:2])
  shape += ", ..." if len(i.types) > 2 else ""
  return kind, shape, int(size), hlo.group_size(i.attributes)


# ---- Memory traffic


def _moved(module: Module, computation: str, i: Instruction) -> float:
  """Bytes that one instruction reads and writes in the chip's memory."""
  if i.opcode == "fusion":
    callee = i.called.get("calls", "")
    read = sum(_read(module, callee, p.name, p.bytes) for p in module.parameters(callee))
    return read + _written(module, callee, i)
  if i.opcode in _SLICES:
    return 2.0 * i.bytes
  if i.opcode == "dynamic-update-slice":
    return 2.0 * sum(a.bytes for a in module.types(computation, i.operands[1]) if a.hbm)
  reads = sum(a.bytes for o in i.operands for a in module.types(computation, o) if a.hbm)
  return reads + i.bytes


def _read(module: Module, computation: str, name: str, whole: int) -> float:
  """Bytes read of a parameter: less than `whole` where it is only sliced or written into."""
  total = 0.0
  for user in module.users(computation).get(name, ()):
    if user.opcode in _SLICES and user.operands[0] == name:
      total += sum(a.bytes for a in user.types)
    elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
      continue
    elif user.opcode == "fusion":
      callee, number = user.called["calls"], str(user.operands.index(name))
      same = [p for p in module.parameters(callee) if p.attributes == number]
      total += _read(module, callee, same[0].name, whole) if same else whole
    elif user.opcode in ("bitcast", "get-tuple-element"):
      total += _read(module, computation, user.name, whole)
    else:
      return whole
  return min(total, whole)


def _written(module: Module, callee: str, fusion: Instruction) -> float:
  root = next((i for i in module.instructions(callee) if i.root), None)
  if root and root.opcode == "dynamic-update-slice":
    return sum(a.bytes for a in module.types(callee, root.operands[1]))
  if root and root.opcode == "fusion":
    return _written(module, root.called["calls"], fusion)
  return fusion.bytes
