"""A run folder written before configs were typed is evaluated, resumed and loaded."""

import json
import pathlib
import shutil
import types

import jax
import numpy as np
import pytest

from experiments import evaluate, hgpo
from experiments.configs import arithmetic
from lhrm_jax import parallel
from lhrm_jax.errors import UserError
from lhrm_jax.runs import checkpoints, loading, saved_arrays, setup
from lhrm_jax.runs.metric_writer import read_metrics
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.text import tags

WRITTEN = pathlib.Path(__file__).parents[1] / "fixtures" / "run_before_typed_configs"


@pytest.fixture
def older(tmp_path):
  """A copy of the run, whose config.json lacks keys that came last."""
  folder = shutil.copytree(WRITTEN, tmp_path / "run")
  saved = json.loads((folder / "config.json").read_text())
  del saved["judging"], saved["hgpo"]["advantage_options"], saved["hgpo"]["reward_scale"]
  (folder / "config.json").write_text(json.dumps(saved))
  return folder


def config(cache, **changes):
  """What the run was started with."""
  config = arithmetic.get_config()
  config.update_from_flattened_dict({
    "compilation_cache": str(cache), "policy.hidden_size": 16, "policy.intermediate_size": 24,
    "policy.num_layers": 1, "policy.num_heads": 2, "policy.num_kv_heads": 2, "hft.steps": 2,
    "hft.until.check_every": 100, "hft.think_per_step": 4, "hft.no_think_per_step": 4,
    "hft.warmup_steps": 1, "evaluation.prompts": 4, "evaluation.batch_prompts": 4,
    "evaluation.samples": 1, "hgpo.steps": 2, "hgpo.prompts_per_step": 4,
    "hgpo.samples_per_mode": 2, "hgpo.eval_every": 0, "checkpoint.keep": 1,
    **{key.replace("__", "."): value for key, value in changes.items()},
  })  # fmt: skip
  return config


def job(module, config, workdir, monkeypatch):
  """Runs a job in this process."""
  for flag, value in (("_CONFIG", config), ("_WORKDIR", str(workdir))):
    monkeypatch.setattr(module, flag, types.SimpleNamespace(value=value), raising=False)
  module.main(())


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """Where JAX keeps programs during one test."""
  before = jax.config.jax_compilation_cache_dir
  yield tmp_path / "cache"
  jax.config.update("jax_compilation_cache_dir", before)


def test_it_is_resumed_for_one_more_step(older, cache, monkeypatch):
  with pytest.raises(UserError, match=r"another config:\n  hgpo\.steps: 2 -> 3\nChoose another"):
    job(hgpo, config(cache, hgpo__steps=3), older, monkeypatch)
  evaluated = []
  monkeypatch.setattr(Reporting, "evaluate", lambda _, *of: evaluated.append(of[:2]))  # it is slow
  more = config(cache, hgpo__steps=3, allow_config_change="hgpo.steps")
  job(hgpo, more, older, monkeypatch)
  assert checkpoints.newest(older / "checkpoints" / "hgpo").name == "3"
  assert [row["step"] for row in read_metrics(older, "hgpo") if "loss" in row] == [1, 2, 3]
  assert evaluated == [("hft", 2), ("hgpo", 3)]


def test_it_is_evaluated_as_it_was(cache):
  run = setup.make(config(cache, init_from=str(WRITTEN)))
  replies = run.evaluator().forced(run.sampling_params(run.params))
  before = json.loads((WRITTEN / "evaluation" / "hgpo.json").read_text())["summary"]
  for m, mode in enumerate(tags.MODES):
    assert replies.lengths[:, m].mean() == before[mode]["mean_tokens"]
    assert replies.scores[:, m].mean() == before[mode]["accuracy"]


@pytest.mark.slow
def test_the_command_evaluates_it(cache, tmp_path, monkeypatch):
  job(evaluate, config(cache, init_from=str(WRITTEN)), tmp_path / "evaluation", monkeypatch)
  assert (tmp_path / "evaluation" / "report" / "index.html").exists()


def test_its_policy_is_loaded(older):
  policy_config, tokenizer, params = loading.load_policy(str(older), parallel.make_mesh())
  assert (policy_config.hidden_size, policy_config.vocab_size) == (16, tokenizer.vocab_size)
  saved = saved_arrays.load_arrays(older / "checkpoints" / "hgpo" / "2", "params")
  np.testing.assert_array_equal(params["embedding"], saved["embedding"])
