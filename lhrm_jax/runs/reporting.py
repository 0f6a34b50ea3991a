"""Metric files, evaluations and the final report of every job."""

import hashlib
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lhrm_jax import parallel, policy
from lhrm_jax.config import flatten
from lhrm_jax.evaluation import EvaluationConfig, Evaluator, Measured, figures, samples
from lhrm_jax.evaluation.overlap import overlap
from lhrm_jax.evaluation.report import evaluation_figures, finite, write_report
from lhrm_jax.runs import evaluated, policy_settings, setup, tradeoffs, validation
from lhrm_jax.runs.config import HFT, HGPO, KNOBS, STAGES, Config, plain
from lhrm_jax.runs.json_files import read_json, write_json
from lhrm_jax.runs.metric_writer import FINAL, MetricWriter, SilentWriter, read_metrics
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.run_folder import RunFolder, warn
from lhrm_jax.runs.versions import current_versions
from lhrm_jax.text import tags
from lhrm_jax.text.characters import printable

_SAMPLES_PER_LEVEL = 3
# Hyperparameters shown even at their defaults.
_ALWAYS = ("seed", "hgpo.advantage", "hgpo.alpha", "hgpo.beta", "hgpo.delta", "hgpo.learning_rate",
           "hgpo.samples_per_mode")  # fmt: skip
_DIGEST = "sha256"  # checksum of everything else in evaluation/STAGE.json
# Config keys that an evaluation depends on, beside the policy's stage and step.
_DECIDING = ("evaluation", "data", "task", "reward", "reward_weights")


class Reporting:
  """Collects what a job measures and, as a context manager, writes the report on leaving.

  Attributes:
    writer: writer of the metrics.
    evaluator: evaluator on the task's held-out prompts.
  """

  def __init__(
    self, run: setup.Setup, folder: RunFolder, preemption: Preemption, stages: Sequence[str]
  ):
    self._run, self._workdir, self._metric_stages = run, folder.path, stages
    self._preemption = preemption
    self._stages: dict[str, Any] = {}
    self._seconds: dict[str, float] = {}
    self._started = time.perf_counter()
    self._kept: dict[str, dict[str, Any]] = {}
    self._notes = list(run.task.notes)
    self._overlaps: dict[str, Any] | None = None
    if parallel.is_writer():
      self.writer = MetricWriter(self._workdir, plain(run.config), hyperparameters(run.config))
    else:
      self.writer = SilentWriter()
    self.evaluator = run.evaluator()

  def __enter__(self) -> "Reporting":
    if parallel.is_writer():
      print(f"TensorBoard: {tensorboard_command(self._workdir / 'tensorboard')}", flush=True)
    return self

  def __exit__(self, error_type, *_) -> None:
    self.writer.close()
    self.evaluator.close()
    if not self._stages or error_type is not None or not parallel.is_writer():
      return
    this_process = time.perf_counter() - self._started
    self._seconds["total"] = max(this_process, sum(self._seconds.values()))
    if HGPO in self._stages:
      self._notes += validation.notes(self._run.config)
    summary = {
      "stages": self._stages,
      "seconds": self._seconds,
      "config": plain(self._run.config),
      "versions": current_versions(),
      "notes": self._notes,
    }
    metrics = {stage: read_metrics(self._workdir, stage) for stage in self._metric_stages}
    page = write_report(self._workdir / "report", summary, metrics, self._kept)
    self._print_table()
    print(f"Report:      {page}", flush=True)

  def took(self, part: str, seconds: float) -> None:
    """Adds a part's wall seconds to the report."""
    self._seconds[part] = self._seconds.get(part, 0.0) + seconds

  def note(self, text: str) -> None:
    """Prints a remark on the run and adds it to the report."""
    self._notes.append(text)
    if parallel.is_writer():
      print(text, flush=True)

  def evaluate(self, stage: str, step: int, params: policy.Params) -> dict[str, Any]:
    """Evaluates a stage's policy for the report and returns the summary.

    Every sample is kept in `evaluation/STAGE/` as it is made (`evaluation.samples`). A resumed run
    samples only what is missing there, and reads an evaluation that it has already made from
    `evaluation/STAGE.json`.

    Args:
      stage: stage that trained the policy.
      step: training step of the parameters.
      params: parameters of the policy.
    """
    path = self._workdir / "evaluation" / f"{stage}.json"
    config = plain(self._run.config)
    numerics = {name: config["policy"][name] for name in policy_settings.NUMERICS}
    key = {"step": step, "policy": numerics, **{name: config[name] for name in _DECIDING}}
    key |= {"parameters": policy.fingerprint(params), "prompts": self.evaluator.fingerprint()}
    if config["reward_by_source"] or config["reward_model"]["init_from"]:
      key |= {name: config[name] for name in ("reward_by_source", "reward_model")}
    found = kept_evaluation(path)
    if with_defaults(found.get("key"), key) != key:
      found = self._measure(path.with_suffix(""), key, params)
      if parallel.is_writer():
        keep_evaluation(path, found)
    self.took("evaluation", found["seconds"])
    if failed := found.get("failed"):
      reasons = ", ".join(f"{reason}: {count:,}" for reason, count in failed.items())
      self.note(
        f"{stage}: {sum(failed.values()):,} replies could not be judged and score 0 ({reasons})."
      )
    self._stages[stage], self._kept[stage] = found["summary"], found
    self._log(stage, step, found["summary"])
    return found["summary"]

  def _measure(
    self, folder: pathlib.Path, key: dict[str, Any], params: policy.Params
  ) -> dict[str, Any]:
    """An evaluation, whose samples go into `folder`."""
    began, sampled = time.perf_counter(), self.evaluator.generation_seconds
    params = self._run.sampling_params(params)
    log = open_log(folder, key) if parallel.is_writer() else None
    with self._preemption.interruptible():
      first = self.evaluator.first_tokens(params)
      if parallel.is_writer():
        samples.write_prompts(folder, self.evaluator.prompt_records(*first))
      measured = self.evaluator.measure(params, log, first)
      dials = tradeoffs.swept_dials(self.evaluator, measured, params, log)
    found = {
      "key": key,
      "summary": self.evaluator.summary(measured) | {"overlap": self._overlap()},
      "samples": sample_replies(self.evaluator, measured),
      "by_prompt": self.evaluator.by_prompt(measured),
      "seconds": time.perf_counter() - began,
      "generation_seconds": self.evaluator.generation_seconds - sampled,
      "failed": measured.failed,
      "seconds_per_reply": {
        name: float(of.seconds.mean())
        for name, of in (("free", measured.auto), ("forced", measured.forced))
      },
    }
    if parallel.is_writer():
      write_json(folder / tradeoffs.DIALS, dials)
      found |= tradeoffs.drift_since(folder.with_name(HFT), folder)
    return finite(found)  # now, so that a resumed run reads back the same values

  def _overlap(self) -> dict[str, Any] | None:
    """Overlap of the evaluation prompts with the training data; `None` where none is named."""
    if self._overlaps is None:
      texts = evaluated.training_texts(self._run.config, self._run.task)
      if texts is not None:
        self._overlaps = overlap([row.prompt for row in self.evaluator.rows], texts)
    return self._overlaps

  def _log(self, stage: str, trained: int, summary: dict[str, Any]) -> None:
    step = STAGES.index(stage)
    if any(row["step"] == step for row in read_metrics(self._workdir, "evaluation")):
      return  # an earlier process logged it
    by_prompt = self._kept[stage].get("by_prompt") or {}  # absent from older runs
    for name, (figure, _) in evaluation_figures(self._stages, by_prompt).items():
      self.writer.figure(stage, f"final/{name}", figures.to_pixels(figure), trained)
    hacc = {
      f"hacc/{name}": value
      for name, value in summary["hacc"].items()
      if name != "interval" and value is not None
    }
    first = summary.get("first_token", {})  # absent from older runs
    by_level = {f"level_{level}": values for level, values in first.get("by_level", {}).items()}
    neither = {
      f"mode/neither_prob{place}": values["neither"]
      for place, values in {"": first, **{f"/{k}": v for k, v in by_level.items()}}.items()
      if values
    }
    rates = {f"mode/{name}": rate for name, rate in summary["auto"].get("form", {}).items()}
    self.writer.log("evaluation", step, hacc | neither | rates)
    free = [summary["auto"][name] for name in ("accuracy", "mean_tokens", "think_rate")]
    final = dict(zip(FINAL, (summary["hacc"]["score"], *free), strict=True))
    self.writer.show(stage, trained, {k: v for k, v in final.items() if v is not None})

  def _print_table(self) -> None:
    print(
      f"\n{'':22}{'accuracy':>10}{'tokens':>9}{'think rate':>12}{'malformed':>11}{'HAcc':>8}"
      f"{'sampled':>9}{'p(neither)':>12}"
    )
    for stage, summary in self._stages.items():
      for mode in ("auto", *tags.MODES):
        values = summary[mode]
        hacc = ""
        if mode == "auto":
          expected, first = summary["hacc"].get("expected_score"), summary.get("first_token")
          hacc = f"{summary['hacc']['score']:8.3f}"
          hacc += "" if expected is None else f"{expected:9.3f}"
          hacc += f"{first['neither']:12.4f}" if first else ""
        malformed = values.get("malformed_rate", float("nan"))
        print(
          f"{stage:6}{mode:16}{values['accuracy']:10.3f}{values['mean_tokens']:9.1f}"
          f"{values['think_rate']:12.3f}{malformed:11.3f}{hacc}"
        )
    print(f"\n{json.dumps({k: round(v, 1) for k, v in self._seconds.items()})} seconds")


def hyperparameters(config: Config) -> dict[str, Any]:
  """Returns the settings TensorBoard compares runs by: those off their default, and HGPO's own."""
  return {
    key: value
    for key, value in flatten(config, KNOBS)
    if isinstance(value, bool | int | float | str)
    and (key in _ALWAYS or value != KNOBS[key].default)
  }


def tensorboard_command(folder: pathlib.Path) -> str:
  """Returns the command that shows a folder, whether or not the environment is activated."""
  program = pathlib.Path(sys.executable).with_name("tensorboard")
  name = str(program) if program.exists() else f"{sys.executable} -m tensorboard.main"
  return f"{name} --logdir {shlex.quote(str(folder))}"


def open_log(folder: pathlib.Path, key: dict[str, Any]) -> samples.SampleLog:
  """Opens an evaluation's samples, with those that an earlier process made under the same key."""
  path = folder / "key.json"
  try:
    if path.exists() and read_json(path) == key:
      return samples.open_log(folder, resume=True)
  except (OSError, ValueError) as error:
    warn(f"{printable(str(error))}. The evaluation is repeated.")
  log = samples.open_log(folder, resume=False)
  for beside in (tradeoffs.ROUTING, tradeoffs.THRESHOLDS):  # of the samples that are gone
    (folder / beside).unlink(missing_ok=True)
  write_json(path, key)
  return log


def with_defaults(key: Any, now: Mapping[str, Any]) -> Any:
  """Returns the key of an evaluation that may be older than some of the knobs.

  Args:
    key: of the evaluation.
    now: of the present one, whose numerics, parameters and prompts count as those of an evaluation
      that recorded none.
  """
  if not isinstance(key, dict) or not isinstance(key.get("evaluation"), dict):
    return key
  evaluation = {**plain(EvaluationConfig()), **key["evaluation"]}
  since = {name: now[name] for name in ("policy", "parameters", "prompts")}
  return {**since, **key, "evaluation": evaluation}


def kept_evaluation(path: pathlib.Path) -> dict[str, Any]:
  """Returns an evaluation kept by an earlier process; empty if missing or damaged."""
  try:
    found = read_json(path)
    if not isinstance(found, dict) or found.get(_DIGEST, _digest(found)) != _digest(found):
      raise ValueError(f"{path} is damaged: its checksum does not match")
    return found
  except FileNotFoundError:
    return {}
  except (OSError, ValueError) as error:
    warn(f"{printable(str(error))}. The evaluation is repeated.")
    return {}


def keep_evaluation(path: pathlib.Path, found: dict[str, Any]) -> None:
  """Writes what `kept_evaluation` reads back."""
  found = {key: value for key, value in found.items() if key != _DIGEST}
  write_json(path, {**found, _DIGEST: _digest(found)})


def _digest(found: Any) -> str:
  rest = {key: value for key, value in found.items() if key != _DIGEST}
  return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sample_replies(evaluator: Evaluator, measured: Measured) -> list[dict[str, Any]]:
  """Returns a few prompts of each level with both forced replies and first-token probabilities."""
  forced, auto, first = measured.forced, measured.auto, measured.first
  seen: dict[int, int] = {}
  samples = []
  for i, row in enumerate(evaluator.rows):
    seen[row.level] = seen.get(row.level, 0) + 1
    if seen[row.level] > _SAMPLES_PER_LEVEL:
      continue
    mode = int(auto.modes[i, 0, 0])
    sample = {
      "level": row.level,
      "prompt": row.prompt,
      "answer": row.answer,
      "p_think": float(first[i, 0]),
      "p_neither": float(first[i, 2]),
      "chosen": tags.MODES[mode] if mode != tags.INVALID_MODE else "",
    }
    for m, name in enumerate(tags.MODES):
      sample[name] = forced.texts[i, m, 0]
      sample[f"{name}_right"] = bool(forced.scores[i, m, 0] > 0.5)
    samples.append(sample)
  return sorted(samples, key=lambda s: s["level"])
