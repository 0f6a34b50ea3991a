"""Protocol of `benchmarks.peers` and a driver: JSON lines over standard input and output.

Runs in every library's environment, so it imports nothing but the standard library.
"""

import dataclasses
import json
import os
import sys
import time
from typing import Any


@dataclasses.dataclass(frozen=True)
class Workload:
  """The work of every library: steps of a Qwen2 with tied embeddings, in float32.

  Attributes:
    prompts: number of different queries in a step.
    samples: number of responses to each.
    prompt_tokens: length of every prompt.
    response_tokens: length of the longest possible response.
    learning_rate: learning rate of AdamW, after clipping to a global norm of 1.
    beta: weight of the KL penalty, above 0 so that all need a reference policy.
  """

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  prompts: int
  samples: int
  prompt_tokens: int
  response_tokens: int
  learning_rate: float = 1e-6
  beta: float = 0.001

  @property
  def end_id(self) -> int:
    """The id that ends a response; the one below it is padding."""
    return self.vocab_size - 1

  @property
  def pad_id(self) -> int:
    return self.vocab_size - 2

  def prompt(self, index: int) -> list[int]:
    """Ids of a query: the same in every library, another for every index."""
    words = self.vocab_size - 10
    return [8 + (7919 * (index + 1) + 31 * i * (i + index)) % words for i in
            range(self.prompt_tokens)]  # fmt: skip

  def hf_config(self) -> dict[str, Any]:
    """Arguments of transformers' `Qwen2Config`."""
    return {
      "vocab_size": self.vocab_size,
      "hidden_size": self.hidden_size,
      "intermediate_size": self.intermediate_size,
      "num_hidden_layers": self.num_layers,
      "num_attention_heads": self.num_heads,
      "num_key_value_heads": self.num_kv_heads,
      "max_position_embeddings": 4096,
      "tie_word_embeddings": True,
      "bos_token_id": None,
      "eos_token_id": self.end_id,
      "pad_token_id": self.pad_id,
      "architectures": ["Qwen2ForCausalLM"],
      "dtype": "float32",
    }


class Requests:
  """A driver's end of the protocol: receives steps, reports their times.

  Attributes:
    workload: the workload given on the command line.
    lengths: response lengths that the current step must have, prompt by prompt.
  """

  def __init__(self):
    # Libraries print; only replies may reach the parent process.
    self._replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    self.workload = Workload(**json.loads(sys.argv[1]))
    self.lengths: list[int] = []
    self._began = 0.0

  def begin(self) -> bool:
    """Waits for the next step and starts its clock; false when there is none."""
    line = sys.stdin.readline()
    if not line:
      return False
    self.lengths = json.loads(line)
    self._began = time.perf_counter()
    return True

  def end(self, tokens: int, rollout_seconds: float, **more: Any) -> None:
    """Reports the finished step: tokens sampled, and seconds that sampling took."""
    seconds = time.perf_counter() - self._began
    self.send(seconds=seconds, rollout_seconds=rollout_seconds, tokens=tokens, **more)

  def send(self, **message: Any) -> None:
    self._replies.write(json.dumps(message) + "\n")
    self._replies.flush()
