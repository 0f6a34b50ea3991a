"""The SLURM script and the SkyPilot task: clean shell, right decisions."""

import os
import pathlib
import re
import signal
import stat
import subprocess
import sysconfig
import time

import pytest
import yaml

from lhrm_jax.runs import preemption

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SLURM = LAUNCH / "slurm.sbatch"
SKY = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
SHELL = {
  "slurm": SLURM.read_text(),
  "sky setup": SKY["setup"],
  "sky run": SKY["run"],
}


@pytest.mark.parametrize("name", SHELL)
def test_shellcheck_finds_nothing(name):
  # SC1091: activate exists on the worker only.
  shellcheck = pathlib.Path(sysconfig.get_path("scripts")) / "shellcheck"
  command = [str(shellcheck), "--shell=bash", "--exclude=SC1091", "-"]
  found = subprocess.run(command, input=SHELL[name], capture_output=True, text=True)
  assert found.returncode == 0, found.stdout + found.stderr


# ---- SLURM


@pytest.fixture
def slurm(tmp_path):
  """Runs the script with an `srun` that is the shell and an `scontrol` that says what it did."""
  tools = tmp_path / "bin"
  tools.mkdir()
  for name, then in (("srun", 'exec bash -c "${@: -1}"'), ("scontrol", "")):
    (tools / name).write_text(f'#!/usr/bin/env bash\necho "$@" > {tmp_path}/{name}\n{then}\n')
    (tools / name).chmod(stat.S_IRWXU)

  def start(*command: str, **environment: str) -> subprocess.Popen:
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "41"}
    return subprocess.Popen(
      ["bash", str(SLURM), *command], env=env | environment, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

  return start


def test_a_job_that_saved_is_queued_again(slurm, tmp_path):
  assert slurm("exit 75").wait() == preemption.EXIT_STATUS
  assert (tmp_path / "scontrol").read_text() == "requeue 41\n"
  assert (tmp_path / "srun").read_text() == "--label --wait=120 exit 75\n"


@pytest.mark.parametrize("status", [0, 1, 2, 137])
def test_a_job_that_is_done_or_failed_is_not(slurm, tmp_path, status):
  assert slurm(f"exit {status}").wait() == status
  assert not (tmp_path / "scontrol").exists()


def test_a_job_that_slurm_itself_takes_away_is_left_to_slurm(slurm, tmp_path):
  """The shell gets SIGTERM too then, and after scancel a job must not come back."""
  job = slurm(f"touch {tmp_path}/started; sleep 1; exit 75")
  while not (tmp_path / "started").exists():
    time.sleep(0.01)
  job.send_signal(signal.SIGTERM)
  assert job.wait() == 75
  assert not (tmp_path / "scontrol").exists()


def test_a_dry_run_prints_the_step(slurm, tmp_path):
  job = slurm("python", "-m", "x", "a b", DRY_RUN="1")
  assert job.communicate()[0] == "'srun' '--label' '--wait=120' 'python' '-m' 'x' 'a b'\n"
  assert not (tmp_path / "srun").exists()


def test_no_command_is_an_error(slurm):
  job = slurm()
  assert "name the command" in job.communicate()[1] and job.returncode == 2


def test_tasks_are_told_before_the_time_is_up_and_the_job_may_be_queued_again():
  options = re.findall(r"^#SBATCH (--.*)$", SLURM.read_text(), re.M)
  assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(options)


# ---- SkyPilot


def test_a_task_recovers_where_it_saved():
  recovery = SKY["resources"]["job_recovery"]
  assert SKY["resources"]["use_spot"]
  assert recovery["recover_on_exit_codes"] == [preemption.EXIT_STATUS]
  assert recovery["max_restarts_on_errors"] == 0


def test_a_task_without_a_command_does_not_start():
  """SkyPilot refuses a task whose environment has a null."""
  assert SKY["envs"] == {"COMMAND": None, "MOUNT": ""}


@pytest.mark.parametrize(
  ("tool", "extra"), [("nvidia-smi", "jax[cuda13]"), ("tpu-info", "jax[tpu]")]
)
def test_setup_installs_the_locked_versions_for_the_machine_and_mounts(tmp_path, tool, extra):
  for name, does in ((tool, ""), ("python3", f'echo "$@" >> {tmp_path}/ran')):
    (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
    (tmp_path / name).chmod(stat.S_IRWXU)
  environment = {
    "PATH": f"{tmp_path}:/usr/bin:/bin",
    "MOUNT": f"echo 'mounted /runs' >> {tmp_path}/ran",
  }
  subprocess.run(["/bin/bash", "-c", SKY["setup"]], env=environment, check=True)
  ran = (tmp_path / "ran").read_text().splitlines()
  assert ran[-2].endswith(f"--constraint requirements.lock --editable .[buckets] {extra}")
  assert ran[-1] == "mounted /runs"


@pytest.mark.parametrize(
  ("nodes", "tool", "expected"),
  [("2", "nvidia-smi", "10.0.0.1:8476 2 1"), ("1", "nvidia-smi", ""), ("2", "tpu-info", "")],
)
def test_nodes_with_gpus_learn_of_each_other(tmp_path, nodes, tool, expected):
  """Those of a TPU pod do by themselves."""
  (tmp_path / ".venv" / "bin").mkdir(parents=True)
  (tmp_path / ".venv" / "bin" / "activate").touch()
  (tmp_path / tool).touch(stat.S_IRWXU)
  found = subprocess.run(
    ["/bin/bash", "-c", SKY["run"]], cwd=tmp_path, capture_output=True, text=True, check=True,
    env={
      "PATH": f"{tmp_path}:/usr/bin:/bin", "SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NODE_RANK": "1",
      "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
      "COMMAND": "echo $JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID",
    },
  )  # fmt: skip
  assert found.stdout.strip() == expected
