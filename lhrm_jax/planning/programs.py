"""The programs of a run, with shapes and shardings in place of arrays, for a topology of chips.

The functions are those that a run compiles; only their arguments are abstract shapes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.errors import UserError
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.planning.chips import Topology
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import Prompts, Rollouts, SamplerSpec, sample, sampler
from lhrm_jax.sampling.decoding import blocks
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hft import make_hft_step
from lhrm_jax.training.hgpo import HGPOBatch, make_hgpo_step
from lhrm_jax.training.rollout_logprobs import RolloutLogprobs, make_score

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
    trips: iterations of its loops that stop on data, see `costs.count`.
    kv_cache: bytes per chip of the keys and values of its responses.
  """

  name: str
  what: str
  mesh: Mesh
  fn: Callable
  args: tuple[Any, ...]
  trips: Sequence[int] = ()
  kv_cache: int = 0


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
    c, d = self._config.hft, self._config.data
    if c.packed_length:
      shapes = [(c.micro_batch_rows, c.packed_length)]
    else:
      widths = (d.max_response_tokens, d.max_no_think_tokens)
      rows = (c.think_per_step, c.no_think_per_step)
      shapes = [(n, d.max_prompt_tokens + w - 1) for n, w in zip(rows, widths, strict=True) if n]
    # Padded to whole parts, like `parallel.shard_rows`.
    parts = math.prod(self._mesh.shape[axis] for axis in parallel.LOGICAL_RULES["batch"])
    shapes = [(-(-n // parts) * parts, t) for n, t in shapes]
    batches = []
    for shape in shapes:
      ints, floats = (_rows(self._mesh, shape, dtype) for dtype in (jnp.int32, jnp.float32))
      batches.append(TokenBatch(ints, ints, ints, ints, floats))
    what = "one update on " + " and ".join(f"{n} x {t:,} tokens" for n, t in shapes)
    step = make_hft_step(self._policy, *_optimizer(), self._mesh)
    return Program("hft", what, self._mesh, step, (self._state(), tuple(batches)))

  def _prefill(self) -> Program:
    fn = jax.jit(lambda *args: sampler.prefill_over(self._policy, self._host_mesh, *args))
    prompts = self._host_prompts()
    n, t = prompts.tokens.shape
    what = f"{n} prompts of {t:,} tokens on one host"
    return Program("prefill", what, self._host_mesh, fn, (self._sampling_params(), prompts))

  def _rollout(self) -> Program:
    c, tokens = self._config.hgpo, self._config.data.max_response_tokens
    drawing = (c.temperature, c.top_p, c.top_k)
    spec = SamplerSpec(c.samples_per_mode, tokens, True, OPENING, _EOS, _PAD, *drawing)
    fn = jax.jit(functools.partial(sample, self._policy, spec, mesh=self._host_mesh))
    rows = self._prompts_per_host * 2 * c.samples_per_mode
    p = self._policy
    per_token = 2 * p.num_layers * p.num_kv_heads * p.head_dim * jnp.dtype(p.dtype).itemsize
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Program(
      "rollout", f"{rows} rows of one host, {tokens:,} tokens each, prefill included",
      self._host_mesh, fn, (self._sampling_params(), self._host_prompts(), key),
      trips=blocks(tokens - 1, stage=0),
      kv_cache=rows * (tokens - 1) * per_token // self._host_mesh.size,
    )  # fmt: skip

  def _score(self) -> Program:
    c = self._config.hgpo
    fn = make_score(self._policy, OPENING, c.temperature, c.length_buckets, self._mesh)
    rollouts = self._rollouts(c.prompts_per_step)
    what = f"log-probabilities of {math.prod(rollouts.lengths.shape):,} responses"
    return Program("score", what, self._mesh, fn, (self._state().params, rollouts))

  def _update(self) -> Program:
    c = self._config.hgpo
    rollouts = self._rollouts(c.prompts_per_step // c.updates_per_rollout)
    b, m, g, t = rollouts.responses.shape

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
      return _rows(self._mesh, shape, jnp.float32)

    scored = RolloutLogprobs(floats(b, m, g, t), floats(b, m, g, t), floats(b, 3))
    old = scored if c.updates > 1 else None
    batch = HGPOBatch(rollouts, Advantages(floats(b, m, g), floats(b, m, g)), scored, old)
    what = (
      f"one update on {b} prompts x {m * g} responses x {t:,} tokens in "
      f"{c.micro_batches} micro-batches"
    )
    step = make_hgpo_step(self._policy, c, OPENING, *_optimizer(), self._mesh)
    return Program("update", what, self._mesh, step, (self._state(), batch))

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

  def _host_prompts(self) -> Prompts:
    whole = parallel.replicated(self._host_mesh)  # they come as numpy arrays
    shapes = self._prompt_shapes(self._prompts_per_host)
    return Prompts(*(jax.ShapeDtypeStruct(s, jnp.int32, sharding=whole) for s in shapes))

  def _rollouts(self, b: int) -> Rollouts:
    shape = (b, 2, self._config.hgpo.samples_per_mode)
    full = (*shape, self._config.data.max_response_tokens)
    ints = _rows(self._mesh, shape, jnp.int32)
    version = jax.ShapeDtypeStruct((), jnp.int32, sharding=parallel.replicated(self._mesh))
    return Rollouts(
      prompts=Prompts(*(_rows(self._mesh, s, jnp.int32) for s in self._prompt_shapes(b))),
      responses=_rows(self._mesh, full, jnp.int32),
      lengths=ints,
      logprobs=_rows(self._mesh, full, jnp.float32),
      finish_reason=ints,
      policy_version=version,
    )


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
