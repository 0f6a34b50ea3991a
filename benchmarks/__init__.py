"""Measurements of speed and memory; each module is a command."""

from lhrm_jax import parallel

parallel.skip_absent_tpu()
