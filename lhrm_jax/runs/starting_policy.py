"""The policy that a stage starts from."""

from collections.abc import Callable

import jax
import optax

from lhrm_jax import policy
from lhrm_jax.runs import checkpoints
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.setup import HFT, HGPO, Setup
from lhrm_jax.training import state as train_state
from lhrm_jax.training.state import TrainState


def fresh_state(run: Setup, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step: random parameters, or those of `init_from`."""
  if run.params is None:
    key = jax.random.key(run.config.seed)
    return train_state.create(run.policy_config, optimizer, run.mesh, key)
  return train_state.restart(run.policy_config, optimizer, run.mesh, run.params)


def cold_start(
  run: Setup, folder: RunFolder, report: Reporting, train: Callable[[], tuple[int, policy.Params]]
) -> tuple[int, policy.Params]:
  """The policy that HGPO starts from and is held against, and the step it was made at.

  Args:
    run: starts from its parameters, where it has any.
    folder: of a resumed run: the checkpoint that HGPO started from, wherever that came from.
    report: told how long Hybrid Fine-Tuning took.
    train: runs Hybrid Fine-Tuning, where there is nothing else to start from.
  """
  if saved := folder.saved[HGPO]:
    start = saved.path.with_name("0")
    params = checkpoints.restore_params(start, run.policy_config, run.mesh)
    before = folder.saved[HFT]
    if before:
      report.took(HFT, before.record["seconds"])
    return before.step if before else 0, params
  return (0, run.params) if run.params is not None else train()
