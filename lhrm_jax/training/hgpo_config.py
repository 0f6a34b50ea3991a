"""The section `hgpo` of a config; `hgpo_checks` says which knobs go together."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lhrm_jax.config import FLAG, MOST_ROWS, NAME, OPTIONS, knob, one_of, whole
from lhrm_jax.objectives.hgpo import HGPOAdvantageConfig
from lhrm_jax.objectives.policy_objective import PolicyObjectiveConfig
from lhrm_jax.rewards.scales import SCALES
from lhrm_jax.sampling.sampler import RolloutConfig
from lhrm_jax.training.packed import PackingConfig
from lhrm_jax.training.state import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class HGPOConfig(
  PolicyObjectiveConfig, HGPOAdvantageConfig, PackingConfig, RolloutConfig, OptimizerConfig
):
  """Knobs of stage II, the section `hgpo` of a config."""

  steps: int = knob(100, whole(0), "Training steps; 0 ends the run after HFT.")
  prompts_per_step: int = knob(256, whole(1, MOST_ROWS), "Prompts sampled in a step.")
  reward_workers: int = knob(
    2,
    whole(1, 1024),
    "Processes that judge `math` and `multiple_choice`; twice as many sandboxes run at a time.",
  )
  advantage: str = knob("hgpo", NAME, "Registered advantage function (docs/algorithms.md).")
  advantage_options: Mapping[str, Any] = knob(
    {}, OPTIONS, "Arguments of an advantage function beyond the keys here."
  )
  refill: int = knob(
    0,
    whole(0, 100),
    "Rounds, at most, in which queries whose responses move nothing are replaced by others, whole "
    "groups (DAPO).",
  )
  reference_every: int = knob(
    0, whole(0), "Steps after which the policy becomes the reference policy; 0 for never."
  )
  reference_samples: int = knob(
    16,
    whole(1, 2**16),
    "Thoughts per query of the policy that HGPO starts from, for advantages that ask for its "
    "accuracy (adapt_think).",
  )
  reward_scale: str = knob(
    "",
    one_of("", *SCALES),
    'Scale of a reward model\'s scores; "" is the one that the model was made with.',
  )
  updates_per_rollout: int = knob(
    1, whole(1, 10_000), "Updates from a step's rollouts, a mini-batch of whole prompts each."
  )
  epochs: int = knob(
    1,
    whole(1, 10_000),
    "Passes over a step's rollouts.",
    # Each of a step's updates took all of its prompts.
    before=lambda c: 1 if c.updates_per_rollout == 1 else None,
  )
  skip_zero_advantages: bool = knob(
    False, FLAG, "Leave responses without advantage out of the update; needs beta=0."
  )
  mask_truncated: bool = knob(
    False, FLAG, "Leave responses that were cut off at the limit out of loss and divisor (DAPO)."
  )
  eval_every: int = knob(10, whole(0), "Steps between evaluations in training; 0 for none.")
  eval_hacc: bool = knob(False, FLAG, "Whether these evaluations measure Hybrid Accuracy too.")

  @property
  def samples(self) -> int:
    """Responses per prompt and place on the mode axis: where that has one, it holds both modes'."""
    return self.samples_per_mode * (1 if self.pairing == "paired" else 2)

  @property
  def updates(self) -> int:
    """Updates made from a step's rollouts."""
    return self.updates_per_rollout * self.epochs

  @property
  def discounted(self) -> bool:
    """Whether the body's advantage is a reward at the last token, discounted by `gamma`."""
    estimator = self.estimator if self.advantage == "hgpo" else self.advantage
    return estimator == "reinforce_pp"

  @property
  def discount(self) -> float:
    """`gamma` of `losses.token_advantages`."""
    return self.gamma if self.discounted else 1.0

  @property
  def every_token(self) -> bool:
    """See `losses.token_advantages`."""
    return self.discounted and self.literal and self.advantage == "hgpo"
