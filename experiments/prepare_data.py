"""Prepares the data of a mixture: tokenised shards with an index and a data card (docs/data.md).

  python -m experiments.prepare_data --config experiments/configs/mixture_lhrm.py \\
      --out /mnt/data/lhrm

The same command continues what was interrupted, and writes the same shards. --work keeps what lies
between the steps elsewhere than in OUT/work. Needs pip install 'lhrm_jax[data]'.
"""

from absl import flags

from lhrm_jax.data.named_sources import evaluation_rows
from lhrm_jax.data.shards import fingerprint
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.runs import command_line, evaluated
from lhrm_jax.runs.config import Config, from_config_dict, plain
from lhrm_jax.runs.paths import with_absolute_paths


def job(c: Config, out: str, work: str) -> None:
  """Every step of the preparation that is not done yet."""
  try:
    from lhrm_jax.preparation import pipeline, reading
    from lhrm_jax.preparation.shard_writing import load_tokenizer
  except ImportError as error:
    raise UserError(f"{error}: pip install 'lhrm_jax[data]'.") from error
  from lhrm_jax.storage.folder import Folder

  tokenizer = c.prepare.tokenizer or c.init_from
  if not tokenizer:
    raise UserError("Name the model whose tokenizer encodes the rows: --config.prepare.tokenizer.")
  with as_user_error(OSError, ValueError):
    removed = evaluated.by_suite(c.evaluation, c.prepare.suites)
    for name, rows in evaluation_rows(c.data).items():
      removed[name] = [*removed.get(name, ()), *rows]
    held = {
      "seed": c.seed,
      **plain(c.prepare),
      **{f"data.{key}": value for key, value in plain(c.data).items()},
      "evaluated_sha256": pipeline.fingerprint_of(removed),
      "tokenizer": tokenizer,
      "tokenizer_sha256": fingerprint(load_tokenizer(tokenizer)),
      "files": [[str(unit), unit.version] for unit in reading.units(c.data)],
    }
    # The stages first: they check the settings, and a mistake is not recorded.
    stages = pipeline.stages(
      c.data, c.prepare, seed=c.seed, work=Folder(work).root, out=Folder(out).root,
      tokenizer=tokenizer, evaluated=removed,
    )  # fmt: skip
    pipeline.check_config(Folder(work), Folder(out), held)
    jobs = pipeline.run(stages, c.prepare, Folder(work).root)
  if jobs:
    print(
      f"Submitted jobs {', '.join(jobs)}: the last writes {out}/index.json and {out}/card.md. "
      "Where one fails, run the same command again.", flush=True,
    )  # fmt: skip
  else:
    print(f"Prepared data: {out}, described in {out}/card.md", flush=True)


def main(_) -> None:
  c = from_config_dict(with_absolute_paths(_CONFIG.value))
  job(c, _OUT.value, _WORK.value or f"{_OUT.value}/work")


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  command_line.require("out", "data/NAME")
  _OUT = flags.DEFINE_string("out", None, "Folder, or URL in a bucket, the shards are written to.")
  _WORK = flags.DEFINE_string("work", None, "Folder of what lies between the steps: OUT/work.")
  command_line.run(main)
