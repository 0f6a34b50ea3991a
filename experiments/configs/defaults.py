"""Every key an experiment knows, at its default: what a config file starts from."""

from lhrm_jax.runs.defaults import get_config

__all__ = ["get_config"]
