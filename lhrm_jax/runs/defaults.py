"""Every key of a config at its default, for a config file to start from."""

from lhrm_jax.runs.config import get_config

__all__ = ["get_config"]
