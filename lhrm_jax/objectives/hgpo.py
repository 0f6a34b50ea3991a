"""Hybrid Group Policy Optimization: rewards and advantages of paired rollouts.

Large Hybrid-Reasoning Models (https://arxiv.org/abs/2505.14631), stage II.
`B` denotes queries, `G` responses per mode; axis 1 is the mode, 0 = think and 1 = no_think.
"""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lhrm_jax.config import FLAG, SHARE, knob, one_of, real
from lhrm_jax.objectives.masked import group_normalise, leave_one_out, whiten

TIES = ("all", "first")
INTRA_SCOPES = ("mode", "all")
ESTIMATORS = ("grpo", "rloo", "reinforce_pp")


@dataclasses.dataclass(frozen=True)
class HGPOAdvantageConfig:
  """Knobs of HGPO's rewards and advantages (`assign_rewards`, `advantages`)."""

  alpha: float = knob(1.0, real(0), "Weight of the inter-mode term on the opening tag.")
  delta: float = knob(
    0.2, real(), "Margin that thinking must lead by to win a query, in units of the score."
  )
  tie: str = knob(
    "all", one_of(*TIES), "Which of a mode's equally good responses count as its best."
  )
  intra_scope: str = knob(
    "",
    one_of("", *INTRA_SCOPES),
    'Responses that the intra-mode term is normalised over; "" is "all" for the estimator "rloo", '
    'else "mode".',
  )
  estimator: str = knob("grpo", one_of(*ESTIMATORS), "Baseline and scale of both terms.")
  literal: bool = knob(
    False,
    FLAG,
    "The estimator's equations as printed (docs/method.md).",
    # "reinforce_pp" standardised over the batch, which no setting does any more.
    before=lambda c: None if c.estimator == "reinforce_pp" else True,
  )
  ddof: int = knob(
    0, one_of(0, 1), "0 divides by the population's standard deviation, 1 by the sample's."
  )
  skip_unsolved: bool = knob(
    False, FLAG, "No inter-mode reward for queries on which every response scored 0."
  )
  gamma: float = knob(0.99, SHARE, 'Discount per token, of the estimator "reinforce_pp" alone.')


# Means of float32 scores carry rounding; a lead below this is a tie, and ties go to no_think.
_TIE_TOLERANCE = 1e-6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Advantages:
  """Advantages of the tokens of each response; every token of a part has the same one.

  Attributes:
    tag: `[B, 2, G]`, of the opening tag (the first token): the intra term plus `alpha` times the
      inter term.
    body: `[B, 2, G]`, of every later token: the intra term.
    r_inter: `[B, 2, G]`, HGPO's inter reward; `None` where the method has none.
    r_intra: `[B, 2, G]`, HGPO's intra reward, likewise.
  """

  tag: Array
  body: Array
  r_inter: Array | None = None
  r_intra: Array | None = None


def assign_rewards(
  scores: Array, *, delta: float, tie: str = "all", skip_unsolved: bool = False
) -> tuple[Array, Array]:
  """Turns scores into the inter reward (which mode pays) and the intra reward (which is best).

  Args:
    scores: `[B, 2, G]`, from one scorer per query.
    delta: margin added to the no-think mean, in units of the score. With 0/1 scores it acts in
      steps of `1 / G`.
    tie: "all" rewards every best response of a mode; "first" only the first, the literal argmax.
    skip_unsolved: no inter reward for queries on which every response scored 0; otherwise a
      positive delta rewards no_think there.

  Returns:
    `r_inter` and `r_intra`, `[B, 2, G]`, 0 or 1. At equal means (delta counted) no_think wins.

  Raises:
    ValueError: `scores` is not `[B, 2, G]`, or `tie` is unknown.
  """
  if scores.ndim != 3 or scores.shape[1] != 2:
    raise ValueError(
      f"HGPO needs paired scores [B, 2, G], got {scores.shape}: sample both modes "
      "(hgpo.pairing='paired'), or choose an advantage without pairing, such as 'grpo'."
    )
  if tie not in TIES:
    raise ValueError(f"tie={tie!r} is none of {', '.join(TIES)}.")
  scores = jnp.asarray(scores, jnp.float32)
  means = jnp.mean(scores, axis=2)  # [B, 2]
  think_wins = means[:, 0] - means[:, 1] - delta > _TIE_TOLERANCE
  winner = jnp.stack([think_wins, ~think_wins], axis=1)
  if skip_unsolved:
    winner &= jnp.any(scores != 0, axis=(1, 2))[:, None]
  r_inter = jnp.broadcast_to(winner[:, :, None], scores.shape).astype(jnp.float32)

  if tie == "all":
    best = scores == jnp.max(scores, axis=2, keepdims=True)
  else:
    best = jnp.arange(scores.shape[2]) == jnp.argmax(scores, axis=2)[..., None]
  return r_inter, best.astype(jnp.float32)


def equivalent_deltas(delta: float, samples: int) -> tuple[float, float]:
  """The values of `delta` that give the same inter rewards as this one, where scores are 0 or 1.

  The means of two groups of `G` such scores differ by `k / G` for a whole `k` from `-G` to `G`, and
  thinking wins from some smallest `k` on; `delta` only says which.

  Args:
    delta: see `assign_rewards`.
    samples: per mode, `G`.

  Returns:
    `low` and `high` of the interval `low <= delta < high`: `(k - 1) / G` and `k / G`. `high` is
    infinite where thinking never wins, and `low` is minus infinity where it always does. Just below
    `high`, within the tolerance for ties (1e-6), a value already counts as `high`.
  """
  leads = np.arange(-samples, samples + 1)
  # In float32 and with the tolerance, as `assign_rewards` compares.
  margins = leads.astype(np.float32) / np.float32(samples) - np.float32(delta)
  wins = leads[margins > np.float32(_TIE_TOLERANCE)]
  if not len(wins):
    return 1.0, math.inf
  least = int(wins[0])
  low = (least - 1) / samples if least > -samples else -math.inf
  return low, least / samples


def advantages(
  scores: Array,
  *,
  alpha: float,
  delta: float,
  tie: str = "all",
  intra_scope: str = "",
  ddof: int = 0,
  skip_unsolved: bool = False,
  estimator: str = "grpo",
  literal: bool = False,
) -> Advantages:
  """`A = norm(r_intra) + 1{opening tag} * alpha * norm(r_inter)`, the advantage of HGPO.

  A mode whose scores are all equal has no better response, so its intra term is 0 whatever the
  estimator, the scope and the tie rule: with all of its responses tied at 1, a scope beyond the
  mode would reward a mode that is wrong throughout.

  Its nine arguments are the scores and one per choice that the paper leaves open: they are the keys
  of a config, by name.

  Args:
    scores: `[B, 2, G]`.
    alpha: weight of the inter term on the opening tag.
    delta: see `assign_rewards`.
    tie: see `assign_rewards`.
    intra_scope: responses that `norm(r_intra)` is over: "mode", the `G` of the mode; "all", the
      `N = 2G` of the query. "" is "all" for "rloo", as eq. 23 has it, and "mode" for "grpo".
    ddof: of "grpo": 0 for the population's standard deviation, 1 for the sample's.
    skip_unsolved: see `assign_rewards`.
    estimator: what `norm` is: "grpo" standardises; "rloo" subtracts the mean of the others
      (eq. 23); "reinforce_pp" whitens over the batch, queries and modes without signal left out.
      Its discount is applied where the tokens are known, see `losses.token_advantages`.
    literal: the equations as printed: modes of equal scores keep their intra term, and
      "reinforce_pp" does not whiten (eq. 22).

  Returns:
    `Advantages`, `[B, 2, G]` float32.

  Raises:
    ValueError: bad shape or option.
  """
  for name, value, choices in (
    ("intra_scope", intra_scope, ("", *INTRA_SCOPES)),
    ("estimator", estimator, ESTIMATORS),
  ):
    if value not in choices:
      raise ValueError(f"{name}={value!r} is none of {', '.join(filter(None, choices))}.")
  r_inter, r_intra = assign_rewards(scores, delta=delta, tie=tie, skip_unsolved=skip_unsolved)
  ranked = jnp.max(scores, axis=2, keepdims=True) > jnp.min(scores, axis=2, keepdims=True)
  scope = intra_scope or ("all" if estimator == "rloo" else "mode")
  intra_axes = (2,) if scope == "mode" else (1, 2)
  if estimator == "rloo":
    inter, intra = leave_one_out(r_inter, (1, 2)), leave_one_out(r_intra, intra_axes)
  elif estimator == "reinforce_pp" and literal:
    inter, intra = r_inter, r_intra
  elif estimator == "reinforce_pp":
    decided = jnp.any(r_inter > 0, axis=(1, 2), keepdims=True)
    inter, intra = whiten(r_inter, decided), whiten(r_intra, ranked)
  else:
    inter = group_normalise(r_inter, (1, 2), ddof=ddof)
    intra = group_normalise(r_intra, intra_axes, ddof=ddof)
  if not literal:
    intra = jnp.where(ranked, intra, 0.0)
  chex.assert_equal_shape([scores, inter, intra])
  return Advantages(intra + alpha * inter, intra, r_inter, r_intra)
