"""Gates: thresholds on a step's metrics, with advice for when they are crossed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lhrm_jax.config import FLAG, SHARE, idle, knob, real, whole


@dataclasses.dataclass(frozen=True)
class GatesConfig:
  """Knobs of the gates of an HGPO run, the section `gates` of a config; 0 turns one off."""

  max_logp_difference: float = knob(
    0.0, real(0), "Mean |sampler's - trainer's log-probability| of a token, nats."
  )
  max_clip_ratio: float = knob(0.0, SHARE, "Share of tokens clipped at either bound.")
  max_kl: float = knob(0.0, real(0), "Divergence from the reference, nats per token.")
  pinned_steps: int = knob(
    50, whole(0), "Consecutive steps with a mean p(think) below 1 % or above 99 %."
  )
  stop: bool = knob(False, FLAG, "Whether crossing a gate ends the run; otherwise it warns.")


@idle(GatesConfig, "stop")
def _nothing_watched(c: GatesConfig) -> str:
  names = [name for name in vars(c) if name != "stop"]
  if any(getattr(c, name) for name in names):
    return ""
  return f"{' and '.join(f'gates.{name}=0' for name in names)}: nothing is watched"


class GateError(Exception):
  """A gate that ends the run was crossed; says which, and what to try."""


@dataclasses.dataclass(frozen=True)
class Gate:
  """Bounds on one metric.

  Attributes:
    name: name of the gate, logged as `gate/NAME`, 1 while crossed.
    metric: metric that is watched.
    advice: remedies to try.
    low: lower bound of the metric.
    high: upper bound of the metric.
    patience: consecutive steps beyond a bound before the gate counts as crossed.
  """

  name: str
  metric: str
  advice: str
  low: float = float("-inf")
  high: float = float("inf")
  patience: int = 1


def standard(c: GatesConfig) -> list[Gate]:
  """Returns the gates of an HGPO run."""
  gates = []
  if c.max_logp_difference:
    gates.append(Gate(
      "logp_difference", "sampling/sampling_logp_difference/mean", high=c.max_logp_difference,
      advice="sampler and trainer disagree on the same tokens: compare policy.dtype and "
      "attention of both, or sample in float32",
    ))  # fmt: skip
  if c.max_clip_ratio:
    for side in ("low", "high"):
      gates.append(Gate(
        f"clip_ratio_{side}", f"clip_ratio/{side}_mean", high=c.max_clip_ratio,
        advice="updates leave the trust region: lower hgpo.learning_rate or hgpo.epochs",
      ))  # fmt: skip
  if c.max_kl:
    gates.append(Gate(
      "kl", "kl", high=c.max_kl,
      advice="the policy has left its reference: raise hgpo.beta or lower hgpo.learning_rate",
    ))  # fmt: skip
  if c.pinned_steps:
    gates.append(Gate(
      "mode_collapse", "mode/think_prob", low=0.01, high=0.99, patience=c.pinned_steps,
      advice="the policy always takes the same mode. If the other one wins on some prompts "
      "(mode/winner_think_frac between 0 and 1), raise hgpo.tag_weight or hgpo.alpha, or hgpo.beta "
      "against a reference that uses both; if none does, change hgpo.delta or the prompts' mix",
    ))  # fmt: skip
  return gates


def of_config(c: GatesConfig, logged: Sequence[Mapping[str, Any]]) -> "Gates":
  """Returns the gates of a config, with the metrics logged so far already counted."""
  gates = Gates(standard(c), stop=c.stop)
  gates.replay(logged)
  return gates


class Gates:
  """Watches the metrics of every step."""

  def __init__(
    self, gates: Sequence[Gate], *, stop: bool = False, report: Callable[[str], None] = print
  ):
    """Args:
    gates: gates to watch.
    stop: whether the first gate crossed ends the run.
    report: called with a message when a gate is crossed.
    """
    self._gates, self._stop, self._report = gates, stop, report
    self._in_a_row = {gate.name: 0 for gate in gates}

  def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
    """Counts the metrics logged before a run was resumed, without reporting."""
    for row in rows:
      for gate in self._gates:
        self._count(gate, row)

  def check(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """Checks the metrics of one step.

    Returns:
      `gate/NAME` of every gate: 1 while it is crossed.

    Raises:
      GateError: a gate that ends the run is crossed.
    """
    states = {}
    for gate in self._gates:
      crossed = self._count(gate, metrics) >= gate.patience
      states[f"gate/{gate.name}"] = float(crossed)
      if not crossed or (self._in_a_row[gate.name] > gate.patience and not self._stop):
        continue
      bound = f"<= {gate.high:g}"
      if gate.low > float("-inf"):
        bound = f"in [{gate.low:g}, {gate.high:g}]"
      lasting = f" for {gate.patience} steps" if gate.patience > 1 else ""
      text = (
        f"step {step}: gate {gate.name}: {gate.metric} = {metrics[gate.metric]:.4g}, "
        f"should be {bound}{lasting}. What to try: {gate.advice}."
      )
      if self._stop:
        raise GateError(text)
      self._report(text)
    return states

  def _count(self, gate: Gate, metrics: Mapping[str, Any]) -> int:
    value = metrics.get(gate.metric)
    if value is None:  # a row of other metrics
      return self._in_a_row[gate.name]
    beyond = not gate.low <= float(value) <= gate.high  # NaN is beyond every bound
    self._in_a_row[gate.name] = self._in_a_row[gate.name] + 1 if beyond else 0
    return self._in_a_row[gate.name]
