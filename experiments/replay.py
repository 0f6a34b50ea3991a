"""Replays a dumped non-finite update to find the input, parameter or gradient at fault.

  python -m experiments.replay runs/arithmetic/dumps/hgpo-000012

Recomputes loss and gradient from the dumped batch and parameters, and exits with status 1 if either
is not finite again. If the run's config file registered rewards, tasks or advantages, name it:
--config RUN/config.py.
"""

import pathlib
import sys

import jax
import numpy as np
from rich.console import Console

from lhrm_jax.errors import UserError
from lhrm_jax.runs import command_line, nonfinite, replaying, setup
from lhrm_jax.runs.config import of_older_run
from lhrm_jax.runs.json_files import read_json

_MANY = 12  # arrays listed; more are only counted


def main(argv) -> None:
  if len(argv) != 2:
    raise UserError("Name one dump: python -m experiments.replay RUN/dumps/STAGE-STEP")
  dump = pathlib.Path(argv[1]).expanduser().absolute()
  try:
    about, params, batch = nonfinite.load_dump(dump)
    config = read_json(dump.parent.parent / "config.json")
  except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
    raise UserError(f"{dump} is not a dump in a run folder: {error}.") from error
  run = setup.make(of_older_run(config)[0], dump.parent.parent / "policy")
  loss, grads = replaying.recompute(run, about["stage"], params, batch)
  console = Console()
  console.print(f"{about['stage']} step {about['step']}: loss {loss}")
  tables = {"batch": batch, "parameters": params, "gradient of the summed loss": grads}
  bad = {title: replaying.not_finite(tree) for title, tree in tables.items()}
  for title, rows in bad.items():
    console.print(f"{title}: " + ("not finite:" if rows else "finite"))
    if len(rows) > _MANY:
      console.print(f"  {len(rows)} of its {len(jax.tree.leaves(tables[title]))} arrays")
    elif rows:
      console.print(replaying.as_table(rows))
  if not np.isfinite(loss) or bad["gradient of the summed loss"]:
    sys.exit(1)


if __name__ == "__main__":
  _CONFIG = command_line.define_config(required=False)  # executed for what it registers
  command_line.run(main, arguments="DUMP")
