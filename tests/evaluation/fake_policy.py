"""A policy whose every reply is known; as a program, an evaluation that is killed.

Prompts ask 1+1= to 4+4=. By prompt: thinking is right on the first and third, direct answers on the
second and third; nothing is right on the fourth. Freely it thinks on the first two, answers the
third directly, and opens the fourth with no tag. Thinking on the first goes wrong in the last of
the samples drawn with seed 1.
"""

import os
import pathlib
import signal
import sys

import jax
import numpy as np

from lhrm_jax import rewards
from lhrm_jax.data import arithmetic
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.evaluation import EvaluationConfig, Evaluator, evaluate, samples
from lhrm_jax.sampling import LENGTH, STOPPED, Rollouts

TOKENIZER = arithmetic.Arithmetic().tokenizer()
ROWS = [PromptRow(f"{i}+{i}=", str(2 * i), level=1 + i // 3, source="sums") for i in range(1, 5)]
RIGHT = np.array([[1, 0, 1, 0], [0, 1, 1, 0]], bool)  # [mode, prompt]
FREE = (0, 0, 1, -1)
FIRST = (np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]], np.float32),
         np.array(FREE))  # fmt: skip
SETTINGS = EvaluationConfig(samples=2, seeds=2, batch_prompts=2, free_samples=1)
WIDTH = 24


def text_of(place: int, mode: int, last: bool, seed: int) -> str:
  right = mode >= 0 and RIGHT[mode, place] and not (place == 0 and mode == 0 and last and seed)
  answer = ROWS[place].answer if right else "9"
  forms = ("<think>1+1</think>{}", "<no_think>{}</no_think>", "{}")
  return forms[mode].format(answer)


def sample(config, spec, params, prompts, key, dials=None):
  """In place of `sampling.sample`."""
  seed = int(jax.random.key_data(key)[1])
  shape = (len(prompts.ids), spec.modes, spec.samples)
  tokens = np.full((*shape, WIDTH), TOKENIZER.pad_id, np.int32)
  lengths = np.zeros(shape, np.int32)
  for b, m, g in np.ndindex(shape):
    place = int(prompts.ids[b])
    mode = m if spec.paired else FREE[place]
    text = text_of(place, mode, g + 1 == spec.samples, seed)
    ids = TOKENIZER.encode_response(text)
    tokens[b, m, g, : len(ids)], lengths[b, m, g] = ids, len(ids)
  finish = np.where(lengths <= spec.max_tokens, STOPPED, LENGTH).astype(np.int32)
  zeros = np.zeros(tokens.shape, np.float32)
  return Rollouts(
    prompts=prompts, responses=tokens, logprobs=zeros, lengths=lengths, finish_reason=finish,
    decode_steps=lengths, policy_version=np.int32(0),
  )  # fmt: skip


def evaluator(settings: EvaluationConfig = SETTINGS) -> Evaluator:
  limits = DataConfig(max_prompt_tokens=22, max_response_tokens=WIDTH)
  exact = rewards.get("exact_match")
  return Evaluator(None, TOKENIZER, exact, ROWS, settings, limits, task="sums")


def main(folder: pathlib.Path, kill_at: int) -> None:
  """Evaluates into `folder`, and is killed while batch number `kill_at` is sampled."""
  calls = 0

  def counted(*args, **options):
    nonlocal calls
    calls += 1
    if calls == kill_at:
      os.kill(os.getpid(), signal.SIGKILL)
    return sample(*args, **options)

  evaluate.sample = counted
  evaluator().measure({}, samples.open_log(folder, resume=False), FIRST)


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
