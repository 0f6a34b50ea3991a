"""Methods by name: the knobs of a config that make it train as a paper does (docs/algorithms.md).

```python
config.update_from_flattened_dict(overrides("dapo"))
```

Learning rate, batch, number of samples and temperature are not a method's: with those of one
config, methods are compared from the same start at the same cost. HGPO's leave its knobs as the
config has them; the others set every knob of objective and advantage, as their authors do.
"""

from collections.abc import Mapping
from typing import Any

from lhrm_jax.config import knobs
from lhrm_jax.objectives.hgpo import HGPOAdvantageConfig
from lhrm_jax.objectives.policy_objective import PolicyObjectiveConfig
from lhrm_jax.registry import Registry

# `register("mine", {"hgpo.advantage": "mine", ...})` adds a method.
REGISTRY: Registry[Mapping[str, Any]] = Registry("method")
register, names = REGISTRY.register, REGISTRY.names


def overrides(method: str) -> dict[str, Any]:
  """Values by dotted key that turn a config into a method's.

  Raises:
    UnknownName: there is no such method; names the nearest.
  """
  return dict(REGISTRY.get(method))


_DEFAULTS = {
  key.key: key.default
  for section in (HGPOAdvantageConfig, PolicyObjectiveConfig)
  for key in knobs(section)
}
_PPO = {"clip_low": 0.2, "clip_high": 0.2, "beta": 0.0, "pairing": "free", "advantage_options": {}}
# What the authors' scripts leave at the defaults of verl at the time.
_VERL = {"aggregation": "token_mean", "entropy_bonus": 0.001}


def _rival(advantage: str, **changes: Any) -> dict[str, Any]:
  values = {**_DEFAULTS, **_PPO, "advantage": advantage, **changes}
  return {f"hgpo.{name}": value for name, value in values.items()}


def _hgpo(estimator: str) -> dict[str, Any]:
  return {"hgpo.advantage": "hgpo", "hgpo.pairing": "paired", "hgpo.estimator": estimator}


for _name, _values in {
  "hgpo": _hgpo("grpo"),
  "hgpo_rloo": _hgpo("rloo"),
  "hgpo_reinforce_pp": _hgpo("reinforce_pp"),
  "grpo": _rival("grpo", beta=0.04, aggregation="sequence_mean"),
  "dr_grpo": _rival("dr_grpo", aggregation="constant_length"),
  "rloo": _rival("rloo", beta=0.03, kl_in="reward", kl_estimator="k1"),
  "reinforce_pp": _rival(
    "reinforce_pp", literal=True, gamma=1.0, beta=0.01, kl_in="reward", kl_estimator="k1",
    aggregation="token_mean",
  ),
  # Its buffer is a fifth of the limit, as the authors' 4,096 of 20,480 tokens.
  "dapo": _rival("dapo", ddof=1, clip_high=0.28, aggregation="token_mean", refill=10),
  "gspo": _rival(
    "grpo", ratio="sequence", clip_low=3e-4, clip_high=4e-4, aggregation="sequence_mean"
  ),
  # With DAPO's length penalty and refilling. The paper does not say its upper bound; weights of at
  # most 5 are what ScaleRL recommends (https://arxiv.org/abs/2510.13786).
  "cispo": _rival(
    "dapo", surrogate="cispo", clip_low=1.0, clip_high=4.0, aggregation="token_mean", refill=10
  ),
  "thinkless": _rival("thinkless", separate_tag=True, tag_weight=0.001, beta=0.001, **_VERL),
  # The authors' code; the paper prints ratio="product". Paired rollouts are forced half and half.
  "adapt_think": _rival(
    "adapt_think", pairing="paired", tag_old="behaviour", tag_normalisation="vocabulary",
    neither_penalty=0.0, ratio="sequence", aggregation="sequence_mean",
  ),
  "auto_think": _rival("auto_think", ddof=1, **_VERL),  # a third of the run each stage
  "ada_grpo": _rival("ada_grpo", ddof=1, beta=0.001, **_VERL),
  "l1_exact": _rival("l1_exact", ddof=1, beta=0.001, **_VERL),
  "l1_max": _rival("l1_max", ddof=1, beta=0.001, **_VERL),
}.items():  # fmt: skip
  register(_name, _values)
