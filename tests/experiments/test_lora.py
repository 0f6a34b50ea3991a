"""Low-rank adapters through a run: stopped and resumed, each stage after the other."""

import json

import jax
import numpy as np
import pytest

from experiments import evaluate, hgpo
from lhrm_jax import parallel, policy
from lhrm_jax.policy import lora
from lhrm_jax.runs import loading, saved_arrays
from lhrm_jax.runs.preemption import Preempted, Preemption
from tests.experiments.test_baselines import job
from tests.runs import test_policy_settings

pytestmark = pytest.mark.slow
SMALL = {
  "policy__lora_rank": 2, "hgpo__steps": 3, "hgpo__prompts_per_step": 2,
  "hgpo__learning_rate": 1e-2, "hgpo__reference_every": 2, "evaluation__prompts": 2,
  "evaluation__batch_prompts": 2, "checkpoint__every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """A run of a policy without adapters, without a step of training."""
  before = jax.config.jax_compilation_cache_dir
  path = tmp_path_factory.mktemp("runs") / "start"
  test_policy_settings.write_run(path, test_policy_settings.small())
  yield path
  jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="module")
def alone(start):
  job(hgpo, start.with_name("alone"), init_from=start, **SMALL)
  return start.with_name("alone")


def arrays(folder, step):
  path = folder / "checkpoints" / "hgpo" / str(step)
  return [saved_arrays.load_arrays(path, name) for name in ("params", "training", "reference")]


def test_a_run_that_was_stopped_ends_like_the_one_left_alone(start, alone, monkeypatch):
  folder = start.with_name("stopped")
  with monkeypatch.context() as patch:
    patch.setattr(Preemption, "reached", lambda self, step: step == 2)
    with pytest.raises(Preempted, match="hgpo step 2 is saved"):
      job(hgpo, folder, init_from=start, **SMALL)
  start.rename(start.with_name("gone"))  # a run holds the policy that its adapters belong to
  try:
    job(hgpo, folder, init_from=start, **SMALL)
  finally:
    start.with_name("gone").rename(start)
  for found, expected in zip(arrays(folder, 3), arrays(alone, 3), strict=True):
    assert found.keys() == expected.keys()
    for name in found:
      np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
  moved = arrays(alone, 3)[0]
  assert not [name for name in moved if "kernel" in name]
  assert any(x.any() for name, x in moved.items() if "lora_b" in name)


def test_a_later_run_continues_the_adapters_and_keeps_their_policy(start, alone):
  folder = start.with_name("later")
  job(hgpo, folder, init_from=alone, **{**SMALL, "hgpo__steps": 1, "hgpo__learning_rate": 0.0})
  _, _, params = loading.load_policy(str(folder), parallel.make_mesh())
  _, _, before = loading.load_policy(str(alone), parallel.make_mesh())
  assert policy.fingerprint(params) == policy.fingerprint(before)
  _, _, base = loading.load_policy(str(start), parallel.make_mesh())
  assert policy.fingerprint(lora.split(params)[1]) == policy.fingerprint(base)


def test_an_evaluation_without_keys_of_the_adapters_reads_them(alone):
  folder = alone.with_name("evaluated")
  options = {name: x for name, x in SMALL.items() if name.startswith("evaluation")}
  job(evaluate, folder, init_from=alone, **options)
  assert json.loads((folder / "policy" / "config.json").read_text())["lora_rank"] == 2
  assert not (folder / "policy" / "base").exists()
