"""What a config will cost on a slice of chips: compiled for it ahead of time, on any machine.

  python -m experiments.plan --config experiments/configs/qwen2_5_math_7b_hgpo.py \\
      --topology v5p:4x4x4

Nothing is downloaded and no chip is needed: shapes come from the config, and the compiler of TPUs
from the package libtpu (`pip install '.[plan]'`). GPUs, as h100:8, are estimated from the program
that XLA partitions for as many CPU devices. See docs/scaling.md.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from experiments import hgpo
from lhrm_jax import parallel, policy
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.errors import UserError
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.planning import hlo
from lhrm_jax.planning.chips import GIB, Topology
from lhrm_jax.policy import PolicyConfig, flash
from lhrm_jax.runs import command_line, validation
from lhrm_jax.sampling import Prompts, Rollouts, SamplerSpec, sample, sampler
from lhrm_jax.sampling.decoding import blocks
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hft import make_hft_step
from lhrm_jax.training.hgpo import HGPOBatch, Scored, make_hgpo_step, make_score

PROGRAMS = ("hft", "prefill", "rollout", "score", "update")
# Ids of tags and of the end of sequence change nothing in a program's cost.
_OPENING, _EOS, _PAD = (1, 2), (0,), 0


@dataclasses.dataclass(frozen=True)
class Plan:
  """One program on one chip. Bytes and seconds; see docs/scaling.md for how they are estimated.

  Attributes:
    program: one of `PROGRAMS`.
    what: the shapes, in words.
    chips: that run it together.
    parameters: bytes of the program's parameters.
    optimizer: bytes of the optimiser's state.
    batch: bytes of its other arguments.
    kv_cache: bytes of keys and values it keeps, part of `temporaries`.
    temporaries: bytes of everything else it needs at its peak: activations, gradients, caches.
    peak: bytes at its peak; `None` where the compiler only says that it does not fit.
    hbm: bytes of memory of the chip.
    flops, moved: of matrix products; to and from memory.
    collectives: see `hlo.Collective`.
    compute_seconds, memory_seconds, collective_seconds: each at the datasheet's rate.
    problem: why it does not fit, in the compiler's words.
    compile_seconds: it took.
  """

  program: str
  what: str
  chips: int
  parameters: int
  optimizer: int
  batch: int
  kv_cache: int
  temporaries: int
  peak: int
  hbm: int
  flops: float
  moved: float
  collectives: tuple[hlo.Collective, ...]
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

  def advice(self, config: ConfigDict) -> list[str]:
    """What to change where it does not fit."""
    if self.fits:
      return []
    lines = []
    if self.parameters + self.optimizer > 0.6 * self.hbm:
      lines.append("the state alone nearly fills the chip: raise mesh.fsdp or take more chips.")
    if self.program in ("update", "score"):
      lines.append(f"raise hgpo.micro_batches (now {config.hgpo.micro_batches}).")
    if self.program == "hft":
      lines.append("lower hft.micro_batch_rows, or hft.think_per_step and hft.no_think_per_step.")
    if self.program in ("prefill", "rollout"):
      lines.append(
        f"raise sampling_mesh.tensor (now {config.sampling_mesh.tensor}): fewer copies of the "
        f"weights per host; or hgpo.sampling_chunks (now {config.hgpo.sampling_chunks})."
      )
    if config.policy.remat != "full" and self.program in ("hft", "update"):
      lines.append(f"set policy.remat=full (now {config.policy.remat}).")
    if not config.policy.attention_chunk:
      lines.append("set policy.attention_chunk, e.g. 512: scores grow with the square of T.")
    lines.append("raise mesh.tensor: it splits activations too.")
    return lines

  def to_json(self) -> dict[str, Any]:
    return {
      **dataclasses.asdict(self),
      "collectives": [{**dataclasses.asdict(c), "sent": c.sent} for c in self.collectives],
      "fits": self.fits,
      "seconds": self.seconds,
    }


class Planner:
  """Compiles the programs of one config for one topology."""

  def __init__(self, config: ConfigDict, topology: Topology):
    """Args:
    config: `policy.*` must give the sizes, `vocab_size` among them.
    topology: the chips.

    Raises:
      UserError: see `devices_for`.
    """
    self.config, self.topology = config, topology
    self.policy = PolicyConfig.from_dict(config.policy.to_dict())
    self.mesh = parallel.make_mesh(**config.mesh, devices=devices_for(topology))
    # Like `SamplingLayout`: the devices of one host.
    self.hosts = max(1, topology.chips // topology.chip.host)
    self.host_mesh = parallel.make_mesh(
      -1, 1, config.sampling_mesh.tensor, devices=devices_for(topology.of_host)
    )

  def plan(self, program: str) -> Plan:
    """Compiles one of `PROGRAMS`.

    Raises:
      ValueError: its batch does not divide over the mesh.
    """
    return getattr(self, f"_{program}")()

  # ---- The programs

  def _hft(self) -> Plan:
    c = self.config.hft
    step = make_hft_step(self.policy, *self._optimizer(), self.mesh)
    if c.packed_length:
      shapes = [(c.micro_batch_rows, c.packed_length)]
    else:
      d = self.config.data
      widths = (d.max_response_tokens, d.max_no_think_tokens)
      rows = (c.think_per_step, c.no_think_per_step)
      shapes = [(n, d.max_prompt_tokens + w - 1) for n, w in zip(rows, widths, strict=True) if n]
    batches = []
    parts = math.prod(self.mesh.shape[axis] for axis in parallel.LOGICAL_RULES["batch"])
    # As `parallel.shard_rows` fills up what does not divide.
    shapes = [(-(-n // parts) * parts, t) for n, t in shapes]
    for n, t in shapes:
      ints, floats = (self._over(self.mesh, (n, t), d) for d in (jnp.int32, jnp.float32))
      batches.append(TokenBatch(ints, ints, ints, ints, floats))
    what = "one update on " + " and ".join(f"{n} x {t:,} tokens" for n, t in shapes)
    return self._compile("hft", what, self.mesh, step, self._state(), tuple(batches))

  def _prefill(self) -> Plan:
    fn = jax.jit(lambda *args: sampler.prefill_over(self.policy, self.host_mesh, *args))
    prompts = self._prompts(self.host_mesh, self._prompts_per_host)
    what = f"{self._prompts_per_host} prompts of {prompts.tokens.shape[1]:,} tokens on one host"
    return self._compile("prefill", what, self.host_mesh, fn, self._sampling_params(), prompts)

  def _rollout(self) -> Plan:
    c, tokens = self.config.hgpo, self.config.data.max_response_tokens
    spec = SamplerSpec(c.samples_per_mode, tokens, True, _OPENING, _EOS, _PAD)
    fn = jax.jit(
      lambda params, prompts, key: sample(
        self.policy, spec, params, prompts, key,
        temperature=c.temperature, top_p=c.top_p, top_k=c.top_k, mesh=self.host_mesh,
      )
    )  # fmt: skip
    prompts = self._prompts(self.host_mesh, self._prompts_per_host)
    key = jax.eval_shape(lambda: jax.random.key(0))
    rows = self._prompts_per_host * 2 * c.samples_per_mode
    what = f"{rows} rows of one host, {tokens:,} tokens each, prefill included"
    per_token = 2 * self.policy.num_layers * self.policy.num_kv_heads * self.policy.head_dim
    size = jnp.dtype(self.policy.dtype).itemsize
    cache = rows * (tokens - 1) * per_token * size // self.host_mesh.size
    args = (self._sampling_params(), prompts, key)
    return self._compile(
      "rollout", what, self.host_mesh, fn, *args, trips=blocks(tokens - 1, stage=0),
      kv_cache=cache,
    )  # fmt: skip

  def _score(self) -> Plan:
    c = self.config.hgpo
    fn = make_score(self.policy, _OPENING, c.temperature, c.length_buckets, self.mesh)
    rollouts = self._rollouts(c.prompts_per_step)
    what = f"log-probabilities of {math.prod(rollouts.lengths.shape):,} responses"
    return self._compile("score", what, self.mesh, fn, self._state().params, rollouts)

  def _update(self) -> Plan:
    c = self.config.hgpo
    spec = hgpo.hgpo_spec(c, _OPENING)
    step = make_hgpo_step(self.policy, spec, *self._optimizer(), self.mesh)
    rollouts = self._rollouts(c.prompts_per_step // c.updates_per_rollout)
    b, m, g, t = rollouts.responses.shape

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
      return self._over(self.mesh, shape, jnp.float32)

    scored = Scored(floats(b, m, g, t), floats(b, m, g, t), floats(b, 3))
    several = c.updates_per_rollout * c.epochs > 1
    batch = HGPOBatch(
      rollouts,
      Advantages(floats(b, m, g), floats(b, m, g)),
      scored,
      scored if several else None,
    )
    what = (
      f"one update on {b} prompts x {m * g} responses x {t:,} tokens in "
      f"{c.micro_batches} micro-batches"
    )
    return self._compile("update", what, self.mesh, step, self._state(), batch)

  # ---- Shapes, with the shardings that a run gives them

  @property
  def _prompts_per_host(self) -> int:
    c = self.config.hgpo
    return max(1, c.prompts_per_step // self.hosts // c.sampling_chunks)

  def _optimizer(self) -> tuple[optax.GradientTransformation, optax.Schedule]:
    schedule = optax.constant_schedule(1e-6)
    return train_state.make_optimizer(schedule, weight_decay=0.01, clip_norm=1.0), schedule

  def _state(self) -> train_state.TrainState:
    optimizer, _ = self._optimizer()
    shapes = jax.eval_shape(
      lambda key: train_state.from_params(policy.init(self.policy, key), optimizer),
      jax.random.key(0),
    )
    return _with_shardings(shapes, train_state.shardings(self.policy, optimizer, self.mesh))

  def _sampling_params(self) -> policy.Params:
    shapes = jax.eval_shape(
      lambda: policy.in_compute_dtype(self.policy, policy.init(self.policy, jax.random.key(0)))
    )
    axes = policy.logical_axes(self.policy)
    return _with_shardings(shapes, parallel.param_shardings(self.host_mesh, axes))

  def _over(self, mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    parallel.local_rows(mesh, shape[0])  # refuses what does not divide
    return jax.ShapeDtypeStruct(shape, dtype, sharding=parallel.batch_sharding(mesh))

  def _prompts(self, mesh: Mesh, prompts: int) -> Prompts:
    shapes = ((prompts, self.config.data.max_prompt_tokens), (prompts,), (prompts,))
    if mesh is self.host_mesh:  # as numpy arrays come: whole
      whole = parallel.replicated(mesh)
      return Prompts(*(jax.ShapeDtypeStruct(s, jnp.int32, sharding=whole) for s in shapes))
    return Prompts(*(self._over(mesh, shape, jnp.int32) for shape in shapes))

  def _rollouts(self, b: int) -> Rollouts:
    m, g = 2, self.config.hgpo.samples_per_mode
    t = self.config.data.max_response_tokens
    ints = self._over(self.mesh, (b, m, g), jnp.int32)
    return Rollouts(
      prompts=self._prompts(self.mesh, b),
      responses=self._over(self.mesh, (b, m, g, t), jnp.int32),
      lengths=ints,
      logprobs=self._over(self.mesh, (b, m, g, t), jnp.float32),
      finish_reason=ints,
      policy_version=jax.ShapeDtypeStruct((), jnp.int32, sharding=parallel.replicated(self.mesh)),
    )

  # ---- Compiling and reading

  def _compile(
    self, program: str, what: str, mesh: Mesh, fn: Callable, *args: Any,
    trips: Sequence[int] = (), kv_cache: int = 0,
  ) -> Plan:  # fmt: skip
    began = time.perf_counter()
    platform = "tpu" if self.topology.chip.axes > 1 else "cpu"
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), flash.compiling_for(platform):
      lowered = fn.trace(*args).lower(lowering_platforms=None)
    problem, text, memory = "", "", None
    try:
      compiled = lowered.compile()
      text, memory = compiled.as_text(), compiled.memory_analysis()
    except jax.errors.JaxRuntimeError as error:
      if "memory" not in str(error):
        raise
      problem = str(error).splitlines()[0]
    seconds = time.perf_counter() - began
    costs = hlo.Program(text).costs(trips) if text else hlo.Costs(0.0, 0.0, ())
    state = args[0]
    is_state = isinstance(state, train_state.TrainState)
    parameters = _bytes_per_chip(state.params if is_state else state)
    chip = self.topology.chip
    temporaries = memory.temp_size_in_bytes if memory else _needed(problem)
    peak = temporaries + _bytes_per_chip(args)
    if memory:
      outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
      peak += max(0, outputs) + memory.generated_code_size_in_bytes
    return Plan(
      program=program, what=what, chips=mesh.size,
      parameters=parameters,
      optimizer=_bytes_per_chip(state.opt_state) if is_state else 0,
      batch=_bytes_per_chip(args[1:]),
      kv_cache=kv_cache,
      temporaries=temporaries,
      peak=peak,
      hbm=chip.hbm,
      flops=costs.flops, moved=costs.bytes, collectives=costs.collectives,
      compute_seconds=costs.flops / chip.flops,
      memory_seconds=costs.bytes / chip.bandwidth,
      collective_seconds=sum(
        self.topology.seconds_to_send(c.sent, c.chips) for c in costs.collectives
      ),
      problem=problem,
      compile_seconds=seconds,
    )  # fmt: skip


def _with_shardings(shapes: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
  )


def _bytes_per_chip(tree: Any) -> int:
  def of(x: jax.ShapeDtypeStruct) -> int:
    if x.sharding is None:  # a random key
      return 0
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize

  return sum(of(x) for x in jax.tree.leaves(tree))


def _needed(problem: str) -> int:
  """Bytes that the compiler says a program needed."""
  found = re.search(r"\(([\d.]+)([KMG])\)|Used ([\d.]+)([KMG])", problem)
  if not found:
    return 0
  number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
  return int(float(number) * 1024 ** ("KMG".index(unit) + 1))


def devices_for(topology: Topology) -> list[jax.Device]:
  """Stand-ins to compile for: the TPU compiler's, or virtual CPU devices for GPUs.

  Raises:
    UserError: libtpu is missing, or knows no such topology.
  """
  if topology.chip.axes == 1:
    devices = jax.devices("cpu")
    if len(devices) < topology.chips:
      raise UserError(
        f"{topology.chips} GPUs are planned on as many CPU devices: "
        f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.chips} python -m ..."
      )
    return devices[: topology.chips]
  from jax.experimental import topologies

  name = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
  try:
    return list(topologies.get_topology_desc(name, "tpu").devices)
  except Exception as error:
    raise UserError(
      f"--topology={name}: {str(error).splitlines()[0]}. The TPU compiler comes with libtpu: "
      "pip install '.[plan]'."
    ) from error


def show(plan: Plan, config: ConfigDict, topology: Topology) -> None:
  """Prints a plan for people."""
  console = Console(highlight=False, width=132)
  verdict = "fits" if plan.fits else "[bold]does not fit[/bold]"
  console.print(
    f"\n[bold]{plan.program}[/bold]: {plan.what}; {plan.chips} chips, compiled in "
    f"{plan.compile_seconds:.0f} s"
  )
  console.print(
    f"  memory per chip: {plan.peak / GIB:.2f} of {plan.hbm / GIB:.0f} GiB, {verdict}; parameters "
    f"{plan.parameters / GIB:.2f}, optimiser {plan.optimizer / GIB:.2f}, batch "
    f"{plan.batch / GIB:.3f}, temporaries {plan.temporaries / GIB:.2f}"
    + (f" (KV cache {plan.kv_cache / GIB:.2f})" if plan.kv_cache else "")
  )
  for line in plan.advice(config):
    console.print(f"    to change: {line}")
  if plan.problem:
    console.print(f"    the compiler: {plan.problem}")
    return
  low, high = plan.seconds
  console.print(
    f"  work per chip: {plan.flops / 1e12:,.1f} TFLOP, {plan.moved / 1e9:,.1f} GB to and from "
    f"memory, {sum(c.sent for c in plan.collectives) / 1e9:,.2f} GB sent to other chips"
  )
  console.print(
    f"  at the datasheet's rates: compute {plan.compute_seconds:.3g} s, memory "
    f"{plan.memory_seconds:.3g} s, collectives {plan.collective_seconds:.3g} s: "
    f"[bold]{low:.3g} s[/bold] if they overlap, {high:.3g} s if not"
  )
  table = Table(box=None, pad_edge=False, padding=(0, 2))
  for name in ("collective", "of", "MB each", "chips", "times", "GB sent", "seconds"):
    table.add_column(name, justify="left" if name in ("collective", "of") else "right")
  for c in plan.collectives[:8]:
    seconds = topology.seconds_to_send(c.sent, c.chips)
    table.add_row(
      f"  {c.kind}", c.shape, f"{c.bytes / 1e6:.2f}", str(c.chips), str(c.count),
      f"{c.sent / 1e9:.3f}", f"{seconds:.2g}",
    )  # fmt: skip
  console.print(table)


def main(_) -> None:
  try:
    topology = Topology.parse(_TOPOLOGY.value)
  except ValueError as error:
    raise UserError(str(error)) from error
  config = _CONFIG.value
  validation.check(config)
  if not config.policy.vocab_size:
    raise UserError(
      "policy.vocab_size=0: a plan takes all shapes from the config, so it must say the vocabulary "
      "(a tokenizer's, rounded up to a multiple of 128): --config.policy.vocab_size=N."
    )
  plans = []
  try:
    planner = Planner(config, topology)
    for program in _PROGRAMS.value:
      plans.append(planner.plan(program))
      show(plans[-1], config, topology)
  except ValueError as error:
    raise UserError(str(error)) from error
  if _JSON.value:
    path = pathlib.Path(_JSON.value)
    about = {"topology": _TOPOLOGY.value, "config": json.loads(config.to_json())}
    content = {**about, "plans": [plan.to_json() for plan in plans]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
  if not all(plan.fits for plan in plans):
    sys.exit(1)


if __name__ == "__main__":
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # this is no TPU VM: ask no metadata server
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is locked: plan side by side
  jax.config.update("jax_platforms", "cpu")
  _CONFIG = command_line.define_config()
  _TOPOLOGY = flags.DEFINE_string("topology", None, "E.g. v5p:4x4x4 or h100:8.")
  command_line.require("topology", "v5p:4x4x4")
  _PROGRAMS = flags.DEFINE_multi_enum("program", list(PROGRAMS), PROGRAMS, "Which to plan.")
  _JSON = flags.DEFINE_string("json", None, "File to write all figures to.")
  command_line.run(main)
