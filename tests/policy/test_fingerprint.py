"""A policy's fingerprint: equal parameters, equal name; any other bit or place, another."""

import jax.numpy as jnp

from lhrm_jax.policy import fingerprint


def test_equal_parameters_have_one_name_and_a_bit_or_a_place_changes_it():
  params = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.float32(0)}}
  name = fingerprint(params)
  assert len(name) == 16 and int(name, 16)
  assert fingerprint({"b": {"c": jnp.float32(0)}, "a": params["a"] + 0}) == name
  others = [
    {**params, "a": params["a"].at[1, 2].set(jnp.nextafter(jnp.float32(5), jnp.float32(9)))},
    {**params, "a": params["a"][:, ::-1]},
    {**params, "a": params["a"][::-1]},
    {**params, "b": {"c": jnp.float32(-0.0)}},
    {"a": params["a"], "b": {"d": jnp.float32(0)}},
  ]
  names = {fingerprint(other) for other in others}
  assert len(names) == len(others) and name not in names
