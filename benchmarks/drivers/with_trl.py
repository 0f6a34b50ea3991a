"""TRL's `GRPOTrainer`, its sampling by transformers' `generate`.

Lengths are forced by a logits processor: the end of sequence is impossible before a row's last
token and certain there. `generate` continues until the longest row ends, and the update pads to it.
"""

import pathlib
import tempfile
import time

import tokenizers
import torch
from datasets import Dataset
from transformers import (
  LogitsProcessor,
  LogitsProcessorList,
  PreTrainedTokenizerFast,
  Qwen2Config,
  Qwen2ForCausalLM,
  TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from benchmarks.drivers.protocol import Requests, Workload


class ForcedLengths(LogitsProcessor):
  """Ends each row where the request says."""

  def __init__(self, lengths: list[int], prompt_tokens: int, end_id: int):
    self.last = torch.tensor(lengths) + prompt_tokens - 1
    self.end_id = end_id

  def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    ends = self.last <= input_ids.shape[1]
    scores[:, self.end_id] = torch.where(ends, 1e9, -torch.inf)
    return scores


class Steps(TrainerCallback):
  """Lets the trainer take one step per request."""

  def __init__(self, requests: Requests):
    self.requests, self.rollout_seconds, self.tokens = requests, 0.0, 0

  def on_step_begin(self, args, state, control, **_):
    if not self.requests.begin():
      raise SystemExit

  def on_step_end(self, args, state, control, **_):
    self.requests.end(self.tokens, self.rollout_seconds)


def word_tokenizer(workload: Workload) -> PreTrainedTokenizerFast:
  """A word per id."""
  words = {f"w{i}": i for i in range(workload.vocab_size)}
  model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
  model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return PreTrainedTokenizerFast(
    tokenizer_object=model, eos_token=f"w{workload.end_id}", pad_token=f"w{workload.pad_id}"
  )


def reward(completion_ids: list[list[int]], **_) -> list[float]:
  return [float(sum(ids) % 2) for ids in completion_ids]


def main() -> None:
  requests = Requests()
  workload = requests.workload
  torch.manual_seed(0)
  steps = Steps(requests)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "policy"
    Qwen2ForCausalLM(Qwen2Config(**workload.hf_config())).save_pretrained(path)
    prompts = [" ".join(f"w{i}" for i in workload.prompt(k)) for k in range(workload.prompts)]
    trainer = GRPOTrainer(
      model=str(path),
      reward_funcs=reward,
      args=GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,  # it would only cost time here
        per_device_train_batch_size=workload.prompts * workload.samples,
        num_generations=workload.samples,
        max_completion_length=workload.response_tokens,
        temperature=1.0,
        beta=workload.beta,
        learning_rate=workload.learning_rate,
        max_grad_norm=1.0,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        max_steps=100_000,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32"},
      ),
      train_dataset=Dataset.from_dict({"prompt": 1000 * prompts}),
      processing_class=word_tokenizer(workload),
      callbacks=[steps],
    )
    generate = trainer.model.generate

    def generate_to_length(*args, **kwargs):
      began = time.perf_counter()
      forced = ForcedLengths(requests.lengths, workload.prompt_tokens, workload.end_id)
      sequences = generate(*args, logits_processor=LogitsProcessorList([forced]), **kwargs)
      ends = (sequences[:, workload.prompt_tokens :] == workload.end_id).int().argmax(dim=1)
      steps.tokens = int((ends + 1).sum())
      steps.rollout_seconds = time.perf_counter() - began
      return sequences

    trainer.model.generate = generate_to_length
    requests.send(ready=True, threads=torch.get_num_threads())
    trainer.train()


if __name__ == "__main__":
  main()
