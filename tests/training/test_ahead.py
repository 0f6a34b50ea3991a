"""Programs that are compiled before their first call."""

import jax
import jax.numpy as jnp
import pytest

from lhrm_jax.runs.instruments import CompileCounter
from lhrm_jax.training.ahead import CompiledAhead


def test_the_first_call_finds_the_compiled_program():
  shape = jax.ShapeDtypeStruct((3,), jnp.float32)
  double = CompiledAhead(jax.jit(lambda x: 2 * x), shape)
  x = jnp.arange(3.0)
  jax.block_until_ready(x)
  double._compiling.result()
  compiles = CompileCounter()
  assert double(x).tolist() == [0, 2, 4]
  assert compiles.count == 0


def test_other_shapes_are_compiled_when_they_come():
  double = CompiledAhead(jax.jit(lambda x: 2 * x), jax.ShapeDtypeStruct((3,), jnp.float32))
  assert double(jnp.arange(2)).tolist() == [0, 2]


def test_what_cannot_be_compiled_is_an_error_of_the_call():
  def refuse(x):
    raise ValueError("no")

  refused = CompiledAhead(jax.jit(refuse), jax.ShapeDtypeStruct((3,), jnp.float32))
  with pytest.raises(ValueError, match="no"):
    refused(jnp.arange(3.0))
