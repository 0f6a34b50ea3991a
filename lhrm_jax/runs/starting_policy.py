"""The policy that each stage starts from."""

from collections.abc import Callable

import jax
import optax

from lhrm_jax import policy
from lhrm_jax.runs import loading, saved_arrays
from lhrm_jax.runs.config import HFT, HGPO
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.setup import Setup
from lhrm_jax.training import state as train_state
from lhrm_jax.training.state import TrainState


def fresh_state(run: Setup, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns the state before the first step: random parameters, or those of `init_from`."""
  if run.params is None:
    key = jax.random.key(run.config.seed)
    return train_state.create(run.policy_config, optimizer, run.mesh, key)
  return train_state.restart(run.policy_config, optimizer, run.mesh, run.params)


def starting_policy(run: Setup, folder: RunFolder, stage: str) -> policy.Params | None:
  """The policy that a stage starts from and is held against: its step 0, or that of `init_from`."""
  if saved := folder.saved[stage]:
    start = saved.path.with_name("0")
    return saved_arrays.restore_params(start, run.policy_config, run.mesh)
  return run.params


def stage_and_step(init_from: str) -> tuple[str, int]:
  """Stage and training step of the policy that `init_from` names.

  A pretrained model counts as HFT's step 0.
  """
  if not loading.run_folder(init_from):
    return HFT, 0
  checkpoint = loading.find_checkpoint(init_from)[1]
  return checkpoint.parent.name, int(checkpoint.name)


def cold_start(
  run: Setup, folder: RunFolder, report: Reporting, train: Callable[[], tuple[int, policy.Params]]
) -> tuple[int, policy.Params]:
  """Returns HGPO's starting policy, which is also its reference, and its training step.

  Args:
    run: objects of the job; its parameters, if any, are the starting policy.
    folder: run folder; a resumed run starts from HGPO's checkpoint of step 0.
    report: report that the seconds of Hybrid Fine-Tuning are added to.
    train: function that runs Hybrid Fine-Tuning, called where there is no other starting policy.
  """
  params, before = starting_policy(run, folder, HGPO), folder.saved[HFT]
  if params is None:
    return train()
  if folder.saved[HGPO] and before:
    report.took(HFT, before.record["seconds"])
    return before.step, params
  return 0, params
