"""The card of an exported model: its training and its scores, from the run's files."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.runs import loading
from lhrm_jax.runs.json_files import read_json
from lhrm_jax.runs.rollout_log import literal
from lhrm_jax.storage import urls
from lhrm_jax.text import tags

_TEMPLATE = pathlib.Path(__file__).with_name("templates") / "model_card.md"
_MODES = {"auto": "mode left free", **{mode: f"forced {mode}" for mode in tags.MODES}}


def model_card(run: pathlib.Path, adapter: bool = False) -> str:
  """Returns the card as Markdown, headed by the hub's metadata.

  Args:
    run: run folder; the card has results if it has a report.
    adapter: whether the export holds low-rank adapters alone.

  Raises:
    UserError: a file of the run is damaged.
  """
  config, first = _read(run / "config.json"), _first_run(run, _has_adapters if adapter else None)
  base = adapted_model(run) if adapter else base_model(run)
  summary_file = run / "report" / "summary.json"
  summary = _read(summary_file) if summary_file.is_file() else None
  try:
    data = ModelCardData(
      tags=["hybrid-reasoning", "lhrm"],
      base_model=base.partition("@")[0] if _is_hub_id(base) else None,
      library_name="peft" if adapter else "transformers",
      pipeline_tag="text-generation",
      model_name=run.name if summary is not None else None,
      eval_results=eval_results(summary, config) if summary is not None else None,
    )
    card = ModelCard.from_template(
      data, template_path=str(_TEMPLATE), base=base, commit=_commit(first), config=config,
      adapter=adapter, config_json=json.dumps(config, indent=2), summary=summary,
      modes=list(_MODES), literal=literal,
    )  # fmt: skip
  except (AttributeError, IndexError, KeyError, TypeError, jinja2.UndefinedError) as error:
    raise UserError(
      f"{summary_file} is not a report of this version: {error!r}. Run the run's own command again "
      "to rewrite it, or remove it for a card without results."
    ) from error
  return card.content


def eval_results(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[EvalResult]:
  """Returns the last stage's results in the form of the hub's leaderboards.

  Args:
    summary: contents of `report/summary.json`.
    config: contents of `config.json`.
  """
  stage = list(summary["stages"].values())[-1]
  figures = {
    f"Accuracy, {words}": ("accuracy", stage[mode]["accuracy"]) for mode, words in _MODES.items()
  }
  figures["Hybrid Accuracy"] = ("hybrid_accuracy", stage["hacc"]["score"])
  return [
    EvalResult(
      task_type="text-generation", dataset_type=config["task"], dataset_name=config["task"],
      metric_type=kind, metric_name=name, metric_value=value,
    )
    for name, (kind, value) in figures.items()
  ]  # fmt: skip


def base_model(run: pathlib.Path) -> str:
  """Returns `init_from` of the first in a chain of runs; "" for random parameters.

  The chain is followed on this machine only: a run in a bucket may no longer exist.
  """
  return _read(_first_run(run) / "config.json").get("init_from", "")


def adapted_model(run: pathlib.Path) -> str:
  """Returns what the low-rank adapters of a run were added to, a hub id without its revision."""
  base = _read(_first_run(run, _has_adapters) / "config.json").get("init_from", "")
  return base.partition("@")[0] if _is_hub_id(base) else base


def _has_adapters(run: pathlib.Path) -> bool:
  return bool(_read(run / "policy" / "config.json").get("lora_rank"))


def _first_run(
  run: pathlib.Path, counts: Callable[[pathlib.Path], bool] | None = None
) -> pathlib.Path:
  """Returns the first in a chain of runs, or of those from which on every one counts."""
  seen: set[pathlib.Path] = set()
  while run not in seen:  # an edited record may lead in a circle
    seen.add(run)
    start = _read(run / "config.json").get("init_from", "")
    before = loading.run_folder(start) if start and not urls.is_url(start) else None
    run = before if before and (not counts or counts(before)) else run
  return run


def _commit(run: pathlib.Path) -> str:
  """Returns the hub commit that a run started from; "" for other starts and older runs."""
  path = run / "policy" / "base_model.json"
  return _read(path).get("commit", "") if path.is_file() else ""


def _is_hub_id(name: str) -> bool:
  repository = name.partition("@")[0]
  try:
    validate_repo_id(repository)
  except HFValidationError:
    return False
  is_file = repository.endswith(".gguf") or pathlib.Path(name).exists()
  return "/" in repository and not is_file


def _read(path: pathlib.Path) -> Any:
  with as_user_error(OSError, ValueError):
    content = read_json(path)
    if not isinstance(content, dict):
      raise ValueError(f"{path} is damaged: it is not a JSON object.")
    return content
