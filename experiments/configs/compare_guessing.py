"""Which mode HGPO comes to choose by samples per mode, delta and `skip_unsolved`.

  python -m experiments.compare --config experiments/configs/compare_guessing.py \\
      --workdir runs/compare_guessing

On prompts of known accuracies (`lhrm_jax.data.guessing`), so that the choice can be held against
`objectives.mode_choice`. All arms sample as many responses. With G samples per mode, other values
of delta between the same multiples of 1 / G are the same method.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.configs import guessing
from lhrm_jax.runs.compare import arms

_RESPONSES = 256  # of a step
_DELTAS = {2: (0.2,), 4: (0.2, 0.3), 8: (0.1, 0.2, 0.3)}  # by samples per mode


def get_config() -> ConfigDict:
  config = guessing.get_config()
  config.hgpo.eval_every = 25
  config.seeds = (0, 1, 2)
  config.arms = arms(
    {
      f"g{samples}_delta{round(100 * delta)}{'_skip' * skip}": _arm(samples, delta, skip)
      for skip in (False, True)
      for samples, deltas in _DELTAS.items()
      for delta in deltas
    }
  )
  return config


def _arm(samples: int, delta: float, skip: bool) -> dict[str, Any]:
  return {
    "hgpo.samples_per_mode": samples,
    "hgpo.prompts_per_step": _RESPONSES // (2 * samples),
    "hgpo.delta": delta,
    "hgpo.skip_unsolved": skip,
  }
