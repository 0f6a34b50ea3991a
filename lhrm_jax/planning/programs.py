"""The programs of a run, with shapes and shardings in place of arrays, for a topology of chips.

The functions are those that a run compiles; only their arguments are abstract shapes.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.errors import UserError
from lhrm_jax.planning.chips import Topology
from lhrm_jax.policy import PolicyConfig, blockwise, flash
from lhrm_jax.policy.head import chunks
from lhrm_jax.sampling import Prompts, SamplerSpec, sample, sampler
from lhrm_jax.sampling.decoding import blocks
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hft import make_hft_step
from lhrm_jax.training.hgpo import HGPORows, PackedHGPO, make_hgpo_program
from lhrm_jax.training.packed import RowShape
from lhrm_jax.training.packed_rollouts import PackedRows, batch_size
from lhrm_jax.training.placement import Room, place
from lhrm_jax.training.rollout_logprobs import RolloutLogprobs, make_score_program, row_shape

PROGRAMS = ("hft", "prefill", "rollout", "score", "update")
# Ids of tags and of the end of sequence change nothing in a program's cost.
OPENING, _EOS, _PAD = (1, 2), (0,), 0
_TAGS = 4  # opening and closing, of both modes


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function and the shapes it is compiled for.

  Attributes:
    name: one of `PROGRAMS`.
    what: its shapes in words.
    mesh: devices it runs on.
    fn: the jitted function.
    args: its arguments as `jax.ShapeDtypeStruct`s with shardings; the first is a train state or
      parameters.
    trips: iterations of its loops that stop on data, by scope, see `costs.count`.
    kv_cache: bytes per chip of the keys and values of its responses.
    rows: packed rows computed at a time, over all chips.
  """

  name: str
  what: str
  mesh: Mesh
  fn: Callable
  args: tuple[Any, ...]
  trips: Mapping[str, int] = dataclasses.field(default_factory=dict)
  kv_cache: int = 0
  rows: int = 0


class Programs:
  """Builds the programs of one config for one topology."""

  def __init__(self, config: Any, policy_config: PolicyConfig, topology: Topology):
    """Args:
    config: has the sections `data`, `hft`, `hgpo`, `mesh` and `sampling_mesh` of a run.
    policy_config: sizes of the policy, `vocab_size` among them.
    topology: the chips.

    Raises:
      UserError: see `devices_for`.
      ValueError: the mesh does not fit the topology.
    """
    if policy_config.lora_rank:  # the tags' ids are unknown here, and change no cost
      policy_config = dataclasses.replace(policy_config, lora_tokens=tuple(range(_TAGS)))
    self._platform = "gpu" if topology.chip.axes == 1 else "tpu"
    if self._platform == "gpu" and policy_config.attention == "cudnn":
      # The CPU devices that stand in for GPUs have no such kernel.
      policy_config = dataclasses.replace(policy_config, attention="auto")
    self._config, self._policy = config, policy_config
    mesh, tensor = config.mesh, config.sampling_mesh.tensor
    self._mesh = parallel.make_mesh(mesh.data, mesh.fsdp, mesh.tensor, devices_for(topology))
    # Like `SamplingLayout`: the devices of one host.
    self._host_mesh = parallel.make_mesh(-1, 1, tensor, devices_for(topology.of_host))
    hosts = max(1, topology.chips // topology.chip.host)
    self._prompts_per_host = max(
      1, config.hgpo.prompts_per_step // hosts // config.hgpo.sampling_chunks
    )

  def make(self, name: str) -> Program:
    """Builds one of `PROGRAMS`.

    Raises:
      ValueError: its batch does not divide over the mesh.
    """
    return getattr(self, f"_{name}")()

  def _hft(self) -> Program:
    c = self._config.hft
    count = c.think_per_step + c.no_think_per_step
    shape = RowShape.of(c, self._longest(), count, self._mesh, self._platform)
    rows, length = shape.lanes, shape.length
    ints, floats = (_rows(self._mesh, (rows, length), d) for d in (jnp.int32, jnp.float32))
    batch = TokenBatch(ints, ints, ints, ints, floats)
    step = make_hft_step(self._policy, *_optimizer(), self._mesh, shape.at_a_time)
    return Program(
      "hft", f"one update on {rows} x {length:,} tokens", self._mesh, step,
      (self._state(), batch), self._trips(shape, rows, length, by_device=True), rows=rows,
    )  # fmt: skip

  def _prefill(self) -> Program:
    fn = jax.jit(lambda *args: sampler.prefill_over(self._policy, self._host_mesh, *args))
    # As `sample` does, prompts are repeated to fill the last device's share.
    parts = parallel.parts_of(self._host_mesh)
    prompts = self._host_prompts(-(-self._prompts_per_host // parts) * parts)
    n, t = prompts.tokens.shape
    what = f"{n} prompts of {t:,} tokens on one host"
    args = (self._sampling_params(), prompts)
    return Program("prefill", what, self._host_mesh, fn, args, self._pairs(t))

  def _rollout(self) -> Program:
    c, tokens = self._config.hgpo, self._config.data.max_response_tokens
    drawing = (c.temperature, c.top_p, c.top_k)
    spec = SamplerSpec(
      c.samples_per_mode, tokens, True, OPENING, _EOS, _PAD, *drawing, slots=c.decode_slots
    )
    fn = jax.jit(functools.partial(sample, self._policy, spec, mesh=self._host_mesh))
    n = self._prompts_per_host
    rows = n * 2 * c.samples_per_mode
    slots = min(rows, c.decode_slots * parallel.parts_of(self._host_mesh) or rows)
    *first, last = blocks(tokens - 1, stage=0)
    last += (-(-rows // slots) - 1) * (tokens - 1)  # all blocks are read from the second round on
    p = self._policy
    per_token = 2 * p.num_layers * p.num_kv_heads * p.head_dim * jnp.dtype(p.dtype).itemsize
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Program(
      "rollout", f"{rows} rows of one host, {tokens:,} tokens each, prefill included",
      self._host_mesh, fn, (self._sampling_params(), self._host_prompts(n), key),
      trips={f"stage_0_block_{i}": size for i, size in enumerate((*first, last))}
      | self._pairs(self._config.data.max_prompt_tokens),
      kv_cache=slots * (tokens - 1) * per_token // self._host_mesh.size,
    )  # fmt: skip

  def _score(self) -> Program:
    c = self._config.hgpo
    batch, shape, trips = self._packed(c.prompts_per_step, by_device=False)
    fn = make_score_program(self._policy, OPENING, c.temperature, self._mesh, shape.at_a_time)
    what = f"log-probabilities of {batch.counted.shape[0]:,} responses"
    args = (self._state().params, batch.rows.packed)
    return Program("score", what, self._mesh, fn, args, trips, rows=shape.lanes)

  def _update(self) -> Program:
    c, tokens = self._config.hgpo, self._config.data.max_response_tokens
    prompts = c.prompts_per_step // c.updates_per_rollout
    batch, shape, trips = self._packed(prompts, by_device=True)
    what = (
      f"one update on {prompts} prompts x {2 * c.samples_per_mode} responses x {tokens:,} tokens, "
      f"{shape.lanes} rows x {shape.length:,} at a time"
    )
    step = make_hgpo_program(self._policy, c, OPENING, *_optimizer(), self._mesh)
    args = (self._state(), batch)
    return Program("update", what, self._mesh, step, args, trips, rows=shape.lanes)

  def policy_shapes(self) -> policy.Params:
    """Shapes of the policy's parameters."""
    return jax.eval_shape(lambda: policy.init(self._policy, jax.random.key(0)))

  # ---- Shapes, with the shardings that a run gives them

  def _state(self) -> train_state.TrainState:
    return train_state.abstract(self._policy, _optimizer()[0], self._mesh)

  def _sampling_params(self) -> policy.Params:
    shapes = jax.eval_shape(
      lambda: policy.in_compute_dtype(self._policy, policy.init(self._policy, jax.random.key(0)))
    )
    axes = policy.logical_axes(self._policy)
    return parallel.with_shardings(shapes, parallel.param_shardings(self._host_mesh, axes))

  def _prompt_shapes(self, n: int) -> tuple[tuple[int, ...], ...]:
    return (n, self._config.data.max_prompt_tokens), (n,), (n,)

  def _host_prompts(self, count: int) -> Prompts:
    whole = parallel.replicated(self._host_mesh)  # they come as numpy arrays
    shapes = self._prompt_shapes(count)
    return Prompts(*(jax.ShapeDtypeStruct(s, jnp.int32, sharding=whole) for s in shapes))

  def _longest(self) -> int:
    d = self._config.data
    return d.max_prompt_tokens + max(d.max_response_tokens, d.max_no_think_tokens) - 1

  def _packed(
    self, prompts: int, *, by_device: bool
  ) -> tuple[PackedHGPO, RowShape, dict[str, int]]:
    """An update's input with all prompts and responses at full length, and its loops' trips."""
    c, d, mesh = self._config.hgpo, self._config.data, self._mesh
    p, t, each = d.max_prompt_tokens, d.max_response_tokens, 2 * c.samples_per_mode
    with flash.compiling_for(mesh.devices.flat[0].platform):
      shape, shared = row_shape(self._policy, c, mesh, p, t, prompts * each, self._platform)
    n, q = batch_size(prompts * each, p + t - 1, shape)
    placed = place(
      [p] * prompts, [i // each for i in range(prompts * each)], [t] * (prompts * each),
      Room(shape.length, q, shared),
    )  # fmt: skip
    most = max(sum(len(piece.responses) for piece in row) for row in placed)

    def ints(*shape: int) -> jax.ShapeDtypeStruct:
      return _rows(mesh, (n, *shape), jnp.int32)

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
      return _rows(mesh, (n, *shape), jnp.float32)

    slots, size = ints(shape.length), shape.length
    packed = PackedRows(
      slots, slots, slots, slots if shared else None, slots, slots, ints(), ints(q), ints()
    )
    scored = RolloutLogprobs(floats(size), floats(size), floats(q, 3))
    rows = HGPORows(
      packed, starts=ints(q), lengths=ints(q), owner=ints(q), mode=ints(q), tag=floats(q),
      body=floats(q), sampler_logprobs=floats(size), ref=scored,
      old=scored if c.updates > 1 else None, of_prompt=ints(q, each),
      first=_rows(mesh, (n, q), jnp.bool_), repeated=ints(),
    )  # fmt: skip
    lengths = jax.ShapeDtypeStruct((prompts * each,), jnp.int32, sharding=parallel.replicated(mesh))
    batch = PackedHGPO(rows, lengths, lengths, max_tokens=t, at_a_time=shape.at_a_time)
    return batch, shape, self._trips(shape, len(placed), most * t, by_device=by_device)

  def _trips(
    self, shape: RowShape, rows: int, targets: int, *, by_device: bool
  ) -> dict[str, int]:  # fmt: skip
    """Trips of the loops over `rows` packed rows, and of those within.

    Args:
      shape: of the rows.
      rows: number of them that are full.
      targets: of a full row.
      by_device: whether a device that holds all parameters computes by itself, as in an update.
    """
    alone = by_device and parallel.is_copied(self._mesh)
    size, _ = chunks(self._policy, shape.at_a_time if alone else shape.lanes, shape.length)
    trips = {"rows": -(-rows // shape.lanes), "head": -(-targets // size), "map_logits": 1}
    return trips | self._pairs(shape.length)

  def _pairs(self, tokens: int) -> dict[str, int]:
    """Trips of the loop of `blockwise` attention, if a row of `tokens` is a single sequence."""
    blocks = -(-tokens // (self._policy.attention_chunk or blockwise.BLOCK))
    return {"pairs": blocks * (blocks + 1) // 2}


def _optimizer() -> tuple[optax.GradientTransformation, optax.Schedule]:
  schedule = optax.constant_schedule(1e-6)
  return train_state.make_optimizer(schedule, weight_decay=0.01, clip_norm=1.0), schedule


def _rows(mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
  """An array of rows that are split over the mesh."""
  parallel.local_rows(mesh, shape[0])  # refuses what does not divide
  return jax.ShapeDtypeStruct(shape, dtype, sharding=parallel.batch_sharding(mesh))


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
