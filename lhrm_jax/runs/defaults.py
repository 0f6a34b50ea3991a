"""Every key of a config at its default: what a config file starts from."""

from lhrm_jax.runs.config import get_config

__all__ = ["get_config"]
