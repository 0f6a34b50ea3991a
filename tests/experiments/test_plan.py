"""Plans, made by the real TPU compiler for chips that are not there."""

import json
import math
import os
import re
import subprocess
import sys

import pytest

from tests.runs.test_command_line import CONFIG, ROOT

VOCAB, WIDTH, PROMPT, RESPONSE = 8192, 256, 64, 32
ROW = PROMPT + 2 * (RESPONSE - 1)  # two responses with their prompt
SIZES = {
  "policy.vocab_size": VOCAB, "policy.hidden_size": WIDTH, "policy.intermediate_size": 512,
  "policy.num_layers": 2, "policy.num_heads": 8, "policy.num_kv_heads": 4,
  "policy.head_dim": 32, "policy.dtype": "bfloat16", "policy.remat": "full",
  "policy.max_positions": 256, "mesh.data": 1, "mesh.fsdp": 8, "mesh.tensor": 2,
  "sampling_mesh.tensor": 2, "hgpo.prompts_per_step": 32, "hgpo.samples_per_mode": 2,
  "hgpo.sampling_chunks": 1, "hgpo.packed_length": ROW, "hgpo.micro_batch_rows": 16,
  "data.max_prompt_tokens": PROMPT,
  "data.max_response_tokens": RESPONSE,
}  # fmt: skip


def plan(program: str, folder, **changed) -> dict:
  """What `experiments.plan` writes of one program on 16 v5e chips."""
  values = SIZES | {key.replace("__", "."): value for key, value in changed.items()}
  path = folder / "plan.json"
  done = subprocess.run(
    [sys.executable, "-m", "experiments.plan", "--config", CONFIG, "--topology", "v5e:4x4",
     "--program", program, "--json", str(path),
     *(f"--config.{key}={value}" for key, value in values.items())],
    cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    timeout=400, check=False,
  )  # fmt: skip
  assert path.exists(), done.stderr[-3000:]
  (found,) = json.loads(path.read_text())["plans"]
  return found


@pytest.fixture(scope="module")
def update(tmp_path_factory):
  return plan("update", tmp_path_factory.mktemp("update"))


def test_every_parameter_of_the_update_is_sharded(update):
  layer = WIDTH * (8 + 2 * 4 + 8) * 32 + 3 * WIDTH * 512 + 2 * WIDTH
  total = 4 * (VOCAB * WIDTH + 2 * layer + WIDTH)  # float32, tied embeddings
  assert total / 16 <= update["parameters"] <= 1.02 * total / 16
  assert 2 * total / 16 <= update["optimizer"] <= 1.02 * 2 * total / 16


def test_no_chip_ever_gathers_the_table_or_all_logits(update):
  gathered = [c for c in update["collectives"] if c["kind"] == "all-gather"]
  assert gathered, "weights split over fsdp must be gathered, or this test looks at nothing"
  for collective in gathered:
    for dims in re.findall(r"\[([\d,]+)\]", collective["shape"]):
      sizes = [int(d) for d in dims.split(",")]
      assert math.prod(sizes) < VOCAB * WIDTH, collective
      assert not (VOCAB in sizes and len(sizes) > 2), collective


def test_flops_are_those_worked_out_by_hand(update):
  """6 per parameter and token for the passes, 2 more where activations are computed again; all
  responses at full length, 64 rows in four blocks."""
  matrices = 2 * (WIDTH * (8 + 2 * 4 + 8) * 32 + 3 * WIDTH * 512)
  tokens = 32 * 2 * ROW
  attention = 2 * 4 * 8 * 32 * 32 * 2 * ROW**2  # layers, 2 products, forward
  head = 2 * VOCAB * WIDTH * 32 * 4 * RESPONSE
  forward = 2 * matrices * tokens + attention + head
  # The objective sees room for 128 responses a row, which tells in so small a model.
  assert 3 * forward <= 16 * update["flops"] <= 4.8 * forward


def test_each_chip_of_a_host_may_sample_by_itself(tmp_path):
  """Splash attention in a program that is split over rows already: no axis may be left to XLA."""
  found = plan(
    "prefill", tmp_path, sampling_mesh__tensor=1, data__max_prompt_tokens=128,
    hgpo__packed_length=0,
  )  # fmt: skip
  assert not found["problem"] and not found["collectives"]
  assert found["flops"] > 0
