"""Choice of JAX's platform."""

import importlib.metadata
import os
from collections.abc import Mapping
from importlib.util import find_spec

import jax


def skip_absent_tpu(environment: Mapping[str, str] = os.environ) -> None:
  """Keeps JAX from starting libtpu on a machine without TPU chips, where it only logs errors.

  libtpu is installed there as the compiler of `experiments.plan`. JAX looks for chips when it is
  imported and, where it sees some, sets `jax_platforms` itself; that, JAX_PLATFORMS and
  JAX_FORCE_TPU_INIT are respected. On a machine with another JAX plug-in (a GPU's) JAX chooses.
  Call before anything touches a device.
  """
  if jax.config.jax_platforms or "JAX_FORCE_TPU_INIT" in environment:
    return
  if find_spec("libtpu") and not _other_plugins():
    jax.config.update("jax_platforms", "cpu")


def _other_plugins() -> bool:
  """Whether a JAX plug-in is installed; libtpu is not one, JAX knows it by name."""
  found = find_spec("jax_plugins") is not None
  return found or bool(importlib.metadata.entry_points(group="jax_plugins"))
