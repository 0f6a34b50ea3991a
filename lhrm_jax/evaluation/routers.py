"""Routers against the policy's own choice, at its think rate and along whole curves.

All are judged on the same forced replies, so that their differences are paired by prompt. A router
thinks on the prompts that it ranks highest, as many as the policy thinks on; equally ranked ones
share the rest. Intervals resample prompts and keep each rule's choices.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lhrm_jax.evaluation import bootstrap
from lhrm_jax.evaluation.tradeoff import (
  RATES,
  Outcomes,
  Values,
  curve,
  point,
  shares_at,
  shares_of_one,
)
from lhrm_jax.text import tags

# Names of what is no router of text.
POLICY, TAG, ORACLE = "policy", "tag", "oracle"
_OWN_RATE = {"always": tags.THINK, "never": tags.NO_THINK}
_MEASURES = tuple(field.name for field in dataclasses.fields(Values))
_CHANCE = "random"


def compare(
  outcomes: Outcomes, chosen: np.ndarray, p: np.ndarray, rankings: Mapping[str, np.ndarray],
  decided: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:  # fmt: skip
  """Compares routers with the policy on evaluation prompts.

  Args:
    outcomes: of forced replies.
    chosen: `[K, 2]` shares of the policy's free replies, see `shares_of_modes`.
    p: `[K]` p(think) of the policy, the ranking `tag`: its own tag behind a threshold.
    rankings: `[K]` of other routers by name, higher where they would sooner think. `random` is
      compared as chance itself, whatever it drew for these prompts.
    decided: `[K]` modes that they choose at their own thresholds, by name.

  Returns:
    Plain values: "think_rate", the policy's; "prompts"; "routers", by name. Of each "point" (see
    `tradeoff.Point`; `always`, `never` and `oracle` have think rates of their own) and
    "minus_policy", the difference of each measure with its interval, as [value, low, high]. Where
    it ranks prompts also "curve", points by think rate, and "over_rates", the mean of each measure
    over all think rates as [value, low, high], with "over_rates_minus_tag", against the policy's
    tag. `oracle` takes each prompt's better mode, and ranks by what thinking gained on these very
    replies, which flatters it. "own_threshold" is the point of what a router decides by itself.

  Raises:
    ValueError: a router has the name of what is none.
  """
  if taken := {POLICY, TAG, ORACLE}.intersection(rankings):
    raise ValueError(f"no router may be called {', '.join(sorted(taken))}: register another name.")
  k = len(p)
  rate = float(chosen[:, tags.THINK].mean())
  ranked = {TAG: np.asarray(p), **rankings, _CHANCE: np.zeros(k), ORACLE: _by_gain(outcomes)}
  shares = {POLICY: chosen}
  shares |= {name: shares_at(ranking, rate) for name, ranking in ranked.items()}
  shares[ORACLE] = np.eye(2)[outcomes.better]
  shares |= {name: shares_of_one(mode, k) for name, mode in _OWN_RATE.items()}
  own = Values.of(outcomes, chosen)
  means = {
    name: Values.of(outcomes, np.mean([shares_at(ranking, r) for r in RATES], axis=0))
    for name, ranking in ranked.items()
  }
  found: dict[str, Any] = {}
  for name, of_rule in shares.items():
    entry: dict[str, Any] = {"point": dataclasses.asdict(point(outcomes, of_rule))}
    if name != POLICY:
      entry["minus_policy"] = _difference(Values.of(outcomes, of_rule), own)
    if name in ranked and name not in _OWN_RATE:
      entry["curve"] = [dataclasses.asdict(at) for at in curve(outcomes, ranked[name])]
      entry["over_rates"] = _difference(means[name], None)
      if name != TAG:
        entry["over_rates_minus_tag"] = _difference(means[name], means[TAG])
    if name in (decided or {}):
      entry["own_threshold"] = dataclasses.asdict(point(outcomes, np.eye(2)[decided[name]]))
    found[name] = entry
  return {"think_rate": rate, "prompts": k, "routers": found}


def remarks(compared: Mapping[str, Any]) -> list[str]:
  """Sentences on each router that does as well as the policy, at its think rate or over all.

  It does where the interval of its difference in Hybrid Accuracy or accuracy includes 0 or lies
  above. `always` and `never` have other think rates: their accuracy says nothing here.
  """
  rate, found = compared["think_rate"], []
  if one_mode := rate in (0.0, 1.0):
    found.append(
      f"The policy thinks on {'all' if rate else 'no'} prompts: at this think rate all routers "
      "make the same choices, and only their curves differ."
    )
  for name, entry in compared["routers"].items():
    if name in (POLICY, TAG, ORACLE):
      continue
    own, less = name in _OWN_RATE, entry["minus_policy"]
    if own or not one_mode:
      found += _as_good(name, "the policy's choice in Hybrid Accuracy", less["hacc"])
    if not own and not one_mode:
      found += _as_good(name, "the policy's choice in accuracy", less["accuracy"])
    if not own:
      over = entry["over_rates_minus_tag"]["accuracy"]
      found += _as_good(name, "the policy's tag in accuracy over all think rates", over)
  return found


def _as_good(name: str, than: str, difference: list[float]) -> list[str]:
  value, low, high = difference
  if high < 0:
    return []
  does = "beats" if low > 0 else "matches"
  return [f"{name} {does} {than}: {value:+.3f} ({low:+.3f} to {high:+.3f})."]


def table(compared: Mapping[str, Any]) -> str:
  """Markdown of every router at the policy's think rate."""
  lines = ["| router | think rate | accuracy | tokens | HAcc | HAcc less the policy's |",
           "|---|---|---|---|---|---|"]  # fmt: skip

  def with_interval(at: Mapping[str, Any], name: str, form: str) -> str:
    low, high = at[f"{name}_interval"]
    return f"{at[name]:{form}} ({low:{form}} to {high:{form}})"

  for name, entry in compared["routers"].items():
    at = entry["point"]
    cells = [f"`{name}`", f"{at['think_rate']:.2f}", with_interval(at, "accuracy", ".3f")]
    cells += [with_interval(at, "tokens", ".1f"), with_interval(at, "hacc", ".3f")]
    less = entry.get("minus_policy")
    cells.append("{:+.3f} ({:+.3f} to {:+.3f})".format(*less["hacc"]) if less else "")
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def _by_gain(outcomes: Outcomes) -> np.ndarray:
  """Ranking `[K]` by the gain of thinking, among equal gains by the tokens it costs least."""
  cost = outcomes.tokens[:, tags.THINK] - outcomes.tokens[:, tags.NO_THINK]
  order = np.lexsort((-cost, outcomes.gain))
  return np.argsort(order).astype(float)


def _difference(values: Values, other: Values | None) -> dict[str, list[float]]:
  """Each measure's mean, less the other's, as value, low and high."""
  found = {}
  for name in _MEASURES:
    of_prompts = getattr(values, name) - (getattr(other, name) if other else 0.0)
    found[name] = [float(of_prompts.mean()), *bootstrap.interval(of_prompts[None])]
  return found
