"""google-tunix's `GRPOLearner`, with its own sampler.

Its sampler takes no lengths, and its loop keeps every row until the longest ends. So all rows are
sampled to the longest length, which costs the same, and are then truncated to the requested ones.
"""

import time
from collections.abc import Iterator

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from tunix.models.qwen2 import model as qwen2
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout.base_rollout import RolloutConfig, RolloutOutput

from benchmarks.drivers.protocol import Requests, Workload

_NEVER = -1


class WordTokenizer:
  """A word per id, as Tunix asks for one."""

  def __init__(self, workload: Workload):
    self._workload = workload

  def encode(self, text: str, **_) -> list[int]:
    return [int(word[1:]) for word in text.split()]

  def decode(self, ids: list[int], **_) -> str:
    return " ".join(f"w{i}" for i in ids)

  def bos_id(self) -> None:
    return None

  def eos_id(self) -> int:
    return self._workload.end_id

  def pad_id(self) -> int:
    return self._workload.pad_id


def policy(workload: Workload) -> nnx.Module:
  config = qwen2.ModelConfig(
    num_layers=workload.num_layers,
    vocab_size=workload.vocab_size,
    embed_dim=workload.hidden_size,
    hidden_dim=workload.intermediate_size,
    num_heads=workload.num_heads,
    head_dim=workload.hidden_size // workload.num_heads,
    num_kv_heads=workload.num_kv_heads,
    rope_theta=10_000,
    norm_eps=1e-6,
    use_tied_embedding=True,
  )
  return qwen2.Qwen2(config, rngs=nnx.Rngs(0))


def reward(prompts: list[str], completions: list[str], **_) -> list[float]:
  return [float(sum(map(ord, text)) % 2) for text in completions]


def main() -> None:
  requests = Requests()
  workload = requests.workload
  mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
  roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
  rows = workload.prompts
  with mesh:
    cluster = rl_cluster.RLCluster(
      actor=policy(workload),
      reference=policy(workload),
      tokenizer=WordTokenizer(workload),
      cluster_config=rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys(roles, mesh),
        training_config=rl_cluster.RLTrainingConfig(
          actor_optimizer=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(workload.learning_rate)
          ),
          eval_every_n_steps=10**9,
          max_steps=10**9,
          mini_batch_size=rows,
          train_micro_batch_size=rows,
          rollout_micro_batch_size=rows,
          compute_logps_micro_batch_size=rows,
        ),
        rollout_config=RolloutConfig(
          max_tokens_to_generate=workload.response_tokens,
          max_prompt_length=workload.prompt_tokens,
          kv_cache_size=workload.prompt_tokens + workload.response_tokens,
          temperature=1.0,
          eos_tokens=[_NEVER],
        ),
      ),
    )
  learner = GRPOLearner(
    rl_cluster=cluster,
    algo_config=GRPOConfig(num_generations=workload.samples, beta=workload.beta),
    reward_fns=reward,
  )

  taken = {}
  generate = cluster.rollout.generate

  def generate_to_length(*args, **kwargs) -> RolloutOutput:
    began = time.perf_counter()
    output = generate(*args, **kwargs)
    # Neither padding nor an end of sequence may be drawn before a row's own end.
    words = [np.minimum(row, workload.pad_id - 1) for row in output.tokens]
    output.tokens = [
      np.append(row[: length - 1], workload.end_id)
      for row, length in zip(words, requests.lengths, strict=True)
    ]
    taken["tokens"] = sum(len(row) for row in output.tokens)
    taken["rollout_seconds"] = time.perf_counter() - began
    return output

  cluster.rollout.generate = generate_to_length

  def batches() -> Iterator[dict[str, np.ndarray]]:
    prompts = [" ".join(f"w{i}" for i in workload.prompt(k)) for k in range(workload.prompts)]
    while requests.begin():
      yield {"prompts": np.array(prompts)}
      # Asked for the next batch, Tunix has only dispatched the update.
      jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
      requests.end(**taken)

  requests.send(ready=True)
  learner.train(batches())


if __name__ == "__main__":
  main()
