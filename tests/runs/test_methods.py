"""Methods by name: each is a config that trains, through the loop of the real job."""

import ast
import contextlib
import dataclasses
import functools
import math
import pathlib
import re
from types import SimpleNamespace

import jax
import pytest

from experiments import hgpo
from lhrm_jax.objectives import advantages
from lhrm_jax.policy import init
from lhrm_jax.registry import UnknownName
from lhrm_jax.runs import methods, setup
from lhrm_jax.runs.config import from_config_dict
from lhrm_jax.runs.metric_writer import SilentWriter
from lhrm_jax.training.rollout_logprobs import make_score
from tests.runs.test_fuzzed_configs import tiny

ROOT = pathlib.Path(__file__).parents[2]
ROW = r"^\| (`[^|]*) \| (\w+) \| ([^|]*) \|$"  # names, modes, knobs
KNOB = r"`(\w+)=([^`]+)`"


def of(method):
  """A tiny config with the method's overrides, checked."""
  config = tiny()
  config.update_from_flattened_dict({
    "hgpo.steps": 2, "hgpo.reward_workers": 1,
    "data.max_response_tokens": 9, "hgpo.delta": 0.4, **methods.overrides(method),
  })  # fmt: skip
  return config


@pytest.fixture(scope="module")
def run():
  config = of("grpo")
  config.init_from, config.compilation_cache = "", ""
  made = setup.make(config)
  params = jax.jit(init, static_argnums=0)(made.policy_config, jax.random.key(0))
  return dataclasses.replace(made, params=params)


class Writer(SilentWriter):
  """Keeps the metrics of every step."""

  def __init__(self):
    self.rows = []

  def scalars(self, stage, step, values):
    self.rows.append(values)


class StandIn(SimpleNamespace):
  """A stage and a report that keep nothing on disk but the logs."""

  def __init__(self, workdir):
    (workdir / "rollouts").mkdir()
    profiler = contextlib.nullcontext(SimpleNamespace(step=lambda _: None))
    guard = SimpleNamespace(check=lambda *_: None)
    super().__init__(
      workdir=workdir, start=0, guard=guard, profiler=profiler, writer=Writer(), evaluator=None,
      begin=lambda _, fresh: fresh(), reference=lambda start: start,
      save_start=lambda _: None, end_step=lambda *_, **__: None, wait=lambda: None,
      first_step=dict,
    )  # fmt: skip


@pytest.mark.parametrize("method", methods.names())
def test_a_method_is_a_config(method):
  from_config_dict(of(method))


@pytest.mark.slow  # an update of its own is compiled for each
@pytest.mark.parametrize("method", methods.names())
def test_a_method_trains(method, run, tmp_path, monkeypatch):
  monkeypatch.setattr(hgpo, "make_score", functools.cache(make_score))
  stand_in = StandIn(tmp_path)
  run = dataclasses.replace(run, config=from_config_dict(of(method)))
  step, _ = hgpo.train(run, stand_in, run.params, stand_in)
  assert step == len(stand_in.writer.rows) == 2
  for metrics in stand_in.writer.rows:
    assert all(math.isfinite(x) for x in metrics.values()) and not metrics["skipped"]
  samples = metrics["rollout/samples_total"]
  assert (
    samples == 32 if "refill/rounds" not in metrics and method != "adapt_think" else samples > 32
  )
  thoughts = (tmp_path / "rollouts" / "reference.jsonl").exists()
  assert thoughts == ("ref_accuracy" in advantages.context_of(run.config.hgpo.advantage))


def test_the_page_of_algorithms_tells_what_each_method_sets():
  """Of every method there is a row; a knob that it does not name is off, or PPO's."""
  page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
  told = {}
  for names, modes, knobs in re.findall(ROW, page, re.MULTILINE):
    stated = {f"hgpo.{key}": ast.literal_eval(value) for key, value in re.findall(KNOB, knobs)}
    told |= {name: (modes, knobs, stated) for name in re.findall(r"`(\w+)`", names)}
  assert set(methods.names()) <= told.keys()
  for name in methods.names():
    (modes, knobs, stated), values = told[name], methods.overrides(name)
    assert values["hgpo.pairing"] == modes
    if name.startswith("hgpo"):
      continue
    off = {f"hgpo.{key}": 0.0 for key in ("beta", "entropy_bonus", "refill", "ddof")}
    clip = {"hgpo.clip_low": 0.2, "hgpo.clip_high": 0.2}
    expected = {**off, **clip, **stated}
    assert {key: values.get(key, 0) for key in expected} == expected
    assert values["hgpo.aggregation"] in knobs


def test_the_nearest_method_is_named():
  with pytest.raises(UnknownName, match="did you mean 'dr_grpo'"):
    methods.overrides("drgrpo")
