"""Looks into an update that was not finite: which input, parameter, loss or gradient it was.

  python -m experiments.replay runs/arithmetic/dumps/hgpo-000012

Runs the dumped batch through the dumped parameters once more, outside of training, and exits with
status 1 where the gradient is not finite again. Where the run's config file registered rewards,
tasks or advantages, name it: --config RUN/config.py.
"""

import functools
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import hgpo
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.errors import UserError
from lhrm_jax.objectives.masked import SumCount
from lhrm_jax.runs import command_line, nonfinite, setup
from lhrm_jax.runs.config import of_older_run
from lhrm_jax.training import update
from lhrm_jax.training.hft import hft_loss
from lhrm_jax.training.hgpo import HGPOBatch, hgpo_gradients

_MANY = 12  # arrays; more are counted and not listed


def main(argv) -> None:
  if len(argv) != 2:
    raise UserError("Name one dump: python -m experiments.replay RUN/dumps/STAGE-STEP")
  dump = pathlib.Path(argv[1]).expanduser().absolute()
  try:
    about, params, batch = nonfinite.load_dump(dump)
    config = setup.read_json(dump.parent.parent / "config.json")
  except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
    raise UserError(f"{dump} is no dump in a run folder: {error}.") from error
  run = setup.make(of_older_run(config)[0], dump.parent.parent / "policy")
  loss, grads = recompute(run, about["stage"], params, batch)
  console = Console()
  console.print(f"{about['stage']} step {about['step']}: loss {loss}")
  tables = {"batch": batch, "parameters": params, "gradient of the summed loss": grads}
  bad = {title: not_finite(tree) for title, tree in tables.items()}
  for title, rows in bad.items():
    console.print(f"{title}: " + ("not finite:" if rows else "finite"))
    if len(rows) > _MANY:
      console.print(f"  {len(rows)} of its {len(jax.tree.leaves(tables[title]))} arrays")
    elif rows:
      console.print(as_table(rows))
  if not np.isfinite(loss) or bad["gradient of the summed loss"]:
    sys.exit(1)


def recompute(run: setup.Setup, stage: str, params, batch) -> tuple[float, Any]:
  """The mean loss and the gradient of its sum."""
  if stage == setup.HFT:
    loss_fn = functools.partial(hft_loss, run.policy_config)
    batches = [nonfinite.rebuild(TokenBatch, values) for values in batch]
    loss, grads, _ = jax.jit(functools.partial(update.accumulate, loss_fn))(params, batches)
  else:
    spec = hgpo.hgpo_spec(run.config.hgpo, run.tokenizer.tag_ids.opening)
    gradients = functools.partial(hgpo_gradients, run.policy_config, spec)
    loss, grads, _ = jax.jit(gradients)(params, nonfinite.rebuild(HGPOBatch, batch))
  assert isinstance(loss, SumCount)
  return float(loss.mean()), grads


def not_finite(tree) -> list[tuple[str, int, int, str]]:
  """Of each array with entries that are not finite: name, how many, of how many, first index."""
  found = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    values = np.asarray(leaf)
    if not np.issubdtype(values.dtype, np.inexact) and values.dtype.name != "bfloat16":
      continue
    bad = ~np.isfinite(values.astype(np.float32))
    if bad.any():
      first = tuple(int(i) for i in np.argwhere(bad)[0])
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      found.append((name, int(bad.sum()), values.size, str(first)))
  return found


def as_table(rows) -> Table:
  table = Table("array", "not finite", "of", "first at")
  for row in rows:
    table.add_row(*map(str, row))
  return table


if __name__ == "__main__":
  _CONFIG = command_line.define_config(required=False)  # read for what it registers
  command_line.run(main, arguments="DUMP")
