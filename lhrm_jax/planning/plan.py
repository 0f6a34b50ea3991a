"""Cost of one program on each chip, by ahead-of-time compilation without the chips."""

import dataclasses
import math
import re
import time
from typing import Any

import jax

from lhrm_jax.planning.chips import Topology
from lhrm_jax.planning.costs import Collective, Costs, count
from lhrm_jax.planning.programs import Program
from lhrm_jax.policy import flash
from lhrm_jax.training.state import TrainState

_TILE = 16  # rows of a tile of bfloat16 in a TPU's memory


@dataclasses.dataclass(frozen=True)
class Plan:
  """Memory and least time of one program on one chip; docs/scaling.md says how it is estimated.

  Attributes:
    program: one of `PROGRAMS`.
    what: its shapes in words.
    chips: number of chips that run it together.
    rows: packed rows computed at a time, over all of them; 0 where it takes none.
    parameters: bytes of the parameters.
    optimizer: bytes of the optimiser's state.
    batch: bytes of the other arguments.
    kv_cache: bytes of the responses' keys and values, part of `temporaries`.
    temporaries: bytes of everything else at the peak: activations, gradients, caches.
    peak: bytes at the peak; where the compiler refuses the program, what it says it needs.
    hbm: bytes of the chip's memory.
    flops: FLOPs of matrix products.
    moved: bytes to and from memory.
    collectives: transfers between chips.
    compute_seconds, memory_seconds, collective_seconds: seconds at the datasheet's rates.
    problem: the compiler's words on why it does not fit; "" where it compiles.
    compile_seconds: seconds that compiling took here.
  """

  program: str
  what: str
  chips: int
  rows: int
  parameters: int
  optimizer: int
  batch: int
  kv_cache: int
  temporaries: int
  peak: int
  hbm: int
  flops: float
  moved: float
  collectives: tuple[Collective, ...]
  compute_seconds: float
  memory_seconds: float
  collective_seconds: float
  problem: str
  compile_seconds: float

  @property
  def fits(self) -> bool:
    return not self.problem and self.peak <= self.hbm

  @property
  def seconds(self) -> tuple[float, float]:
    """Least time with collectives hidden wholly behind the rest, and not at all."""
    work = max(self.compute_seconds, self.memory_seconds)
    return max(work, self.collective_seconds), work + self.collective_seconds

  def to_json(self) -> dict[str, Any]:
    return {
      **dataclasses.asdict(self),
      "collectives": [{**dataclasses.asdict(c), "sent": c.sent} for c in self.collectives],
      "fits": self.fits,
      "seconds": self.seconds,
    }


def make_plan(program: Program, topology: Topology) -> Plan:
  """Compiles a program for a topology and reads its costs from what the compiler made."""
  began = time.perf_counter()
  compiled, problem = _compile(program, topology)
  seconds = time.perf_counter() - began
  arguments = _bytes_per_chip(program.args)
  if compiled:
    costs, memory = count(compiled.as_text(), program.trips), compiled.memory_analysis()
    temporaries = memory.temp_size_in_bytes
    outputs = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
    peak = temporaries + arguments + outputs + memory.generated_code_size_in_bytes
  else:
    costs, temporaries = Costs(), _bytes_needed(problem)
    peak = temporaries + arguments
  first = program.args[0]
  params, opt_state = (
    (first.params, first.opt_state) if isinstance(first, TrainState) else (first, ())
  )
  chip = topology.chip
  return Plan(
    program=program.name,
    what=program.what,
    chips=program.mesh.size,
    rows=program.rows,
    parameters=_bytes_per_chip(params),
    optimizer=_bytes_per_chip(opt_state),
    batch=_bytes_per_chip(program.args[1:]),
    kv_cache=program.kv_cache,
    temporaries=temporaries,
    peak=peak,
    hbm=chip.hbm,
    flops=costs.flops,
    moved=costs.bytes,
    collectives=costs.collectives,
    compute_seconds=costs.flops / chip.flops,
    memory_seconds=costs.bytes / chip.bandwidth,
    collective_seconds=sum(topology.seconds_to_send(c.sent, c.chips) for c in costs.collectives),
    problem=problem,
    compile_seconds=seconds,
  )


def advice(plan: Plan, config: Any, topology: Topology) -> list[str]:
  """Settings to change where a program does not fit, or sends twice what it needs to.

  Args:
    plan: of the program.
    config: has the sections `hft`, `hgpo`, `mesh`, `policy` and `sampling_mesh` of the run.
    topology: the chips.
  """
  lines, width, fsdp = [], config.policy.hidden_size, config.mesh.fsdp
  updates = plan.program in ("hft", "score", "update")
  if updates and topology.chip.axes > 1 and fsdp > 1 and width % (_TILE * fsdp):
    lines.append(
      f"mesh.fsdp={fsdp} leaves {width / fsdp:g} rows of each matrix on a chip, no multiple of "
      f"{_TILE}: the TPU compiler then sums whole matrices in place of gathering parts, twice "
      "the bytes. Choose one that divides, and mesh.data for the other chips."
    )
  if plan.fits:
    return lines
  if plan.parameters + plan.optimizer > 0.6 * plan.hbm:
    lines.append("the state alone nearly fills the chip: raise mesh.fsdp or take more chips.")
  if plan.program in ("update", "score"):
    lines.append(f"lower hgpo.micro_batch_rows (now {plan.rows}).")
  if plan.program == "hft":
    lines.append(f"lower hft.micro_batch_rows (now {plan.rows}).")
  if plan.program in ("prefill", "rollout"):
    lines.append(
      f"raise sampling_mesh.tensor (now {config.sampling_mesh.tensor}): fewer copies of the "
      f"weights per host; or hgpo.sampling_chunks (now {config.hgpo.sampling_chunks})."
    )
  if plan.program == "rollout":
    lines.append(
      "bound the responses in memory with hgpo.decode_slots (now "
      f"{config.hgpo.decode_slots or 'all'})."
    )
  if config.policy.remat != "full" and plan.program in ("hft", "update"):
    lines.append(f"set policy.remat=full (now {config.policy.remat}).")
  lines.append("raise mesh.tensor: it splits activations too.")
  return lines


def _compile(program: Program, topology: Topology) -> tuple[jax.stages.Compiled | None, str]:
  """The compiled program, or why it does not fit."""
  platform = "tpu" if topology.chip.axes > 1 else "cpu"
  mesh = program.mesh.abstract_mesh
  try:
    with jax.sharding.use_abstract_mesh(mesh), flash.compiling_for(platform):
      lowered = program.fn.trace(*program.args).lower(lowering_platforms=None)
    return lowered.compile(), ""
  except jax.errors.JaxRuntimeError as error:
    if "memory" not in str(error):
      raise
    return None, str(error).splitlines()[0]


def _bytes_per_chip(tree: Any) -> int:
  # A random key has no sharding, and its few bytes don't count.
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
    if x.sharding is not None
  )


def _bytes_needed(problem: str) -> int:
  """Bytes that the compiler says a program needs; 0 where it does not say."""
  found = re.search(r"\(([\d.]+)([KMG])\)|Used ([\d.]+)([KMG])", problem)
  if not found:
    return 0
  number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
  return int(float(number) * 1024 ** ("KMG".index(unit) + 1))
