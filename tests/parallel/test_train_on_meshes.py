"""Training on every mesh equals training on one device: losses, sampled tokens, state."""

import os
import subprocess
import sys

import pytest


def train_on_meshes(*args: str, timeout: float) -> None:
  """In a process of its own with 8 virtual devices, which would slow the other tests down."""
  result = subprocess.run(
    [sys.executable, "-m", "tests.parallel.train_on_meshes", *args],
    env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
    capture_output=True, text=True, timeout=timeout, check=False,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr[-3000:]


def test_a_policy_in_parts_trains_like_one_device():
  """A mesh of all axes."""
  train_on_meshes("--hft", "2", "--hgpo", "2", "2,2,2", timeout=300)


@pytest.mark.slow
def test_copies_of_a_policy_train_like_one_device():
  """Every device holds the policy and sums by itself."""
  train_on_meshes("--hft", "2", "--hgpo", "2", "2,1,1", timeout=300)


@pytest.mark.slow
def test_every_mesh_trains_like_one_device():
  """Every mesh of 1, 2, 4 and 8 devices: 10 HFT and 5 HGPO steps."""
  train_on_meshes("--hft", "10", "--hgpo", "5", timeout=3600)


@pytest.mark.slow
def test_eight_devices_stay_with_one_over_twenty_steps():
  train_on_meshes("--hft", "10", "--hgpo", "10", "8,1,1", timeout=1200)
