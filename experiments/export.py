"""Writes a trained policy as a folder that transformers and vLLM load as it is.

  python -m experiments.export --config.init_from=RUN --out DIR

The chat template in it takes `enable_thinking=True`, `False`, or neither: then the model chooses.
Only policies that started from a pretrained model can be exported.
"""

import json
import pathlib
from typing import Any

from absl import flags

from experiments import command_line, setup
from lhrm_jax import parallel, policy
from lhrm_jax.text import tags


def main(_) -> None:
  c = _CONFIG.value
  if not c.init_from or not _OUT.value:
    raise command_line.UserError(
      "Name a run and a folder: python -m experiments.export --config.init_from=RUN --out DIR"
    )
  run, _ = setup.find_checkpoint(c.init_from)
  config, tokenizer, params = setup.load_policy(c.init_from, parallel.make_mesh())
  try:
    policy.export_pretrained(_OUT.value, config, params, tokenizer, card(run), dtype=c.dtype)
  except (FileExistsError, ValueError) as error:
    raise command_line.UserError(f"--out {_OUT.value}: {error}") from error
  print(f"Exported to {_OUT.value}")


def card(run: pathlib.Path) -> str:
  """A model card: how the policy was trained and what it scored, from the run's own files."""
  trained = json.loads((run / "config.json").read_text(encoding="utf-8"))
  lines = [
    "# A hybrid-reasoning policy",
    "",
    "Trained with Hybrid Fine-Tuning and Hybrid Group Policy Optimization",
    "([arXiv 2505.14631](https://arxiv.org/abs/2505.14631)) by lhrm_jax. The first token of a",
    "reply, `<think>` or `<no_think>`, is its choice of mode; `enable_thinking=True` or `False` in",
    "the chat template forces it.",
    "",
    f"Started from `{trained['init_from'] or 'random parameters'}`, task `{trained['task']}`.",
    "",
  ]
  summary = run / "report" / "summary.json"
  if summary.is_file():
    lines += results_table(json.loads(summary.read_text(encoding="utf-8"))["stages"])
  lines += ["## Training configuration", "", "```json", json.dumps(trained, indent=2), "```", ""]
  return "\n".join(lines)


def results_table(stages: dict[str, Any]) -> list[str]:
  """The measured results as Markdown lines."""
  lines = [
    "## Results",
    "",
    "| stage | mode | accuracy | mean tokens | think rate | HAcc |",
    "|---|---|---|---|---|---|",
  ]
  for stage, values in stages.items():
    for mode in ("auto", *tags.MODES):
      v = values[mode]
      hacc = f"{values['hacc']['score']:.3f}" if mode == "auto" else ""
      lines.append(
        f"| {stage} | {mode} | {v['accuracy']:.3f} | {v['mean_tokens']:.1f} "
        f"| {v['think_rate']:.3f} | {hacc} |"
      )
  return [*lines, ""]


if __name__ == "__main__":
  _CONFIG = command_line.define_config("experiments/configs/export.py")
  _OUT = flags.DEFINE_string("out", None, "Folder to write; created.")
  command_line.run(main)
