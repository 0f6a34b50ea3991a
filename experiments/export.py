"""Exports a trained policy as a folder that transformers and vLLM load directly.

  python -m experiments.export --config.init_from=RUN --out DIR

Its chat template takes `enable_thinking=True` or `False`; without it the model chooses its mode.
Only policies that started from a pretrained model can be exported. Low-rank adapters are added to
the model's weights; with --config.adapter=True they are saved by themselves, in PEFT's format.
"""

import pathlib

from absl import flags

from lhrm_jax import parallel, policy
from lhrm_jax.errors import UserError
from lhrm_jax.runs import command_line, loading, output_folders
from lhrm_jax.runs.model_card import adapted_model, model_card


def main(_) -> None:
  c = _CONFIG.value
  if not c.init_from or not _OUT.value:
    raise UserError(
      "Name a run and a folder: python -m experiments.export --config.init_from=RUN --out DIR"
    )
  out = pathlib.Path(_OUT.value).expanduser().absolute()
  output_folders.check_export_folder(out)
  if c.adapter and "dtype" in command_line.given_keys():
    raise UserError(
      f"dtype={c.dtype} would change nothing: adapter=True saves adapters in float32. Leave it out."
    )
  run, _ = loading.find_checkpoint(c.init_from)
  card = model_card(run, c.adapter)
  config, tokenizer, params = loading.load_policy(c.init_from, parallel.make_mesh())
  try:
    if c.adapter:
      policy.export_adapter(out, config, params, tokenizer, card, adapted_model(run))
    else:
      policy.export_pretrained(out, config, params, tokenizer, card, dtype=c.dtype)
  except (OSError, ValueError) as error:
    raise UserError(f"--out {out}: {error}") from error
  print(f"Exported to {out}")


if __name__ == "__main__":
  _CONFIG = command_line.define_config("experiments/configs/export.py")
  _OUT = flags.DEFINE_string("out", None, "Folder to write; created.")
  command_line.run(main)
