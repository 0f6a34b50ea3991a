"""Trains a small policy on meshes given as `data,fsdp,tensor`, and holds each against one device.

  JAX_NUM_CPU_DEVICES=8 \\
      python -m tests.parallel.train_on_meshes --hft 10 --hgpo 5 8,1,1 2,2,2

Run by the tests in a process of its own, since devices cannot be added to one that runs.
"""

import argparse
import itertools
import math
import pathlib
import tempfile

import jax
import numpy as np
import optax

from lhrm_jax import parallel, policy
from lhrm_jax.data.arithmetic import Arithmetic
from lhrm_jax.data.batches import encode, encode_prompts
from lhrm_jax.data.packing import pack
from lhrm_jax.data.pairs import pack_pairs
from lhrm_jax.objectives import hgpo
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs import checkpoints, saved_arrays
from lhrm_jax.sampling import Prompts, SamplerSpec, sample
from lhrm_jax.training import hft
from lhrm_jax.training import hgpo as hgpo_training
from lhrm_jax.training import state as train_state
from lhrm_jax.training.dpo import DPOConfig, make_dpo_step
from lhrm_jax.training.rollout_logprobs import make_score

PROMPTS = 8
TASK = Arithmetic()
TOKENIZER = TASK.tokenizer()
CONFIG = PolicyConfig(
  vocab_size=32, hidden_size=64, intermediate_size=64, num_layers=2, num_heads=8, num_kv_heads=8,
  qkv_bias=True, max_positions=64, remat="dots", logprob_chunk=64,
)  # fmt: skip
SCHEDULE = optax.constant_schedule(1e-3)
OPTIMIZER = train_state.make_optimizer(SCHEDULE, weight_decay=0.1, clip_norm=1.0)


def all_meshes(most: int = 8) -> list[tuple[int, int, int]]:
  """Every mesh of 1, 2, 4, ... up to `most` devices."""
  sizes = [2**i for i in range(most.bit_length())]
  return [m for m in itertools.product(sizes, repeat=3) if math.prod(m) <= most]


def train(sizes: tuple[int, int, int], hft_steps: int, hgpo_steps: int):
  """Losses of all steps, the tokens sampled, and the last state, of both stages on one mesh."""
  devices = jax.devices()[: math.prod(sizes)]
  mesh = parallel.make_mesh(*sizes, devices=devices)
  # Sampling on another layout than the update, where there are devices for it.
  layout = parallel.SamplingLayout.make(min(2, len(devices)), devices)
  axes = policy.logical_axes(CONFIG)
  state = train_state.create(CONFIG, OPTIMIZER, mesh, jax.random.key(0))
  losses, sampled = [], []

  lanes = parallel.parts_of(mesh)
  step = hft.make_hft_step(CONFIG, OPTIMIZER, SCHEDULE, mesh, 1)
  for i in range(hft_steps):
    sequences = [encode(TOKENIZER, row) for row in TASK.demonstrations(0, i, 6, 0)[0]]
    batch = pack(sequences, 50, lanes=lanes, least=9)  # some lanes, or blocks of all, are empty
    state, metrics = step(state, parallel.shard_rows(mesh, batch))
    losses.append(float(metrics["loss"]))

  opening = TOKENIZER.tag_ids.opening
  spec = SamplerSpec.of(TOKENIZER, samples=2, max_tokens=12, paired=True)
  c = hgpo_training.HGPOConfig(
    clip_low=0.2,
    clip_high=0.2,
    beta=0.05,
    aggregation="token_mean",
    packed_length=40,
    micro_batch_rows=1,
  )
  update = hgpo_training.make_hgpo_step(CONFIG, c, opening, OPTIMIZER, SCHEDULE, mesh)
  score = make_score(CONFIG, opening, 1.0, c)
  reference = jax.tree.map(lambda x: x.copy(), state.params)
  for i in range(hgpo_steps):
    prompts = Prompts(*encode_prompts(TOKENIZER, TASK.prompts(0, i, PROMPTS), i * PROMPTS, 22))
    weights = layout.place(policy.in_compute_dtype(CONFIG, state.params), axes)
    rollouts = jax.device_get(sample(CONFIG, spec, weights, prompts, jax.random.key(i)))
    sampled.append(rollouts.responses)
    scores = (rollouts.responses[..., 1] % 3 == 0).astype(np.float32)
    advantages = jax.device_get(hgpo.advantages(scores, alpha=1.0, delta=0.2))
    batch = hgpo_training.HGPOBatch(rollouts, advantages, score(reference, rollouts))
    state, metrics = update(state, batch)
    losses.append(float(metrics["loss"]))

  # Five pairs, in three rows.
  of_modes = zip(*TASK.demonstrations(0, 0, 5, 5), strict=True)
  pairs = [[encode(TOKENIZER, row) for row in rows] for rows in of_modes]
  batch, _ = pack_pairs(pairs, None, 160, 4, lanes=lanes)
  step = make_dpo_step(CONFIG, DPOConfig(), OPTIMIZER, SCHEDULE, mesh, 1)
  state, metrics = step(state, parallel.shard_rows(mesh, batch))
  losses += [float(metrics["logps/chosen"]) / 100, float(metrics["grad_norm"]) / 100]
  return np.array(losses), sampled, state


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--hft", type=int, default=10)
  parser.add_argument("--hgpo", type=int, default=5)
  parser.add_argument("meshes", nargs="*")
  args = parser.parse_args()
  meshes = [tuple(map(int, m.split(","))) for m in args.meshes] or all_meshes()
  losses, sampled, one = train((1, 1, 1), args.hft, args.hgpo)
  expected = jax.device_get(one.params)
  for i, sizes in enumerate(meshes):
    got_losses, got_sampled, state = train(sizes, args.hft, args.hgpo)
    np.testing.assert_allclose(got_losses, losses, rtol=1e-5, atol=1e-6, err_msg=str(sizes))
    for a, b in zip(got_sampled, sampled, strict=True):
      np.testing.assert_array_equal(a, b, err_msg=f"sampled on {sizes}")
    got = jax.device_get(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), got, expected)
    kernel = state.params["layers"]["mlp"]["gate"]["kernel"]
    assert kernel.addressable_shards[0].data.size * sizes[1] * sizes[2] == kernel.size
    restored_elsewhere(state, meshes[(i + 1) % len(meshes)])
    print(sizes, f"largest difference of a loss {abs(got_losses - losses).max():.1e}", flush=True)


def restored_elsewhere(state: train_state.TrainState, sizes: tuple[int, int, int]) -> None:
  """Saves, restores onto another mesh, and compares bit by bit."""
  mesh = parallel.make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
  with tempfile.TemporaryDirectory() as folder:
    saving = checkpoints.Checkpoints(pathlib.Path(folder), every=1, keep=1)
    saving.save(state, 1, dict, now=True)
    saving.close()
    found = checkpoints.Checkpoints(pathlib.Path(folder), every=1, keep=1).newest()
    restored = saved_arrays.restore(found, CONFIG, OPTIMIZER, mesh)
  assert restored.params["embedding"].sharding.mesh == mesh
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(state))
  assert policy.fingerprint(restored.params) == policy.fingerprint(state.params)


if __name__ == "__main__":
  main()
