"""Every key of a config at its default; `lhrm_jax.runs.defaults` under its older name."""

from lhrm_jax.runs.defaults import get_config

__all__ = ["get_config"]
