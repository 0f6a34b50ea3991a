"""This library: `benchmarks.step`, its lengths forced by the sampler's `limits`."""

import dataclasses

import jax
import numpy as np

from benchmarks import measuring, step
from benchmarks.drivers.protocol import Requests
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import Prompts


def main() -> None:
  requests = Requests()
  workload = requests.workload
  fields = {field.name for field in dataclasses.fields(PolicyConfig)}
  shape = {k: v for k, v in dataclasses.asdict(workload).items() if k in fields}
  config = dataclasses.replace(measuring.SHAPES["tiny"], **shape)
  take_step = step.make_step(
    config, workload.samples // 2, workload.response_tokens,
    learning_rate=workload.learning_rate, beta=workload.beta,
  )  # fmt: skip
  ids = np.arange(workload.prompts, dtype=np.int32)
  tokens = np.array([workload.prompt(k) for k in ids.tolist()], np.int32)
  prompts = Prompts(tokens, np.full(len(ids), workload.prompt_tokens, np.int32), ids)
  requests.send(ready=True, devices=jax.device_count())
  while requests.begin():
    limits = np.array(requests.lengths, np.int32).reshape(workload.prompts, 2, -1)
    done = take_step(prompts, limits)
    requests.end(
      tokens=int(done.rollouts.lengths.sum()),
      rollout_seconds=done.parts["prefill"] + done.parts["decode"],
      live_slots=float(done.rollouts.live_slots),
      padding_share=done.metrics["perf/padding_share"],
    )


if __name__ == "__main__":
  main()
