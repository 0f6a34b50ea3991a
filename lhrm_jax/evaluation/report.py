"""The report of a run: `report/index.html` (one file, opens from disk), figures, `summary.json`."""

from __future__ import annotations  # figures have the types of matplotlib, which is not loaded yet

import base64
import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from lhrm_jax.evaluation import figures

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def write_report(
  folder: pathlib.Path,
  summary: Mapping[str, Any],
  metrics: Mapping[str, Sequence[Mapping[str, Any]]],
  samples: Sequence[Mapping[str, Any]],
  notes: Sequence[str] = (),
) -> pathlib.Path:
  """Writes the report of a run.

  Args:
    folder: `WORKDIR/report`, created where missing.
    summary: "stages" (each as `Evaluator.evaluate` returns), "seconds", "config", "versions".
    metrics: rows of `metrics.jsonl` by stage.
    samples: prompts with replies: "level", "prompt", "answer", "chosen", "p_think", "p_neither",
      and per forced mode "think" and "no_think" a text and whether it is "think_right" and
      "no_think_right".
    notes: remarks on the task that a reader of the figures must know.

  Returns:
    The path of `index.html`.
  """
  folder.mkdir(parents=True, exist_ok=True)
  summary = finite(summary)
  (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
  pictures = {
    name: figures.to_png(figure) for name, figure in _figures(summary["stages"], metrics).items()
  }
  for name, png in pictures.items():
    (folder / f"{name}.png").write_bytes(png)
  page = render(
    "report.html",
    pictures,
    summary=summary,
    samples=samples,
    notes=notes,
    stage_labels=figures.STAGE_LABELS,
    mode_labels=figures.LABELS,
    config=json.dumps(summary["config"], indent=2),
  )
  path = folder / "index.html"
  path.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")  # a lone surrogate of a row
  return path


def render(template: str, pictures: Mapping[str, bytes], **values: Any) -> str:
  """A page of HTML that needs nothing else.

  Args:
    template: name of a file in `templates/`.
    pictures: PNG files by name; the template gets them in base64.
    **values: what else the template shows, escaped there.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("lhrm_jax.evaluation", "templates"), autoescape=True
  )
  environment.filters["percent"] = functools.partial(_shown, "{:.1%}")
  environment.filters["share"] = functools.partial(_shown, "{:.3%}")  # shares near 0
  environment.filters["number"] = functools.partial(_shown, "{:.1f}")
  environment.filters["count"] = functools.partial(_shown, "{:.3g}")
  encoded = {name: base64.b64encode(png).decode("ascii") for name, png in pictures.items()}
  return environment.get_template(template).render(pictures=encoded, **values)


def _shown(form: str, value: float | None) -> str:
  """Formats a number of the report; "n/a" for one that an older run lacks."""
  if value is None or isinstance(value, jinja2.Undefined):
    return "n/a"
  return form.format(value).replace("%", " %")


def finite(value: Any) -> Any:
  """A copy of a JSON-like value in which NaN and infinities, which JSON lacks, are `None`."""
  if isinstance(value, Mapping):
    return {str(k): finite(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [finite(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _figures(
  stages: Mapping[str, Any], metrics: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Figure]:
  drawn = {
    "accuracy_against_tokens": figures.accuracy_against_tokens(stages),
    "hybrid_accuracy": figures.hybrid_accuracy_bars(stages),
  }
  for stage, summary in stages.items():
    title = f"By level, {figures.STAGE_LABELS.get(stage, stage)}"
    drawn[f"by_level_{stage}"] = figures.by_level(summary, title)
  if metrics.get("hft"):
    drawn["hft_loss"] = figures.curves(
      metrics["hft"], {"loss": "loss"}, "Hybrid Fine-Tuning", "nats per token"
    )
  for stage in ("hgpo", "dpo", "rft"):
    if rows := metrics.get(stage):
      drawn["think_rate"] = figures.think_rate_over_time(rows)
  if metrics.get("dpo"):
    drawn["dpo_rewards"] = figures.curves(
      metrics["dpo"],
      {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
      "Implicit rewards of the pairs",
      "beta times log-ratio, nats",
    )
  if metrics.get("rft"):
    drawn["rft_loss"] = figures.curves(
      metrics["rft"], {"loss": "loss"}, "Fine-tuning on the best responses", "nats per token"
    )
  if metrics.get("hgpo"):
    rows = metrics["hgpo"]
    drawn["hgpo_reward"] = figures.curves(
      rows,
      {
        "reward": "all rollouts",
        "mode/think/reward": "think",
        "mode/no_think/reward": "no-think",
      },
      "Mean score of training rollouts",
      "score",
    )
    drawn["hgpo_form"] = figures.curves(
      rows,
      {
        "mode/think/malformed_rate": "malformed, think",
        "mode/no_think/malformed_rate": "malformed, no-think",
        "mode/think/empty_rate": "think without a thought",
        "mode/no_think/leak_rate": "reasoning markers in no-think",
      },
      "Form of training rollouts",
      "share of a mode's responses",
    )
    drawn["hgpo_neither"] = figures.curves(
      rows,
      {"eval/neither_prob": "neither tag"},
      "First token is not an opening tag",
      "probability",
    )
    drawn["hgpo_kl"] = figures.curves(
      rows,
      {"mode/tag_kl": "mode choice (exact)", "kl": "body tokens (k3)"},
      "Distance from the HFT policy",
      "KL, nats",
    )
  return drawn
