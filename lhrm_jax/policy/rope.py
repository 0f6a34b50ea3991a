"""Rotary position embeddings (https://arxiv.org/abs/2104.09864)."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from lhrm_jax.policy.config import PolicyConfig, RopeScaling


def frequencies(config: PolicyConfig) -> np.ndarray:
  """Angular frequencies `[head_dim / 2]`, radians per position, float32, scaled as configured."""
  exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
  freqs = 1.0 / config.rope_theta**exponents
  return _scale(freqs, config.rope_scaling).astype(np.float32)


def _scale(freqs: np.ndarray, scaling: RopeScaling) -> np.ndarray:
  if scaling.kind == "none":
    return freqs
  if scaling.kind == "linear":
    return freqs / scaling.factor
  # Llama 3.1: long wavelengths are stretched, short ones kept, the band between is interpolated.
  wavelengths = 2 * math.pi / freqs
  low = scaling.original_positions / scaling.low_freq_factor
  high = scaling.original_positions / scaling.high_freq_factor
  blend = (scaling.original_positions / wavelengths - scaling.low_freq_factor) / (
    scaling.high_freq_factor - scaling.low_freq_factor
  )
  blended = (1 - blend) * freqs / scaling.factor + blend * freqs
  return np.where(
    wavelengths > low, freqs / scaling.factor, np.where(wavelengths < high, freqs, blended)
  )


def angles(config: PolicyConfig, positions: Array) -> tuple[Array, Array]:
  """Cosines and sines `[N, T, head_dim / 2]` in float32 for int `positions [N, T]`."""
  phase = positions[..., None].astype(jnp.float32) * frequencies(config)
  return jnp.cos(phase), jnp.sin(phase)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
  """Rotates `x [N, T, heads, head_dim]` by `cos`, `sin` `[N, T, head_dim / 2]`.

  Channel i pairs with channel i + head_dim / 2, the order of Hugging Face's checkpoints.
  """
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos[..., None, :], sin[..., None, :]
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x.dtype)
