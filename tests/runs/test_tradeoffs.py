"""What an evaluation's folder gets beside its samples: dials, routers, drift of direct replies."""

import dataclasses
import json
import types

import numpy as np
import pytest

from lhrm_jax import routing
from lhrm_jax.errors import UserError
from lhrm_jax.evaluation import EvaluationConfig, Measured, Replies, samples
from lhrm_jax.runs import tradeoffs
from tests.evaluation.test_routers import LENGTHS, SCORES

PROMPTS = ["What is 3+4*7?", "What is 3*4*7+1?", "Hello!", "Name it."]
FREE = ["think", "think", "no_think", ""]  # modes; the last is malformed
FIRST = [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.3, 0.7, 0.0], [0.2, 0.8, 0.0]]


def evaluation(folder, *, longer=1, prompts=PROMPTS, leave_out=()):
  """Writes an evaluation of four prompts, two forced replies per mode and a free one."""
  records = [
    samples.PromptRecord(i, "demo", prompt, "7", 1, "", "demo", *FIRST[i])
    for i, prompt in enumerate(prompts)
  ]
  samples.write_prompts(folder, records)
  log = samples.open_log(folder, resume=False)
  whole = samples.Sample(0, "free", 0, 0, "think", 1.0, 3, "stop", True, False, "x", [1, 2, 3], 0.1)
  for i, mode in enumerate(FREE):
    log.append([dataclasses.replace(whole, prompt_id=i, mode=mode, well_formed=bool(mode))])
  for i, m, n in np.ndindex(SCORES.shape):
    name = ("think", "no_think")[m]
    forced = dataclasses.replace(
      whole, prompt_id=i, pass_name=name, mode=name, sample=n, score=SCORES[i, m, n],
      tokens=int(LENGTHS[i, m, n]) * (longer if m else 1), text=f"<{name}>wait {n}",
    )  # fmt: skip
    # With another dial, as a sweep of budgets adds them: not read as the policy's own.
    turned = dataclasses.replace(forced, dial={"budget": 4}, score=-9.0)
    if (i, m, n) not in leave_out:
      log.append([turned, forced])
  return folder


def test_an_evaluation_is_read_back_as_arrays(tmp_path):
  found = tradeoffs.Evaluated.read(evaluation(tmp_path))
  assert found.prompts == PROMPTS
  np.testing.assert_array_equal(found.scores, SCORES)
  np.testing.assert_array_equal(found.lengths, LENGTHS)
  np.testing.assert_array_equal(found.chosen, [[0], [0], [1], [-1]])
  np.testing.assert_array_equal(found.first, FIRST)
  assert found.direct[3].tolist() == ["<no_think>wait 0", "<no_think>wait 1"]


def test_an_evaluation_with_missing_replies_is_refused(tmp_path):
  evaluation(tmp_path, leave_out={(2, 1, 1)})
  with pytest.raises(UserError, match=r"replies are missing. Run the evaluation's command"):
    tradeoffs.Evaluated.read(tmp_path)


def test_routers_are_compared_on_the_files_of_an_evaluation(tmp_path):
  examples = routing.Examples(PROMPTS[:2], np.array([True, False]), np.array([1.0, 0.0]))
  trained = [routing.train(name, examples) for name in ("keywords", "always", "random")]
  returned = tradeoffs.write_comparison(evaluation(tmp_path), trained, 0.0, examples)
  written = json.loads((tmp_path / "routing.json").read_text())
  assert written == returned
  assert written["trained_on"] == {"prompts": 2, "evaluation_prompts_seen": 2}
  by = written["routers"]
  assert by["policy"]["point"]["hacc"] == 0.75 and written["think_rate"] == 0.5
  # Two prompts have operations; the third and fourth tie at nothing.
  assert by["keywords"]["point"]["hacc"] == 1.0 and by["keywords"]["point"]["accuracy"] == 1.0
  assert by["random"]["point"]["accuracy"] == 0.75, "chance itself, not one draw per prompt"
  assert any(remark.startswith("keywords beats") or remark.startswith("keywords matches")
             for remark in written["remarks"])  # fmt: skip
  with pytest.raises(UserError, match=r"prompts.jsonl"):
    tradeoffs.write_comparison(tmp_path / "none", trained, 0.0, examples)


def test_drift_of_direct_replies_is_since_an_earlier_stage_on_the_same_prompts(tmp_path):
  before, after = evaluation(tmp_path / "hft"), evaluation(tmp_path / "hgpo", longer=3)
  found = tradeoffs.drift_since(before, after)["mode_leak"]
  assert found["drift"] == pytest.approx(3.0) and found["marker_rate"] == 1.0
  assert tradeoffs.drift_since(after, after) == {}
  assert tradeoffs.drift_since(tmp_path / "none", after) == {}
  other = evaluation(tmp_path / "other", prompts=["a", "b", "c", "d"])
  assert tradeoffs.drift_since(other, after) == {}


def test_dials_are_swept_with_the_budgets_of_the_config():
  def replies(scores, lengths):
    shape = scores.shape
    return Replies(scores, lengths, np.zeros(shape, int), np.ones(shape, bool), np.empty(shape))

  forced, free = replies(SCORES, LENGTHS), replies(SCORES[:, :1, :1], LENGTHS[:, :1, :1])
  asked = []

  def with_budget(params, budget, log):
    asked.append((params, budget, log))
    return replies(SCORES * [[[0.5], [1]]], np.minimum(LENGTHS, budget))

  evaluator = types.SimpleNamespace(
    settings=EvaluationConfig(budgets=(6, 4)), with_budget=with_budget
  )
  measured = Measured(free, forced, forced, np.array(FIRST))
  found = tradeoffs.swept_dials(evaluator, measured, "params", "log")
  assert asked == [("params", 6, "log"), ("params", 4, "log")]
  assert set(found) == {"tag_bias", "threshold", "budget", "budget_think"}
  assert [point["budget"] for point in found["budget"]] == [4, 6, 0]
  assert found["budget"][1]["tokens"] == 6.0 and found["budget"][1]["think_rate"] == 1.0
  plain = types.SimpleNamespace(settings=EvaluationConfig())
  assert set(tradeoffs.swept_dials(plain, measured, None, None)) == {"tag_bias", "threshold"}
