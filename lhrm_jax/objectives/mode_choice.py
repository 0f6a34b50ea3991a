"""Which mode HGPO comes to choose, as a function of how often each is right.

The opening tag moves by which mode wins a group, not by how far apart the accuracies are: thinking
is learned where it wins more than half of the groups. With few samples per mode and 0/1 scores,
that is another threshold than `delta` suggests.
"""

from collections.abc import Sequence

import numpy as np

from lhrm_jax.objectives.hgpo import equivalent_deltas

_DIRECT = (0.5, 0.7, 0.9)


def inter_balance(
  think: float, direct: float, *, delta: float, samples: int, skip_unsolved: bool = False
) -> float:
  """Chance that thinking wins a group of 0/1 scores less the chance that no_think does.

  Args:
    think: accuracy of thinking on a query.
    direct: accuracy of answering directly.
    delta: see `hgpo.assign_rewards`.
    samples: per mode, `G`.
    skip_unsolved: groups without any right response count for neither.
  """
  # So many more right responses make thinking win; infinite where it never does.
  least = equivalent_deltas(delta, samples)[1] * samples
  right = np.arange(samples + 1)
  lead = right[:, None] - right[None, :]
  sign = np.where(lead > least - 0.5, 1.0, -1.0)
  if skip_unsolved:
    sign[0, 0] = 0.0
  return float(_binomial(samples, think) @ sign @ _binomial(samples, direct))


def least_think_accuracy(
  direct: float, *, delta: float, samples: int, skip_unsolved: bool = False
) -> float | None:
  """The accuracy from which on thinking is chosen over answering directly, by enumeration.

  `None` where no accuracy suffices. See `inter_balance` for the arguments.
  """

  def balance(think: float) -> float:
    return inter_balance(think, direct, delta=delta, samples=samples, skip_unsolved=skip_unsolved)

  low, high = 0.0, 1.0
  if balance(high) <= 0:
    return None
  for _ in range(40):
    middle = (low + high) / 2
    low, high = (low, middle) if balance(middle) > 0 else (middle, high)
  return high


def describe(
  *, delta: float, samples: int, skip_unsolved: bool = False, direct: Sequence[float] = _DIRECT
) -> str:
  """One sentence on what thinking must reach, for the start of a run and its report."""
  needed = []
  for accuracy in direct:
    least = least_think_accuracy(
      accuracy, delta=delta, samples=samples, skip_unsolved=skip_unsolved
    )
    needed.append(f"{accuracy:g}: " + ("never" if least is None else f"{least:.3f}"))
  return (
    f"With {samples} samples per mode, delta {delta:g} and scores of 0 or 1, thinking is chosen "
    "where it wins most groups. By the accuracy of direct answers, it must be right with "
    f"{', '.join(needed)}."
  )


def _binomial(n: int, p: float) -> np.ndarray:
  """Chances of 0 to `n` successes."""
  chances = np.ones(1)
  for _ in range(n):
    chances = np.convolve(chances, [1 - p, p])
  return chances
