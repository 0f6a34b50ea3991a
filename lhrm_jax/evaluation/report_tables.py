"""The tables of a report, as rows of formatted cells."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lhrm_jax.evaluation.figures import LABELS, STAGE_LABELS, accuracy_interval, router_name
from lhrm_jax.evaluation.headline import percent, signed, spoken
from lhrm_jax.text.characters import printable

Cell = str | tuple[str, str]  # a value, or a value and the small print under it
Summary = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of the report.

  Attributes:
    caption: what it shows.
    head: names of the columns, the first of which names the rows.
    rows: cells; on a narrow page a row becomes a list, each cell after the first with its name.
  """

  caption: str
  head: Sequence[str]
  rows: Sequence[Sequence[Cell]]


def results(stages: Mapping[str, Summary]) -> Table:
  """Accuracy, tokens, think rate and malformed share of every stage and mode."""
  rows = []
  for stage, summary in reversed(stages.items()):
    for mode, label in LABELS.items():
      v = summary[mode]
      rows.append([
        f"{label}, {STAGE_LABELS.get(stage, stage)}",
        (percent(v["accuracy"]), spoken(accuracy_interval(v))), number(v["mean_tokens"]),
        percent(v["think_rate"]), percent(v.get("malformed_rate")),
      ])  # fmt: skip
  return Table(
    "Free choice and both forced modes",
    ("mode", "accuracy", "tokens", "think rate", "malformed"),
    rows,
  )


# Measures of Hybrid Accuracy: (key, name, whether it is a share).
_HACC = (
  ("always_think", "always think"), ("always_no_think", "never think"),
  ("random", "random choice at the same think rate"), ("ceiling", "ceiling, an oracle's"),
  ("expected_score", "first token sampled at temperature 1"), ("decided_score", "without ties"),
  ("tie_frac", "ties, decided by length"), ("invalid_frac", "free replies without a mode"),
  ("regret_accuracy", "mean score lost to the better mode"),
)  # fmt: skip


def hybrid_accuracy(stages: Mapping[str, Summary]) -> Table:
  """Hybrid Accuracy with its controls, a column per stage."""
  hacc = [summary["hacc"] for summary in stages.values()]
  rows: list[list[Cell]] = [
    ["Hybrid Accuracy", *((percent(h["score"]), spoken(h["interval"])) for h in hacc)]
  ]
  rows += [[name, *(percent(h.get(key)) for h in hacc)] for key, name in _HACC]
  rows.append(["mean tokens beyond the better mode's", *(number(h.get("regret_tokens"))
                                                         for h in hacc)])  # fmt: skip
  head = ["measure", *(STAGE_LABELS.get(stage, stage) for stage in stages)]
  return Table("Hybrid Accuracy and what to read it beside", head, rows)


def repeated(stages: Mapping[str, Summary]) -> Table | None:
  """Scores of repeated replies, lengths and cut-off replies; `None` where none is known."""
  rows: list[list[Cell]] = []
  for stage, summary in reversed(stages.items()):
    for mode, label in LABELS.items():
      v = summary[mode]
      if "avg" not in v:
        continue
      k = max(map(int, v["pass"]))
      rows.append([
        f"{label}, {STAGE_LABELS.get(stage, stage)}", f"{v['avg']['k']}",
        (percent(v["avg"]["mean"]), spoken(v["avg"]["interval"])), percent(v["pass"][str(k)]),
        percent(v.get("maj")), number(v["percentiles"]["50"]), number(v["percentiles"]["95"]),
        percent(v.get("truncated_rate")),
      ])  # fmt: skip
  head = ("mode", "replies k", "avg@k", "pass@k", "maj@k", "median tokens", "95th percentile",
          "cut off")  # fmt: skip
  return Table("Repeated replies to each prompt", head, rows) if rows else None


_LEAK = (
  ("marker_rate", "marker_interval", "direct replies with markers of reasoning"),
  ("long_rate", "long_interval", "direct replies as long as thinking ones"),
  ("length_ratio", "length_interval", "length, relative to thinking replies"),
  ("drift", "drift_interval", "length, relative to before training"),
)


def mode_leak(stages: Mapping[str, Summary]) -> Table | None:
  """Signs of reasoning in direct replies, a column per stage; `None` where none are known."""
  found = {stage: s["mode_leak"] for stage, s in stages.items() if s.get("mode_leak")}
  rows = [
    [name, *((percent(leak.get(key)), spoken(leak.get(interval))) for leak in found.values())]
    for key, interval, name in _LEAK
  ]
  head = ("measure", *(STAGE_LABELS.get(stage, stage) for stage in found))
  return Table("Reasoning in direct replies", head, rows) if found else None


def by_suite(stage: str, summary: Summary) -> Table | None:
  """Every suite's results; `None` for one suite or none."""
  suites = summary.get("suites", {})
  if len(suites) < 2:
    return None
  rows = [
    [name, f"{s['auto']['prompts']:,}",
     (percent(s["auto"]["accuracy"]), spoken(accuracy_interval(s["auto"]))),
     percent(s["think"]["accuracy"]), percent(s["no_think"]["accuracy"]),
     number(s["auto"]["mean_tokens"]), percent(s["auto"]["think_rate"]),
     (percent(s["hacc"]["score"]), spoken(s["hacc"]["interval"]))]
    for name, s in suites.items()
  ]  # fmt: skip
  head = ("suite", "prompts", "accuracy, free", "accuracy, think", "accuracy, no-think",
          "tokens, free", "think rate", "Hybrid Accuracy")  # fmt: skip
  return Table(f"By suite, {STAGE_LABELS.get(stage, stage)}", head, rows)


def routers(found: Mapping[str, Any]) -> Table:
  """Routers at the policy's think rate, with what they gain or lose against its own choice.

  Args:
    found: by router, "point" and "minus_policy".
  """
  rows = []
  for name, entry in found.items():
    at, less = entry["point"], entry.get("minus_policy", {}).get("hacc")
    difference = ("", "")
    if less:
      ends = " to ".join(signed(100 * end) for end in less[1:])
      difference = (signed(100 * less[0]), ends)
    rows.append([
      router_name(name), percent(at["think_rate"], 0),
      (percent(at["accuracy"]), spoken(at["accuracy_interval"])), number(at["tokens"]),
      (percent(at["hacc"]), spoken(at["hacc_interval"])), difference,
    ])  # fmt: skip
  head = ("router", "think rate", "accuracy", "tokens", "Hybrid Accuracy",
          "points vs. the policy")  # fmt: skip
  return Table("Routers that see only the prompt, at the policy's think rate", head, rows)


def by_group(stage: str, summary: Summary, key: str, name: str) -> Table | None:
  """Accuracy and think rate by level, source or subject; `None` where there is one group or none.

  Args:
    stage: name of the stage.
    summary: its summary.
    key: of the groups in a summary's modes, e.g. "by_level".
    name: of a group, e.g. "level".
  """
  groups = summary["auto"].get(key, {})
  if len(groups) < 2:
    return None
  rows = []
  for group, v in groups.items():
    think, no_think = (summary[m].get(key, {}).get(group, {}) for m in ("think", "no_think"))
    first = summary.get("first_token", {}).get(key, {}).get(group, {})
    rows.append([
      f"level {group}" if name == "level" else printable(str(group), 60),
      f"{v.get('prompts', 'n/a')}", percent(v["think_rate"]), percent(first.get("think")),
      percent(v["accuracy"]), percent(think.get("accuracy")), percent(no_think.get("accuracy")),
      number(v["mean_tokens"]), number(think.get("mean_tokens")),
    ])  # fmt: skip
  head = (name, "prompts", "think rate", "p(think)", "accuracy, free", "accuracy, think",
          "accuracy, no-think", "tokens, free", "tokens, think")  # fmt: skip
  return Table(f"By {name}, {STAGE_LABELS.get(stage, stage)}", head, rows)


def cost(metrics: Mapping[str, Sequence[Mapping[str, Any]]], seconds: Mapping[str, float]) -> Table:
  """What each part of the run took.

  Args:
    metrics: rows of `metrics.jsonl` by stage.
    seconds: wall seconds by part.
  """
  rows: list[list[Cell]] = []
  for part, took in seconds.items():
    last: dict[str, Any] = {}
    for row in metrics.get(part, ()):
      last |= {k: v for k, v in row.items() if k in ("step", *_TOTALS)}
    rows.append([
      {"hft": "HFT", "hgpo": "HGPO", "dpo": "DPO", "rft": "RFT"}.get(part, part.replace("_", " ")),
      duration(took), f"{last['step']:,}" if last else "",
      *(scientific(last.get(name)) for name in _TOTALS),
    ])  # fmt: skip
  return Table(
    "Wall time and computation", ("part", "wall time", "steps", "tokens sampled", "FLOPs"), rows
  )


_TOTALS = ("rollout/tokens_total", "perf/flops_total")


def number(value: float | None) -> str:
  """A number of tokens; "n/a" where an older run lacks it."""
  return "n/a" if value is None else f"{value:,.1f}"


def scientific(value: float | None) -> str:
  """A large count, to three digits; "" for none."""
  if value is None:
    return ""
  return f"{value:,.0f}" if value < 1e6 else f"{value:.2e}".replace("e+0", "e").replace("e+", "e")


def duration(seconds: float) -> str:
  """Wall time in the unit that suits it."""
  if seconds < 120:
    return f"{seconds:.1f} s"
  return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
