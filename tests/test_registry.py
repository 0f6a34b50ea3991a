"""One registry class behind rewards, advantages and tasks."""

import runpy

import pytest

from lhrm_jax import rewards
from lhrm_jax.data import tasks
from lhrm_jax.objectives import advantages, objective
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


REGISTERING = {
  "function": "@registry.register('mine')\ndef mine(x, w=1):\n  return w",
  "partial": "import functools\ndef f(x, w): return w\n"
  "registry.register('mine', functools.partial(f, w=[1]))",
  "class": "@registry.register('mine')\nclass Mine: pass",
  "instance": "class Mine: pass\nregistry.register('mine', Mine())",
  "jitted": "import jax\nregistry.register('mine', jax.jit(lambda x: x))",
  "in a function": "def get_config(w):\n  registry.register('mine', lambda x: w)\nget_config(1)",
}


@pytest.mark.parametrize("kind", REGISTERING)
def test_a_file_that_is_executed_again_registers_again(registry, tmp_path, monkeypatch, kind):
  file = tmp_path / "config.py"
  file.write_text(REGISTERING[kind])
  monkeypatch.chdir(tmp_path)
  first = runpy.run_path("config.py", {"registry": registry})  # as --config names it
  entry = registry.get("mine")
  second = runpy.run_path(str(file), {"registry": registry})
  assert registry.get("mine") is not entry and first is not second


@pytest.mark.parametrize(
  "lines",
  [
    "for w in (1, 2):\n  registry.register('mine', lambda x, w=w: w)",
    "def of(w):\n  return lambda x: w\nfor w in (1, 2): registry.register('mine', of(w))",
    "registry.register('mine', lambda x: 1); registry.register('mine', lambda x: 2)",
  ],
)
def test_two_definitions_in_one_execution_of_a_file_do_not_share_a_name(registry, tmp_path, lines):
  file = tmp_path / "config.py"
  file.write_text(lines)
  with pytest.raises(ValueError, match="thing 'mine' is already registered"):
    runpy.run_path(str(file), {"registry": registry})


def test_a_decorator_of_the_package_is_no_place_of_its_own(tmp_path, monkeypatch):
  monkeypatch.setattr(objective.REGISTRY, "entries", dict(objective.REGISTRY.entries))
  for name in ("a", "b"):
    (tmp_path / f"{name}.py").write_text("@register('mine')\ndef mine(config, rows): ...")
  runpy.run_path(str(tmp_path / "a.py"), {"register": objective.register})
  runpy.run_path(str(tmp_path / "a.py"), {"register": objective.register})
  with pytest.raises(ValueError, match="objective 'mine' is already registered"):
    runpy.run_path(str(tmp_path / "b.py"), {"register": objective.register})
