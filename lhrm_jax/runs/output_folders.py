"""Output folders of the jobs that do not train: evaluation and export."""

import pathlib
import re
import time

from lhrm_jax.errors import UserError
from lhrm_jax.runs import loading
from lhrm_jax.runs.run_folder import RESERVED
from lhrm_jax.storage import urls


def evaluation_folder(init_from: str) -> str:
  """Returns the default folder of an evaluation: in the run evaluated, or in `runs/`.

  Never under a path equal to a hub id `init_from`, which would then name the folder instead.
  """
  name = f"evaluation-of-{time.strftime('%Y%m%d-%H%M%S')}"
  if urls.is_url(init_from):
    return f"{init_from.rstrip('/').partition('/checkpoints/')[0]}/{name}"
  if run := loading.run_folder(init_from):
    return str(run / name)
  model = re.sub(r"[^A-Za-z0-9._-]+", "-", pathlib.Path(init_from).name)
  return str(pathlib.Path("runs") / f"{name}-of-{model}")


def check_export_folder(out: pathlib.Path) -> None:
  """Checks that an export would not overwrite files of a run or hide it.

  Raises:
    UserError: it would.
  """
  run = next((p for p in (out, *out.parents) if loading.is_run(p)), None)
  of_run = run and (out == run or out.relative_to(run).parts[0] in RESERVED)
  if of_run:
    raise UserError(
      f"--out {out} is a run's folder ({run}): the model would overwrite its files or hide it. "
      f"Choose another, such as {run.with_name(f'{run.name}-export')}."
    )
