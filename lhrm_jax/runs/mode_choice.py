"""Which mode a policy chooses: measured while it trains, and what the settings make of it."""

from typing import Any

from lhrm_jax import policy
from lhrm_jax.evaluation import Evaluator, figures
from lhrm_jax.objectives import mode_choice
from lhrm_jax.rewards import registry, rules
from lhrm_jax.runs.metric_writer import MetricWriter
from lhrm_jax.runs.setup import HGPO, Setup


class ThinkRateWatch:
  """Evaluates the free choice of mode every few steps, and draws think rates over time.

  Args:
    run: its config says how often.
    evaluator: of the evaluation prompts.
    writer: of metrics and figures.
    logged: metrics of the steps before, of a resumed run.

  Attributes:
    latest: think rate measured last, by the name to show it under.
  """

  def __init__(
    self, run: Setup, evaluator: Evaluator, writer: MetricWriter, logged: list[dict[str, Any]]
  ):
    self._run, self._evaluator, self._writer = run, evaluator, writer
    self._history = [row for row in logged if "mode/think_rate" in row]
    self.latest: dict[str, float] = {}

  def due(self, step: int) -> bool:
    """Whether to measure after `step` steps; 0 is before the first."""
    c = self._run.config.hgpo
    if not c.eval_every:
      return False
    return (step % c.eval_every == 0 or step == c.steps) if step else not self._history

  def measure(self, step: int, params: policy.Params) -> dict[str, float]:
    """Logs and returns `free_metrics` of the parameters after `step` steps."""
    metrics = free_metrics(self._evaluator, self._run.sampling_params(params))
    self._history.append({"step": step, **metrics})
    self._writer.scalars(HGPO, step, metrics)
    picture = figures.to_pixels(figures.think_rate_over_time(self._history))
    self._writer.figure(HGPO, "mode/think_rate_by_level", picture, step)
    self.latest = {"think rate": metrics["mode/think_rate"]}
    return metrics


def free_metrics(evaluator: Evaluator, params: policy.Params) -> dict[str, float]:
  """What the policy does when left free, on the evaluation prompts."""
  replies = evaluator.auto(params)
  values = evaluator.summarise(replies, 0)
  first = evaluator.summarise_first_token(evaluator.first_token_probs(params))
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
  return metrics


def note(config: Any) -> str | None:
  """What thinking must reach to be chosen, where scores are 0 or 1 and modes are paired."""
  c = config.hgpo
  plain = not (config.reward_weights or config.reward_by_source)
  binary = plain and registry.get(config.reward) in rules.BINARY
  if not (binary and c.advantage == "hgpo" and c.pairing == "paired"):
    return None
  return mode_choice.describe(
    delta=c.delta, samples=c.samples_per_mode, skip_unsolved=c.skip_unsolved
  )
