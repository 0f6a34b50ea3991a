"""Large Hybrid-Reasoning Models (https://arxiv.org/abs/2505.14631) in JAX."""

__version__ = "0.1.0"
