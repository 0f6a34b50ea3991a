"""Measures one GPU in a few minutes: HFT, prefill, decoding, a whole HGPO step, and exactness.

    python -m benchmarks.gpu --out gpu.json

Random weights of Qwen2.5's shapes: speed does not depend on what they are. HFT, prefill and
decoding run at 1.5B, the HGPO step at 0.5B; each part is written to the file when it is done, and
one that fails (say, for lack of memory) is recorded, the rest run. `--tiny` tries it all out
on any machine.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measuring, rollout, step, update
from lhrm_jax import parallel, policy
from lhrm_jax.data import packing
from lhrm_jax.data.batches import Encoded, TokenBatch
from lhrm_jax.objectives import hgpo
from lhrm_jax.planning.ceilings import ceilings
from lhrm_jax.planning.flops import forward_flops
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.policy.config import ATTENTIONS
from lhrm_jax.runs.instruments import peak_memory
from lhrm_jax.sampling import sample
from lhrm_jax.training import hft
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hgpo import HGPOBatch, HGPOConfig, hgpo_gradients
from lhrm_jax.training.rollout_logprobs import make_score
from lhrm_jax.training.update import gradients


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What is measured.

  Attributes:
    large: the policy of HFT, prefill and decoding.
    small: that of the HGPO step.
    packed: tokens of a row in HFT.
    rows: of them in an update.
    decode_prompts: prompts of each decoding batch; 8 responses to each.
    decode_prompt_tokens: length of those prompts.
    decode_tokens: response tokens.
    hgpo_prompts: of a step; 8 responses to each.
    hgpo_prompt_tokens: length of those prompts.
    hgpo_tokens: longest response of a step.
    check_tokens: response tokens of the comparison with float32.
  """

  large: PolicyConfig
  small: PolicyConfig
  packed: int = 4096
  rows: int = 4
  decode_prompts: tuple[int, ...] = (8, 32)
  decode_prompt_tokens: int = 512
  decode_tokens: int = 1024
  hgpo_prompts: int = 64
  hgpo_prompt_tokens: int = 256
  hgpo_tokens: int = 512
  check_tokens: int = 32


FULL = Sizes(measuring.SHAPES["qwen2.5-1.5b"], measuring.SHAPES["qwen2.5-0.5b"])
_TINY_POLICY = dataclasses.replace(
  measuring.SHAPES["tiny"], hidden_size=64, intermediate_size=128, num_layers=2, dtype="bfloat16",
  scan_layers=True, remat="full",
)  # fmt: skip
TINY = Sizes(
  _TINY_POLICY, _TINY_POLICY, packed=64, rows=2, decode_prompts=(1, 2), decode_prompt_tokens=16,
  decode_tokens=16, hgpo_prompts=2, hgpo_prompt_tokens=8, hgpo_tokens=16, check_tokens=8,
)  # fmt: skip

_SAMPLES = 4  # per mode

# How far bfloat16, with its 8 bits of mantissa, may be from float32.
BOUNDS = {
  "decode_logprobs_mean_difference": 0.05,
  "score_logprobs_mean_difference": 0.05,
  "hft_loss_relative_difference": 0.01,
  "hft_gradient_one_minus_cosine": 0.02,
  "hgpo_gradient_one_minus_cosine": 0.05,
}


def packed_demonstrations(
  config: PolicyConfig, rows: int, length: int, seed: int = 0
) -> TokenBatch:
  """`[rows, length]` of random demonstrations, packed; a quarter of each is its prompt."""
  random = np.random.default_rng(seed)
  sequences: list[Encoded] = []
  room = 2 * rows * length  # so that first fit has enough to fill the first rows with
  while room > 0:
    tokens = int(random.integers(length // 16, length // 2))
    ids = random.integers(8, config.vocab_size, tokens + 1).tolist()
    weights = [0.0] * (tokens // 4) + [1.0] * (tokens + 1 - tokens // 4)
    sequences.append(Encoded(tuple(ids), tuple(weights)))
    room -= tokens
  packed = packing.pack(sequences, length)
  return jax.tree.map(lambda x: x[:rows], packed)


def packed_flops(config: PolicyConfig, batch: TokenBatch) -> float:
  """Operations of one forward pass; a token sees those of its segment up to itself."""
  tokens = batch.segment_ids > 0
  attended = float(np.sum((batch.positions + 1) * tokens))
  return forward_flops(config, tokens.sum(), attended, (batch.weights > 0).sum())


def measure_hft(config: PolicyConfig, sizes: Sizes, remat: str, repeats: int) -> dict[str, Any]:
  """HFT updates on packed rows."""
  config = dataclasses.replace(config, remat=remat)
  batch = packed_demonstrations(config, sizes.rows, sizes.packed)
  schedule = optax.constant_schedule(1e-5)
  optimizer = train_state.make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
  mesh = parallel.make_mesh()
  state = train_state.create(config, optimizer, mesh, jax.random.key(0))
  began = time.perf_counter()
  on_device = jax.device_put(batch)
  step = hft.make_hft_step(config, optimizer, schedule, mesh)
  compiled = step.lower(state, on_device).compile()
  compile_seconds = time.perf_counter() - began

  def learn():
    nonlocal state
    state, metrics = compiled(state, {}, on_device)  # no frozen parameters
    return metrics

  ceiling = ceilings(config.dtype)
  taken = measuring.seconds(learn, repeats)
  figure = measuring.figure(
    taken, 3 * packed_flops(config, batch), update.update_bytes(config), ceiling
  )
  return figure | {
    "tokens_per_second": float((batch.segment_ids > 0).sum()) / figure["seconds"],
    "mfu": figure["flops"] / figure["seconds"] / ceiling.flops,
    "padding_share": float(np.mean(batch.segment_ids == 0)),
    "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    "compile_seconds": compile_seconds,
    "loss": float(learn()["loss"]),
  }


def measure_decode(
  config: PolicyConfig, sizes: Sizes, prompts: int, repeats: int
) -> dict[str, Any]:
  """Prefill and decoding with all rows at full length: the weights and caches read each step."""
  batch = measuring.random_prompts(config.vocab_size, prompts, sizes.decode_prompt_tokens)
  lengths = measuring.full_lengths(prompts, _SAMPLES, sizes.decode_tokens)
  params = measuring.sampling_params(config)
  return rollout.measure(config, params, batch, lengths, sizes.decode_tokens, repeats)


def measure_hgpo(config: PolicyConfig, sizes: Sizes, repeats: int) -> dict[str, Any]:
  """Whole HGPO steps, of both mixes."""
  prompts = measuring.random_prompts(
    config.vocab_size, sizes.hgpo_prompts, sizes.hgpo_prompt_tokens
  )
  take_step = step.make_step(config, _SAMPLES, sizes.hgpo_tokens)
  shape = sizes.hgpo_prompts, _SAMPLES, sizes.hgpo_tokens
  return {
    name: step.measure(config, take_step, prompts, make(*shape), repeats)
    for name, make in (("hybrid", measuring.hybrid_lengths), ("full", measuring.full_lengths))
  }


def check(config: PolicyConfig, sizes: Sizes) -> dict[str, Any]:
  """Decoding, scoring and gradients in the compute dtype against the same in float32.

  Returns:
    Each difference with its bound, and `ok`, whether all are within theirs.
  """
  exact = dataclasses.replace(config, dtype="float32")
  params = jax.jit(policy.init, static_argnums=0)(config, jax.random.key(0))
  tokens = sizes.check_tokens
  prompts = measuring.random_prompts(config.vocab_size, 4, 2 * tokens)
  lengths = measuring.hybrid_lengths(4, 2, tokens, ragged=0.25)
  rollouts = sample(
    config, rollout.spec(2, tokens), jax.jit(policy.for_sampling, static_argnums=0)(
      config, params
    ), prompts, jax.random.key(1), limits=lengths,
  )  # fmt: skip
  score = make_score(config, update.OPENING, 1.0)(params, rollouts)
  batch = packed_demonstrations(config, 1, sizes.packed)
  scores = jax.random.bernoulli(jax.random.key(2), 0.5, rollouts.lengths.shape)
  advantages = hgpo.advantages(scores.astype(jnp.float32), alpha=1.0, delta=0.2)

  @functools.partial(jax.jit, static_argnums=0)
  def hft_gradient(config, params):
    loss, grads, _ = gradients(functools.partial(hft.hft_loss, config), params, batch)
    return loss.mean(), grads

  def hgpo_gradient(config, params, ref):
    given = HGPOBatch(rollouts, advantages, ref)
    return hgpo_gradients(config, HGPOConfig(), update.OPENING, params, given)[1]

  loss, hft_grads = hft_gradient(config, params)
  with jax.default_matmul_precision("highest"):  # float32 would be TF32 on NVIDIA
    exact_score = make_score(exact, update.OPENING, 1.0)(params, rollouts)
    exact_loss, exact_hft_grads = hft_gradient(exact, params)
  hft_distance = _one_minus_cosine(hft_grads, exact_hft_grads)
  del hft_grads, exact_hft_grads
  hgpo_grads = hgpo_gradient(config, params, exact_score)
  with jax.default_matmul_precision("highest"):
    exact_hgpo_grads = hgpo_gradient(exact, params, exact_score)

  mask = rollouts.mask
  measured = {
    "decode_logprobs_mean_difference": _mean_difference(
      rollouts.logprobs, exact_score.logprobs, mask
    ),
    "score_logprobs_mean_difference": _mean_difference(score.logprobs, exact_score.logprobs, mask),
    "hft_loss_relative_difference": abs(float(loss / exact_loss) - 1),
    "hft_gradient_one_minus_cosine": hft_distance,
    "hgpo_gradient_one_minus_cosine": _one_minus_cosine(hgpo_grads, exact_hgpo_grads),
  }
  checked = {
    name: {"value": value, "bound": BOUNDS[name], "ok": bool(value <= BOUNDS[name])}
    for name, value in measured.items()
  }
  return checked | {"ok": all(entry["ok"] for entry in checked.values())}


def _mean_difference(a: jax.Array, b: jax.Array, mask: jax.Array) -> float:
  return float(jnp.sum(jnp.abs(a - b) * mask) / jnp.sum(mask))


@jax.jit
def _cosine(a: Any, b: Any) -> jax.Array:
  def dot(x: Any, y: Any) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(lambda p, q: jnp.sum(p * q), x, y)))

  return dot(a, b) / jnp.sqrt(dot(a, a) * dot(b, b))


def _one_minus_cosine(a: Any, b: Any) -> float:
  return 1.0 - float(_cosine(a, b))


def parts_of(sizes: Sizes, repeats: int) -> dict[str, Callable[[], dict[str, Any]]]:
  """All parts by name, the ones most wanted first."""
  large, small = sizes.large, sizes.small
  parts: dict[str, Callable[[], dict[str, Any]]] = {}
  for prompts in sizes.decode_prompts:
    name = f"decode_batch_{2 * _SAMPLES * prompts}"
    parts[name] = functools.partial(measure_decode, large, sizes, prompts, repeats)
  parts["hft_remat_dots"] = functools.partial(measure_hft, large, sizes, "dots", repeats)
  parts["hgpo_step"] = functools.partial(measure_hgpo, small, sizes, repeats)
  parts["check"] = functools.partial(check, small, sizes)
  parts["hft_remat_full"] = functools.partial(measure_hft, large, sizes, "full", repeats)
  return parts


@contextlib.contextmanager
def _recorded(report: dict[str, Any], name: str) -> Iterator[None]:
  """Writes down how long a part took as a whole, and why it failed if it did."""
  began = time.perf_counter()
  try:
    yield
  except Exception as error:  # the other parts are worth having
    report[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
  report[name]["part_seconds"] = time.perf_counter() - began
  if (peak := peak_memory()) is not None:
    report[name]["peak_memory_so_far"] = peak


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--tiny", action="store_true", help="toy shapes, to try it out anywhere")
  parser.add_argument("--parts", nargs="+", choices=parts_of(FULL, 1) | parts_of(TINY, 1),
                      help="some of the parts; all by default")  # fmt: skip
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--attention", choices=ATTENTIONS, default="auto", help="of the policies")
  parser.add_argument("--out", type=pathlib.Path, help="where the figures go, as JSON")
  args = parser.parse_args(argv)

  # By default JAX takes three quarters of the memory; HFT at 1.5B may want more.
  os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.92")
  sizes = TINY if args.tiny else FULL
  large, small = (
    dataclasses.replace(config, attention=args.attention) for config in (sizes.large, sizes.small)
  )
  sizes = dataclasses.replace(sizes, large=large, small=small)
  began = time.perf_counter()
  report = {
    "machine": measuring.machine(sizes.large.dtype),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
    "arguments": vars(args) | {"out": None},
    "sizes": dataclasses.asdict(sizes),
  }
  parts = parts_of(sizes, args.repeats)
  chosen = args.parts or list(parts)
  for name in chosen:
    with _recorded(report, name):
      report[name] = parts[name]()
    report["seconds"] = time.perf_counter() - began
    measuring.write({name: report[name]}, None)
    if args.out:
      measuring.save(report, args.out)
  failed = [name for name in chosen if "error" in report[name] or not report[name].get("ok", True)]
  if failed:
    raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
  main()
