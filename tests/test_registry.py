"""One registry class behind rewards, advantages and tasks."""

import pytest

from lhrm_jax import rewards
from lhrm_jax.data import tasks
from lhrm_jax.objectives import advantages
from lhrm_jax.registry import Registry


@pytest.fixture
def registry():
  registry = Registry("thing")
  registry.register("chain", 1)
  return registry


def test_an_entry_is_registered_by_a_call_or_a_decorator(registry):
  @registry.register("sum")
  def total(x):
    return x

  assert (registry.get("sum"), registry.get("chain")) == (total, 1)
  assert registry.names() == ["chain", "sum"]
  assert registry.name_of(total) == "sum" and registry.name_of(2) is None


def test_a_name_is_taken_once(registry):
  with pytest.raises(ValueError, match="thing 'chain' is already registered; pass replace=True"):
    registry.register("chain", 2)
  assert registry.get("chain") == 1
  registry.register("chain", 2, replace=True)
  assert registry.get("chain") == 2


@pytest.mark.parametrize("kind", [KeyError, ValueError])  # a failed look-up, and a wrong setting
def test_an_unknown_name_is_answered_with_the_nearest(registry, kind):
  with pytest.raises(kind) as error:
    registry.get("chains")
  assert str(error.value) == "no thing named 'chains'; did you mean 'chain'? registered: chain"
  with pytest.raises(kind, match=r"^no thing named 'zzz'; registered: chain$"):
    registry.get("zzz")


@pytest.mark.parametrize(
  ("module", "name"),
  [(rewards, "exact_match"), (advantages, "rloo"), (tasks, "arithmetic"), (tasks, "rows")],
)
def test_rewards_advantages_and_tasks_follow_it(module, name):
  assert name in module.names()
  with pytest.raises(KeyError, match=f"did you mean '{name}'"):
    module.get(name + "s")
  with pytest.raises(ValueError, match="already registered"):
    module.register(name, lambda: None)
