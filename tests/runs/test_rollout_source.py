"""Queries without signal, a reference that moves, and its accuracy: resumed, a run is the same."""

import contextlib
import json
import shutil
from concurrent.futures import Future

import numpy as np
import pytest

from experiments import hgpo
from lhrm_jax.objectives import advantages
from lhrm_jax.objectives.group_advantages import has_signal, one_group
from lhrm_jax.objectives.masked import group_normalise
from lhrm_jax.rewards import scoring
from lhrm_jax.runs import checkpoints, rollouts, saved_arrays
from lhrm_jax.runs.metric_writer import read_metrics
from lhrm_jax.runs.reporting import Reporting
from tests.runs.test_older_runs import WRITTEN, cache, config, job  # noqa: F401, a fixture

STEPS, CUT = 4, 3
MEASURED = ("time/", "perf/compile", "perf/tokens", "perf/mfu", "perf/decode", "perf/peak")


class OddLengths(contextlib.nullcontext):
  """Scores responses of an odd length 1, whatever they say."""

  def __init__(self, _):
    super().__init__(self)

  def start(self, rows, sampled, texts):
    assert len(texts) == len(rows) * sampled.lengths[0].size
    scores = (sampled.lengths % 2).astype(np.float32)
    done = Future()
    done.set_result(scoring.Judgements(scores, {}, None))
    return done

  def wait(self, futures):
    return scoring.merged([future.result() for future in futures])

  def take_seconds(self):
    return 0.0


def logged(workdir):
  """What the run left: metrics but for times, rollouts, accuracies, parameters."""
  rows = [
    {name: x for name, x in row.items() if not name.startswith(MEASURED)}
    for row in read_metrics(workdir, "hgpo")
  ]
  texts = [(workdir / "rollouts" / f"{name}.jsonl").read_text() for name in ("train", "reference")]
  newest = checkpoints.newest(workdir / "checkpoints" / "hgpo")
  arrays = [saved_arrays.load_arrays(newest, name) for name in ("params", "reference")]
  return rows, texts, [x.tobytes() for tree in arrays for _, x in sorted(tree.items())]


@pytest.mark.slow
def test_a_resumed_run_is_the_one_left_alone(tmp_path, cache, monkeypatch):  # noqa: F811
  monkeypatch.setattr(advantages.REGISTRY, "entries", dict(advantages.REGISTRY.entries))
  monkeypatch.setattr(Reporting, "evaluate", lambda *_: None)
  monkeypatch.setattr(rollouts, "make_scorer", OddLengths)
  found = []

  @advantages.register("above_reference")
  def above_reference(scores, *, ref_accuracy):
    assert np.isfinite(ref_accuracy).all() and ref_accuracy.shape == (len(scores),)
    found.append(one_group(group_normalise(scores, (1, 2)) * (1 + ref_accuracy)[:, None, None]))
    return found[-1]

  settings = config(
    cache, init_from=str(WRITTEN), hft__steps=1000, hgpo__steps=STEPS, hgpo__pairing="mixed",
    hgpo__advantage="above_reference", hgpo__refill=2, hgpo__reference_every=2,
    hgpo__reference_samples=4, hgpo__learning_rate=1e-2, hgpo__samples_per_mode=1,
    hgpo__sampling_chunks=2, checkpoint__every=1, checkpoint__keep=9,
  )  # fmt: skip
  settings.hgpo.update(samples_per_mode=2, prompts_per_step=8)
  workdir = tmp_path / "run"
  job(hgpo, settings, workdir, monkeypatch)
  alone = logged(workdir)

  rows, (trained, reference), _ = alone
  lines = [json.loads(line) for line in trained.splitlines()]
  lengths = sum(len(line["token_ids"]) for line in lines)
  refilled = sum(int(row["refill/queries"]) for row in rows)
  assert len(lines) == STEPS * 8 * 4 and refilled > 0
  thoughts = 4 * len(reference.splitlines())
  assert rows[-1]["rollout/samples_total"] == len(lines) + 4 * refilled + thoughts
  assert rows[-1]["rollout/tokens_total"] > lengths + refilled * 4 + thoughts
  # The last call of each step saw what was trained on.
  # It was tried out once before.
  assert len(found) == 1 + STEPS + sum(int(row["refill/rounds"]) for row in rows)
  silent = sum(int((~np.asarray(has_signal(a))).sum()) for a in found)
  assert silent >= refilled
  assert rows[2]["kl"] < 1e-6 < rows[1]["kl"] and rows[3]["kl"] > 1e-6, "step 3 has a new reference"

  shutil.rmtree(workdir / "checkpoints" / "hgpo" / str(STEPS))
  job(hgpo, settings, workdir, monkeypatch)
  assert logged(workdir) == alone
