"""How often a stage goes through each source of rows: metrics, and warnings before it starts."""

from collections.abc import Iterator

from lhrm_jax.data.row_task import RowTask, Use
from lhrm_jax.data.tasks import Task
from lhrm_jax.runs.config import Config

_STAGES = {"hft": "demonstrations", "hgpo": "prompts"}


def epochs(config: Config, task: Task, stage: str, steps: int) -> dict[str, float]:
  """Metrics `data/epochs/SOURCE`: passes over each source after `steps` steps of a stage.

  Empty for tasks whose rows come from no source.
  """
  found: dict[str, list[float]] = {}
  for use in _uses(config, task, stage, steps):
    for name, passes in use.epochs.items():
      found.setdefault(name, []).append(passes)
  # A source of both modes is drawn from twice: the mode that is ahead counts.
  return {f"data/epochs/{name}": max(passes) for name, passes in found.items()}


def warnings(config: Config, task: Task, stage: str) -> Iterator[str]:
  """Yields a sentence for each source that a stage repeats more than `data.warn_epochs` times.

  Raises:
    ValueError: `data.epochs` allow fewer rows than the stage asks for.
  """
  steps = getattr(config, stage).steps if stage in _STAGES else 0
  for use in _uses(config, task, stage, steps):
    if use.length is not None and use.drawn > use.length:
      raise ValueError(
        f"data.epochs allow {use.length:,} rows of {', '.join(use.epochs)}, and {stage}.steps="
        f"{steps} take {use.drawn:,}: set {stage}.steps={steps * use.length // use.drawn} or less, "
        "or raise the epochs."
      )
    for name, passes in use.epochs.items():
      if passes > config.data.warn_epochs:
        yield (
          f"{stage} goes {passes:,.1f} times through the rows of {name}, more than "
          f"data.warn_epochs={config.data.warn_epochs:g}: add sources, lower its weight "
          f"(data.weights.{name}) or the steps."
        )


def _uses(config: Config, task: Task, stage: str, steps: int) -> list[Use]:
  if not isinstance(task, RowTask) or not steps or stage not in _STAGES:
    return []
  c = getattr(config, stage)
  if stage == "hft":
    counts: tuple[int, ...] = (c.think_per_step, c.no_think_per_step)
  else:
    counts = (c.prompts_per_step,)
  return task.use(_STAGES[stage], config.seed, steps, *counts)
