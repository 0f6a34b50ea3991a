"""How often sources are repeated: metrics, warnings, and runs that are longer than the limits."""

import pytest

from lhrm_jax.config import replaced
from lhrm_jax.data import tasks
from lhrm_jax.runs import repeats
from lhrm_jax.runs.config import Config
from tests.data.test_sources import write_jsonl


@pytest.fixture
def config(tmp_path):
  """Two thinking sources of 30 and 10 rows, a direct one of 20, and 40 queries."""
  for name, count, mode in (("proofs", 30, "think"), ("contests", 10, "think"),
                            ("chat", 20, "no_think")):  # fmt: skip
    write_jsonl(
      tmp_path / f"{name}.jsonl",
      [{"prompt": f"{name} {i}?", "response": f"<{mode}>{i}</{mode}>{'' if 'no' in mode else i}"}
       for i in range(count)],
    )  # fmt: skip
  write_jsonl(tmp_path / "sums.jsonl", [{"prompt": f"{i}+1?", "answer": i + 1} for i in range(40)])
  write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "90+1?", "answer": 91}])
  names = ("proofs", "contests", "chat", "sums")
  return replaced(
    Config(),
    {
      "task": "rows",
      "data.demonstrations": "proofs,contests,chat",
      "data.prompts": "sums",
      "data.evaluation": str(tmp_path / "asked.jsonl"),
      "data.sources": {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in names},
      "hft.steps": 10,
      "hft.think_per_step": 8,
      "hft.no_think_per_step": 10,
      "hgpo.steps": 2,
      "hgpo.prompts_per_step": 30,
    },
  )


def task_of(config):
  return tasks.get(config.task, config.data)


def test_epochs_of_each_source_are_metrics(config):
  weighted = replaced(config, {"data.weights": {"contests": 3.0}})
  found = repeats.epochs(weighted, task_of(weighted), "hft", 10)
  assert found == {
    "data/epochs/proofs": pytest.approx(80 / 60, abs=0.05),
    "data/epochs/contests": pytest.approx(3 * 80 / 60, abs=0.15),
    "data/epochs/chat": 5.0,
  }
  pooled = repeats.epochs(config, task_of(config), "hft", 10)
  assert pooled["data/epochs/proofs"] == pooled["data/epochs/contests"] == 2.0
  assert repeats.epochs(config, task_of(config), "hgpo", 2) == {"data/epochs/sums": 1.5}
  assert repeats.epochs(Config(), tasks.get("arithmetic"), "hft", 10) == {}


def test_a_source_repeated_too_often_is_a_warning_that_says_how_often(config):
  (warning,) = repeats.warnings(config, task_of(config), "hft")
  assert "hft goes 5.0 times through the rows of chat, more than data.warn_epochs=4" in warning
  assert not list(repeats.warnings(config, task_of(config), "hgpo"))
  strict = replaced(config, {"data.warn_epochs": 1.0})
  assert len(list(repeats.warnings(strict, task_of(strict), "hgpo"))) == 1


def test_a_run_longer_than_the_limits_of_epochs_is_refused_with_the_steps_that_fit(config):
  limited = replaced(config, {"data.epochs": {"*": 1.0}})
  with pytest.raises(ValueError, match=r"data.epochs allow 40 rows of proofs, contests.*steps=5"):
    list(repeats.warnings(limited, task_of(limited), "hft"))
  fitting = replaced(limited, {"hft.steps": 2})
  assert not list(repeats.warnings(fitting, task_of(fitting), "hft"))
