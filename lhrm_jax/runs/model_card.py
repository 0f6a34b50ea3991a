"""The card of an exported model: how it was trained and what it scored, from the run's files."""

import json
import pathlib
import re
from typing import Any

from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.runs import setup
from lhrm_jax.storage import urls
from lhrm_jax.text import tags

_MODES = ("auto", *tags.MODES)  # auto: left free
_INTRODUCTION = """\
The first token of a reply is the model's choice of mode: `<think>` opens reasoning, with the answer
after `</think>`; `<no_think>` opens a direct answer, which ends with `</no_think>`. In the chat
template `enable_thinking=True` or `False` makes the choice; without it the model chooses.
Trained with Hybrid Fine-Tuning and Hybrid Group Policy Optimization
([arXiv 2505.14631](https://arxiv.org/abs/2505.14631)) by lhrm_jax."""

_USE = """\
## Use

```python
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)
```

or `vllm serve FOLDER` and, in a chat request,
`"chat_template_kwargs": {"enable_thinking": false}`."""


def model_card(run: pathlib.Path) -> str:
  """The card as Markdown.

  Args:
    run: a run folder. Results are in the card where its report is.
  """
  config = _read(run / "config.json")
  first = _first_run(run)
  base, commit = base_model(run), _commit(first)
  lines = ["---", "tags: [hybrid-reasoning, lhrm]"]
  if _is_hub_id(base):
    lines.append(f"base_model: {base.partition('@')[0]}")
  lines += ["---", "", "# A hybrid-reasoning policy", "", _INTRODUCTION, ""]
  start = f"`{base or 'random parameters'}`" + (f" (commit `{commit}`)" if commit else "")
  lines += [f"Started from {start}; task `{config.get('task')}`.", "", _USE, ""]
  summary_file = run / "report" / "summary.json"
  if summary_file.is_file():
    try:
      lines += results(_read(summary_file))
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError) as error:
      raise UserError(
        f"{summary_file} is no report of this version: {error!r}. The run's own command writes it "
        "again; without it, the card has no results."
      ) from error
  lines += ["## Training configuration", "", "```json", json.dumps(config, indent=2), "```", ""]
  return "\n".join(lines)


def base_model(run: pathlib.Path) -> str:
  """What the first run of a chain of runs started from; "" for random parameters.

  A chain is followed on this machine alone: a run in a bucket may be gone since.
  """
  return _read(_first_run(run) / "config.json").get("init_from", "")


def _first_run(run: pathlib.Path) -> pathlib.Path:
  seen: set[pathlib.Path] = set()
  while run not in seen:  # a record that was edited may lead in a circle
    seen.add(run)
    start = _read(run / "config.json").get("init_from", "")
    before = setup.run_folder(start) if start and not urls.is_url(start) else None
    run = before or run
  return run


def _commit(run: pathlib.Path) -> str:
  """What the hub id that a run started from stood for; "" for other starts and older runs."""
  path = run / "policy" / "base_model.json"
  return _read(path).get("commit", "") if path.is_file() else ""


def results(summary: dict[str, Any]) -> list[str]:
  """The measured results as Markdown lines.

  Args:
    summary: `report/summary.json`.
  """
  stages = summary["stages"]
  spec = summary["config"]["evaluation"]
  versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
  prompts = next(iter(stages.values()))["auto"].get("prompts", spec["prompts"])
  lines = [
    "## Results",
    "",
    f"{prompts} evaluation prompts, temperature {spec['temperature']}, top-p {spec['top_p']}, seed "
    f"{summary['config']['seed']}; {versions}.",
    "",
    *_table(
      ("stage", "mode", "accuracy", "mean tokens", "think rate"),
      [(stage, mode, *_figures(values[mode]))
       for stage, values in stages.items() for mode in _MODES],
    ),
    "Hybrid Accuracy, the share of prompts whose freely chosen mode is the better one, and what it "
    f"must be read beside ({spec['samples']} samples per mode and prompt):",
    "",
    *_table(
      ("stage", "HAcc", "95 %", "always think", "never think", "random", "ties", "no tag"),
      [(stage, *_hacc(values["hacc"])) for stage, values in stages.items()],
    ),
  ]  # fmt: skip
  last, values = list(stages.items())[-1]
  for key, word in (("by_source", "family"), ("by_level", "level")):
    groups = values["auto"].get(key, {})
    if len(groups) > 1:
      head = (word, *(f"{mode}: {what}" for mode in _MODES for what in ("accuracy", "tokens")))
      lines += [f"By {word} after {last}:", ""]
      lines += _table((*head, "think rate"), [_group(values, key, group) for group in groups])
  return lines


def _group(values: dict[str, Any], key: str, group: str) -> tuple[str, ...]:
  by_mode = [_figures(values[mode][key][group]) for mode in _MODES]
  return (group, *(figure for figures in by_mode for figure in figures[:2]), by_mode[0][2])


def _figures(values: dict[str, float]) -> tuple[str, str, str]:
  return (
    f"{values['accuracy']:.3f}", f"{values['mean_tokens']:.1f}", f"{values['think_rate']:.3f}"
  )  # fmt: skip


def _hacc(hacc: dict[str, Any]) -> tuple[str, ...]:
  low, high = hacc["interval"]
  names = ("always_think", "always_no_think", "random", "tie_frac", "invalid_frac")
  rest = (f"{hacc[name]:.3f}" for name in names)
  return (f"{hacc['score']:.3f}", f"{low:.3f} to {high:.3f}", *rest)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
  lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
  return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _is_hub_id(name: str) -> bool:
  shaped = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(?<!\.gguf)", name.partition("@")[0])
  return bool(shaped) and not pathlib.Path(name).exists()


def _read(path: pathlib.Path) -> Any:
  with as_user_error(OSError, ValueError):
    content = setup.read_json(path)
    if not isinstance(content, dict):
      raise ValueError(f"{path} is damaged: it holds no object.")
    return content
