"""Arms of a comparison against each other: means over seeds, intervals, costs, equal budgets.

An arm has a record per seed (`runs.compare_records`): the summary of its evaluation, what each
evaluation prompt got, what the training cost, and evaluations on the way. All arms and seeds have
the same evaluation prompts. `S` denotes seeds, `K` prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lhrm_jax.evaluation import bootstrap
from lhrm_jax.text import tags

Record = Mapping[str, Any]
Records = Mapping[int, Record]  # by seed

# Of one free reply to each prompt, `[K]`, by metric; all but tokens are shares.
METRICS: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {
  "accuracy": lambda of: of["score"],
  "mean_tokens": lambda of: of["tokens"],
  "think_rate": lambda of: of["mode"] == tags.THINK,
  "hacc": lambda of: of["mode"] == of["better"],
}
# What Hybrid Accuracy is read beside, as the evaluation has it.
_BESIDE = ("ceiling", "random", "always_think", "always_no_think", "expected_score",
           "regret_accuracy", "regret_tokens", "invalid_frac")  # fmt: skip
# Metrics of the evaluations on the way, by their names in metrics.jsonl.
CURVE = {
  "accuracy": "eval/accuracy",
  "mean_tokens": "eval/mean_tokens",
  "think_rate": "mode/think_rate",
  "hacc": "hacc/score",
}


def compare(arms: Mapping[str, Records]) -> dict[str, Any]:
  """Compares arms with the first one.

  Args:
    arms: records by seed, by arm; every arm has at least one seed.

  Returns:
    JSON-like: "first", "prompts", "levels", "budget" (sampled tokens that every arm which samples
    has reached in all its seeds; `None` where no arm has), and "arms". An arm has "seeds",
    "metrics" with a mean, its interval, values by seed and, on the seeds it shares with the first
    arm, the paired "difference", and the same by level; "hacc" with the controls; "cost", "curve"
    and "at_budget".

  Raises:
    ValueError: the arms were evaluated on different prompts.
  """
  first = next(iter(arms))
  by_prompt = [record["by_prompt"] for records in arms.values() for record in records.values()]
  levels = {tuple(of["level"]) for of in by_prompt}
  # Records of older runs hold no prompts.
  if len(levels) > 1 or len({tuple(of["prompt"]) for of in by_prompt if "prompt" in of}) > 1:
    raise ValueError("the arms were evaluated on different prompts.")
  of_prompt = np.array(levels.pop())
  spent = [
    record["cost"]["sampled_tokens"]
    for records in arms.values()
    for record in records.values()
    if record["curve"]
  ]
  budget = min(spent) if spent else None
  found = {}
  for name, records in arms.items():
    against = None if name == first else arms[first]
    found[name] = _arm(records, against, of_prompt, budget)
  return {
    "first": first,
    "prompts": len(of_prompt),
    "levels": [str(level) for level in np.unique(of_prompt)],
    "budget": budget,
    "arms": found,
  }


def _arm(
  records: Records, first: Records | None, levels: np.ndarray, budget: float | None
) -> dict[str, Any]:
  by_seed = list(records.values())
  shared = [seed for seed in records if first is not None and seed in first]

  def metric(name: str, chosen: np.ndarray) -> dict[str, Any]:
    values = _values(by_seed, name)[:, chosen]
    interval = bootstrap.interval if name == "mean_tokens" else bootstrap.share_interval
    found = {
      "mean": float(values.mean()),
      "interval": interval(values),
      "by_seed": values.mean(1).tolist(),
    }
    if shared:
      mine, theirs = (_values([of[s] for s in shared], name) for of in (records, first))
      apart = (mine - theirs)[:, chosen]
      found["difference"] = {"mean": float(apart.mean()), "interval": bootstrap.interval(apart)}
    return found

  everywhere = np.ones(len(levels), bool)
  costs = [record["cost"] for record in by_seed]
  return {
    "seeds": list(records),
    "metrics": {name: metric(name, everywhere) for name in METRICS},
    "by_level": {
      str(level): {name: metric(name, levels == level) for name in METRICS}
      for level in np.unique(levels)
    },
    "hacc": {
      name: _mean([record["summary"]["hacc"][name] for record in by_seed]) for name in _BESIDE
    },
    "neither": _mean([record["summary"]["first_token"]["neither"] for record in by_seed]),
    "cost": {name: _mean([cost[name] for cost in costs]) for name in costs[0]},
    "curve": _curve(by_seed),
    "at_budget": _at_budget(by_seed, budget),
  }


def _values(records: Sequence[Record], metric: str) -> np.ndarray:
  """`[S, K]` float64."""
  of_prompts = [{k: np.asarray(v) for k, v in r["by_prompt"].items()} for r in records]
  return np.array([METRICS[metric](of) for of in of_prompts], np.float64)


def _mean(values: Sequence[float | None]) -> float | None:
  """`None` where one is missing or not defined."""
  return None if None in values else float(np.mean(values))


def _curve(records: Sequence[Record]) -> list[dict[str, Any]]:
  """At each step that all seeds have: mean of the tokens sampled so far, and mean, least and most
  of each metric over the seeds.
  """
  steps = [{point["step"]: point for point in record["curve"]} for record in records]
  rows = []
  for step in sorted(set.intersection(*map(set, steps))):
    points = [of[step] for of in steps]
    row = {"step": step, "sampled_tokens": _mean([p["sampled_tokens"] for p in points])}
    for name in CURVE:
      values = [point[name] for point in points if name in point]
      if len(values) == len(points):
        row[name] = [float(np.mean(values)), min(values), max(values)]
    rows.append(row)
  return rows


def _at_budget(records: Sequence[Record], budget: float | None) -> dict[str, float]:
  """Mean over seeds of each metric where so many tokens were sampled, interpolated linearly."""
  found = {}
  for name in CURVE:
    lines = [
      [(p["sampled_tokens"], p[name]) for p in record["curve"] if name in p] for record in records
    ]
    if (
      budget is not None
      and all(lines)
      and all(line[0][0] <= budget <= line[-1][0] for line in lines)
    ):
      values = [np.interp(budget, *zip(*line, strict=True)) for line in lines]
      found[name] = float(np.mean(values))
  return found


# ---- As Markdown


def as_markdown(found: Mapping[str, Any]) -> str:
  """The tables of a comparison: results, differences to the first arm, think rate by level."""
  parts = [_results(found), _differences(found), _by_level(found)]
  if found["budget"] is not None:
    parts.append(_budgets(found))
  return "\n\n".join(part for part in parts if part)


def _results(found: Mapping[str, Any]) -> str:
  head = ("arm", "seeds", "accuracy", "tokens", "think rate", "HAcc", "ceiling", "chance",
          "always / never think", "sampled tokens", "FLOPs")  # fmt: skip
  rows = []
  for name, arm in found["arms"].items():
    metrics, hacc, cost = arm["metrics"], arm["hacc"], arm["cost"]
    rows.append([
      name, str(len(arm["seeds"])), *(_with_interval(metrics[m], m) for m in METRICS),
      _shown(hacc["ceiling"], ".2f"), _shown(hacc["random"], ".2f"),
      f"{_shown(hacc['always_think'], '.2f')} / {_shown(hacc['always_no_think'], '.2f')}",
      _shown(cost["sampled_tokens"], ".3g"), _shown(cost["flops"], ".2g"),
    ])  # fmt: skip
  return _table(head, rows)


def _differences(found: Mapping[str, Any]) -> str:
  rows = [
    [name, *(_with_interval(arm["metrics"][m]["difference"], m, "+") for m in METRICS)]
    for name, arm in found["arms"].items()
    if "difference" in arm["metrics"]["accuracy"]
  ]
  head = (f"less {found['first']}", "accuracy", "tokens", "think rate", "HAcc")
  return _table(head, rows) if rows else ""


def _by_level(found: Mapping[str, Any]) -> str:
  rows = []
  for name, arm in found["arms"].items():
    rates = (arm["by_level"][level]["think_rate"] for level in found["levels"])
    rows.append([name, *(_with_interval(rate, "think_rate") for rate in rates)])
  return _table(["think rate, level", *found["levels"]], rows)


def _budgets(found: Mapping[str, Any]) -> str:
  rows = [
    [name, *(_shown(arm["at_budget"].get(m), _form(m)) for m in CURVE)]
    for name, arm in found["arms"].items()
    if arm["at_budget"]
  ]
  title = f"after {found['budget']:,.0f} sampled tokens"
  head = (title, "accuracy", "tokens", "think rate", "HAcc")
  return _table(head, rows)


def _form(metric: str) -> str:
  return ".1f" if metric == "mean_tokens" else ".3f"


def _with_interval(value: Mapping[str, Any], metric: str, sign: str = "") -> str:
  form = f"{sign}{_form(metric)}"
  low, high = value["interval"]
  return f"{value['mean']:{form}} ({low:{form}}, {high:{form}})"


def _shown(value: float | None, form: str) -> str:
  return "" if value is None else f"{value:{form}}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)
