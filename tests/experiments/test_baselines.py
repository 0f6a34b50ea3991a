"""The paper's baselines in small: HFT, rollouts sampled once, DPO and RFT on them, as one chain."""

import itertools
import json
import shutil
import types

import jax
import numpy as np
import pytest

from experiments import dpo, evaluate, hft, rft, rollouts, routers
from experiments.configs import arithmetic
from lhrm_jax import parallel, policy, routing
from lhrm_jax.errors import UserError
from lhrm_jax.evaluation import samples
from lhrm_jax.runs import loading, saved_arrays
from lhrm_jax.runs.metric_writer import read_metrics
from lhrm_jax.runs.preemption import Preempted

STEPS, PROMPTS, SAMPLES = 3, 16, 1
# A policy that finds the form of a direct answer within these steps, and the answer now and then.
# Evaluation and rollouts share their programs.
SMALL = {
  "policy.hidden_size": 16, "policy.intermediate_size": 24, "policy.num_layers": 1,
  "policy.num_heads": 2, "policy.num_kv_heads": 2,
  "hft.steps": 60, "hft.warmup_steps": 1, "hft.learning_rate": 2e-2, "hft.think_per_step": 2,
  "hft.no_think_per_step": 16, "hft.until.think": 0.0, "hft.until.no_think": 0.0,
  "hgpo.steps": STEPS, "hgpo.prompts_per_step": PROMPTS, "hgpo.samples_per_mode": SAMPLES,
  "hgpo.advantage": "grpo",
  "dpo.steps": 4, "dpo.pairs_per_step": 4, "dpo.learning_rate": 1e-3, "dpo.eval_every": 2,
  "dpo.packed_length": 128,
  "rft.steps": 2, "rft.responses_per_step": 8, "rft.learning_rate": 1e-3, "rft.eval_every": 0,
  "evaluation.prompts": PROMPTS, "evaluation.batch_prompts": PROMPTS,
  "evaluation.samples": SAMPLES, "checkpoint.every": 2,
}  # fmt: skip


def job(module, workdir, **changes):
  """Runs a job in this process."""
  config = arithmetic.get_config()
  config.update_from_flattened_dict({
    **SMALL, "compilation_cache": str(workdir.parent / "cache"),
    **{key.replace("__", "."): str(x) if key.endswith(("path", "from")) else x
       for key, x in changes.items()},
  })  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    for flag, value in (("_CONFIG", config), ("_WORKDIR", str(workdir))):
      patch.setattr(module, flag, types.SimpleNamespace(value=value), raising=False)
    module.main(())


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
  folder = tmp_path_factory.mktemp("chain")
  before = jax.config.jax_compilation_cache_dir
  start, sampled = folder / "hft", folder / "rollouts"
  job(hft, start)
  job(rollouts, sampled, init_from=start)
  for module, name in ((dpo, "dpo"), (rft, "rft")):
    job(module, folder / name, init_from=start, rollouts__path=sampled)
  yield folder
  jax.config.update("jax_compilation_cache_dir", before)


def arrays(folder, stage, step):
  path = folder / "checkpoints" / stage / str(step)
  return saved_arrays.load_arrays(path, "params") | saved_arrays.load_arrays(path, "training")


def lines_of(folder):
  files = sorted((folder / "rollouts").glob("*.jsonl"))
  return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_rollouts_are_what_hgpo_would_sample_at_its_start(chain):
  lines = lines_of(chain / "rollouts")
  assert len(lines) == STEPS * PROMPTS * 2 * SAMPLES
  assert {line["step"] for line in lines} == {1, 2, 3}
  assert len({line["prompt_id"] for line in lines}) == STEPS * PROMPTS
  assert 0 < sum(line["score"] for line in lines) < len(lines)
  run = loading.load_policy(str(chain / "hft"), parallel.make_mesh())
  assert {line["policy"] for line in lines} == {policy.fingerprint(run[2])}


@pytest.mark.parametrize(("stage", "steps"), [("dpo", 4), ("rft", 2)])
def test_every_job_trains_reports_and_counts_what_it_spent(chain, stage, steps):
  rows = [row for row in read_metrics(chain / stage, stage) if "loss" in row]
  assert [row["step"] for row in rows] == list(range(1, steps + 1))
  lines = lines_of(chain / "rollouts")
  spent = (
    {row["rollout/samples_total"] for row in rows},
    {row["rollout/tokens_total"] for row in rows},
  )
  assert spent == ({len(lines)}, {sum(len(line["token_ids"]) for line in lines)})
  assert [row["updates"] for row in rows] == list(range(1, steps + 1))
  flops = [row["perf/flops_total"] for row in rows]
  assert flops[0] > 0 and all(before < after for before, after in itertools.pairwise(flops))
  summary = json.loads((chain / stage / "report" / "summary.json").read_text())
  assert list(summary["stages"]) == ["hft", stage]
  assert loading.find_checkpoint(str(chain / stage))[1].parts[-2:] == (stage, str(steps))
  before, after = arrays(chain / stage, stage, 0), arrays(chain / stage, stage, steps)
  assert any((before[name] != after[name]).any() for name in before)


def test_dpo_bears_the_names_of_trl_and_starts_from_the_reference(chain):
  rows = [row for row in read_metrics(chain / "dpo", "dpo") if "loss" in row]
  assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)
  assert rows[-1]["loss"] < rows[0]["loss"]
  assert {
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
    "logps/rejected", "entropy", "pairs/total", "pairs/chosen_think_frac", "epoch",
  } <= set(rows[0])  # fmt: skip
  assert [
    row["step"] for row in read_metrics(chain / "dpo", "dpo") if "mode/think_rate" in row
  ] == [0, 2, 4]


def test_a_resumed_run_ends_where_it_did(chain, tmp_path):
  """One that lost its last two steps."""
  (tmp_path / "cache").symlink_to(chain / "cache")
  again = shutil.copytree(chain / "dpo", tmp_path / "dpo")
  shutil.rmtree(again / "checkpoints" / "dpo" / "4")
  job(dpo, again, init_from=chain / "hft", rollouts__path=chain / "rollouts")
  one, other = arrays(chain / "dpo", "dpo", 4), arrays(again, "dpo", 4)
  for name, value in one.items():
    np.testing.assert_array_equal(other[name], value, err_msg=name)

  def rows(folder):
    return [
      {name: x for name, x in row.items() if not name.startswith("time/")}
      for row in read_metrics(folder, "dpo")
    ]

  assert rows(again) == rows(chain / "dpo")


def test_sampling_resumes_at_the_step_that_is_missing_and_refuses_another_config(chain, tmp_path):
  (tmp_path / "cache").symlink_to(chain / "cache")
  again = shutil.copytree(chain / "rollouts", tmp_path / "again")
  missing = again / "rollouts" / "step-00000002.jsonl"
  before = missing.read_text()
  missing.unlink()
  (missing.parent / "step-00000002.tmp").write_text("half of a li")
  with pytest.raises(UserError, match=r"hgpo\.temperature: 1\.0 -> 0\.5"):
    job(rollouts, again, init_from=chain / "hft", hgpo__temperature=0.5)
  job(rollouts, again, init_from=chain / "hft")
  assert missing.read_text() == before
  assert len(lines_of(again)) == len(lines_of(chain / "rollouts"))


def test_sampling_that_is_asked_to_end_keeps_what_it_has(chain, tmp_path, monkeypatch):
  (tmp_path / "cache").symlink_to(chain / "cache")
  monkeypatch.setattr("lhrm_jax.runs.preemption.Preemption.reached", lambda self, step: step == 1)
  with pytest.raises(Preempted, match="step 1 is saved"):
    job(rollouts, tmp_path / "run", init_from=chain / "hft")
  assert len(lines_of(tmp_path / "run")) == PROMPTS * 2 * SAMPLES


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"rollouts__path": ""}, r"dpo trains on rollouts: --config\.rollouts\.path=DIR"),
    ({"init_from": ""}, r"Name the run to start from: --config\.init_from=RUN"),
    ({"rollouts__max_samples": 1}, "no query is left to train on, within rollouts.max_samples"),
    ({"dpo__packed_length": 9}, r"dpo\.packed_length=9 is less than the \d+ places"),
  ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_training(chain, tmp_path, changes, message):
  (tmp_path / "cache").symlink_to(chain / "cache")
  options = {"init_from": chain / "hft", "rollouts__path": chain / "rollouts", **changes}
  with pytest.raises(UserError, match=message):
    job(dpo, tmp_path / "run", **options)


def test_rollouts_of_another_policy_are_refused(chain, tmp_path):
  (tmp_path / "cache").symlink_to(chain / "cache")
  with pytest.raises(UserError, match="and training starts from"):
    job(rft, tmp_path / "run", init_from=chain / "dpo", rollouts__path=chain / "rollouts")


def test_a_folder_of_another_training_run_is_refused(chain):
  options = {"init_from": chain / "hft", "rollouts__path": chain / "rollouts"}
  with pytest.raises(UserError, match=r"holds a training run \(dpo\)"):
    job(rft, chain / "dpo", **options)
  with pytest.raises(UserError, match=r"rollouts\.path=.* lies in --workdir"):
    job(rft, chain / "rollouts", **options)


def test_a_trained_baseline_is_evaluated_like_any_run(chain, tmp_path):
  (tmp_path / "cache").symlink_to(chain / "cache")
  job(evaluate, tmp_path / "e", init_from=chain / "dpo")
  again = json.loads((tmp_path / "e" / "report" / "summary.json").read_text())["stages"]["dpo"]
  first = json.loads((chain / "dpo" / "report" / "summary.json").read_text())["stages"]["dpo"]
  assert again == first


@pytest.mark.slow
def test_routers_learn_from_the_rollouts_and_are_compared_with_the_policy(chain):
  """Every file is there, reads back, and a swept budget has samples of its own."""
  folder = chain / "routers"
  budgets = {"evaluation__budgets": (4,)}
  job(routers, folder, init_from=chain / "hft", rollouts__path=chain / "rollouts", **budgets)
  beside = folder / "evaluation" / "hft"
  compared = json.loads((beside / "routing.json").read_text())
  assert compared["trained_on"]["prompts"] == STEPS * PROMPTS
  assert set(compared["routers"]) >= {"policy", "tag", "oracle", *routing.names()}
  assert all(routing.load(folder / "routers" / f"{name}.json").thresholds
             for name in routing.names())  # fmt: skip
  thresholds = routing.load_thresholds(beside / "thresholds.json")
  assert thresholds.prompts == STEPS * PROMPTS and thresholds.at(1.0) == 0.0
  dials = json.loads((beside / "dials.json").read_text())
  assert [point["budget"] for point in dials["budget"]] == [4, 0]
  cut = [sample for sample in samples.read_samples(beside) if sample.dial == {"budget": 4}]
  assert len(cut) == PROMPTS * 2 * SAMPLES
  summary = json.loads((beside.with_suffix(".json")).read_text())["summary"]
  assert {"calibration", "mode_leak"} <= set(summary)
  with pytest.raises(UserError, match="Name the policy, and its rollouts"):
    job(routers, folder, init_from=chain / "hft")
