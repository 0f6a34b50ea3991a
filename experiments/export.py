"""Writes a trained policy as a folder that transformers and vLLM load as it is.

  python -m experiments.export --config.init_from=RUN --out DIR

The chat template in it takes `enable_thinking=True`, `False`, or neither: then the model chooses.
Only policies that started from a pretrained model can be exported.
"""

from absl import flags

from experiments import command_line, setup
from experiments.model_card import model_card
from lhrm_jax import parallel, policy


def main(_) -> None:
  c = _CONFIG.value
  if not c.init_from or not _OUT.value:
    raise command_line.UserError(
      "Name a run and a folder: python -m experiments.export --config.init_from=RUN --out DIR"
    )
  run, _ = setup.find_checkpoint(c.init_from)
  config, tokenizer, params = setup.load_policy(c.init_from, parallel.make_mesh())
  try:
    policy.export_pretrained(_OUT.value, config, params, tokenizer, model_card(run), dtype=c.dtype)
  except (FileExistsError, ValueError) as error:
    raise command_line.UserError(f"--out {_OUT.value}: {error}") from error
  print(f"Exported to {_OUT.value}")


if __name__ == "__main__":
  _CONFIG = command_line.define_config("experiments/configs/export.py")
  _OUT = flags.DEFINE_string("out", None, "Folder to write; created.")
  command_line.run(main)
