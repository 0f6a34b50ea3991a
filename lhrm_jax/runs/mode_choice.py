"""The think rate while a policy trains, and a note on what the settings reward."""

from typing import Any

from lhrm_jax import policy
from lhrm_jax.evaluation import Evaluator, figures
from lhrm_jax.objectives import mode_choice
from lhrm_jax.runs import validation
from lhrm_jax.runs.config import HGPO, Config
from lhrm_jax.runs.metric_writer import MetricWriter
from lhrm_jax.runs.setup import Setup


class ThinkRateWatch:
  """Evaluates the free choice of mode every few steps, and plots think rates over time.

  Args:
    run: objects of the job; its config sets the interval.
    evaluator: evaluator on the evaluation prompts.
    writer: writer of metrics and figures.
    logged: rows of metrics logged before a run was resumed.
    stage: the stage that trains.

  Attributes:
    latest: last think rate measured, by the name shown in the progress bar.
  """

  def __init__(
    self, run: Setup, evaluator: Evaluator, writer: MetricWriter, logged: list[dict[str, Any]],
    stage: str = HGPO,
  ):  # fmt: skip
    self._run, self._evaluator, self._writer, self._stage = run, evaluator, writer, stage
    self._history = [row for row in logged if "mode/think_rate" in row]
    self.latest: dict[str, float] = {}

  def due(self, step: int) -> bool:
    """Whether to measure after `step` steps; 0 is before the first step."""
    c = getattr(self._run.config, self._stage)
    if not c.eval_every:
      return False
    return (step % c.eval_every == 0 or step == c.steps) if step else not self._history

  def measure(self, step: int, params: policy.Params) -> dict[str, float]:
    """Logs and returns `free_metrics` for the parameters after `step` steps."""
    hacc = self._run.config.hgpo.eval_hacc
    metrics = free_metrics(self._evaluator, self._run.sampling_params(params), hacc=hacc)
    self._history.append({"step": step, **metrics})
    self._writer.scalars(self._stage, step, metrics)
    picture = figures.to_pixels(figures.think_rate_over_time(self._history))
    self._writer.figure(self._stage, "mode/think_rate_by_level", picture, step)
    self.latest = {"think rate": metrics["mode/think_rate"]}
    return metrics


def free_metrics(
  evaluator: Evaluator, params: policy.Params, *, hacc: bool = False
) -> dict[str, float]:
  """Returns metrics of the policy's free choice of mode on the evaluation prompts.

  Args:
    evaluator: of these prompts.
    params: the policy's.
    hacc: whether to sample both modes too, for `hacc/score`.
  """
  replies = evaluator.auto(params)
  values = evaluator.summarise(replies, 0)
  probs = evaluator.first_token_probs(params)
  first = evaluator.summarise_first_token(probs)
  metrics = {
    **{f"eval/failed/{reason}": count for reason, count in replies.failed.items()},
    "mode/think_rate": values["think_rate"],
    "eval/accuracy": values["accuracy"],
    "eval/mean_tokens": values["mean_tokens"],
    "eval/malformed_rate": values["malformed_rate"],
    "eval/neither_prob": first["neither"],
  }
  metrics |= {f"eval/{name}": rate for name, rate in values["form"].items()}
  for level, of_level in values["by_level"].items():
    metrics[f"mode/think_rate/level_{level}"] = of_level["think_rate"]
    metrics[f"eval/neither_prob/level_{level}"] = first["by_level"][level]["neither"]
  if len(values["by_source"]) > 1:  # e.g. the think rate on code while RL runs on mathematics
    for source, of_source in values["by_source"].items():
      name = f"source_{source or 'unnamed'}"
      metrics[f"mode/think_rate/{name}"] = of_source["think_rate"]
      metrics[f"eval/accuracy/{name}"] = of_source["accuracy"]
      metrics[f"eval/mean_tokens/{name}"] = of_source["mean_tokens"]
  if hacc:
    found = evaluator.hybrid_accuracy(replies, evaluator.judged(params), probs)
    metrics["hacc/score"] = found.score
  return metrics


def note(config: Config) -> str | None:
  """Returns the accuracy thinking needs to be chosen, for paired modes and scores of 0 or 1."""
  c = config.hgpo
  chooses = c.advantage == "hgpo" and c.pairing == "paired" and c.alpha
  if not (validation.binary_scores(config) and chooses):
    return None
  return mode_choice.describe(
    delta=c.delta, samples=c.samples_per_mode, skip_unsolved=c.skip_unsolved
  )
