"""Versions that a result depends on."""

import functools
import importlib.metadata
import pathlib
import platform
import subprocess
import sys

import jax

from lhrm_jax import parallel

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@functools.cache
def current_versions() -> dict[str, str]:
  """Returns the versions that a result depends on, the devices, and the commit if known."""
  found = {"python": platform.python_version()}
  found |= {package: importlib.metadata.version(package) for package in _PACKAGES}
  device = jax.devices()[0]
  found["devices"] = f"{jax.device_count()} x {device.device_kind}"
  found["commit"] = _commit() or "unknown"
  return found


def _commit() -> str:
  """Returns the commit of this checkout; "" outside of one, or (with a warning) without git."""
  git = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"]
  try:
    return subprocess.run(
      git, capture_output=True, text=True, errors="replace", timeout=30, check=False
    ).stdout.strip()
  except (OSError, subprocess.TimeoutExpired):
    if parallel.is_writer():
      print("git cannot be run: versions.json names no commit.", file=sys.stderr, flush=True)
    return ""
