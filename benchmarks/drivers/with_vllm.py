"""vLLM on a CPU, rollouts only: continuous batching, the prompts' prefixes shared.

Lengths are forced by each request's `max_tokens`, with the end of sequence ignored.
"""

import collections
import os
import pathlib
import tempfile
import time

# One process: a second one would only pass messages, and there are few cores.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB

import torch
from transformers import Qwen2Config
from vllm import LLM, SamplingParams, TokensPrompt

from benchmarks.drivers.protocol import Requests


def main() -> None:
  requests = Requests()
  workload = requests.workload
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    Qwen2Config(**workload.hf_config()).save_pretrained(path)
    llm = LLM(
      model=str(path),
      load_format="dummy",  # random weights
      skip_tokenizer_init=True,
      dtype="float32",
      max_model_len=workload.prompt_tokens + workload.response_tokens,
      max_num_seqs=workload.prompts * workload.samples,
      seed=0,
    )
    requests.send(ready=True, threads=torch.get_num_threads())
    while requests.begin():
      llm.reset_prefix_cache()  # a trainer would have changed the weights
      began = time.perf_counter()
      prompts, parameters = [], []
      for k in range(workload.prompts):
        lengths = requests.lengths[k * workload.samples : (k + 1) * workload.samples]
        for length, count in collections.Counter(lengths).items():
          prompts.append(TokensPrompt(prompt_token_ids=workload.prompt(k)))
          parameters.append(
            SamplingParams(
              n=count, max_tokens=length, temperature=1.0, ignore_eos=True, detokenize=False
            )
          )
      outputs = llm.generate(prompts, parameters, use_tqdm=False)
      tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
      requests.end(tokens, time.perf_counter() - began)


if __name__ == "__main__":
  main()
