"""What each part of HGPO contributes, on the demo's task.

  python -m experiments.compare --config experiments/configs/compare_ablations.py \\
      --workdir runs/compare_ablations
"""

from ml_collections import ConfigDict

from experiments.configs import arithmetic
from lhrm_jax.objectives import advantages, hgpo
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.runs.compare import arms


@advantages.register("inter_only")
def inter_only(scores, *, alpha: float, delta: float) -> Advantages:
  """HGPO without its intra-mode term: only the choice of mode is rewarded."""
  found = hgpo.advantages(scores, alpha=alpha, delta=delta)
  return Advantages(found.tag - found.body, 0 * found.body, found.r_inter, found.r_intra)


def get_config() -> ConfigDict:
  config = arithmetic.get_config()
  config.hgpo.eval_every = 50
  config.seeds = (0, 1, 2)
  config.arms = arms(
    {
      "hgpo": {},
      "without_inter": {"hgpo.alpha": 0.0},
      "without_intra": {"hgpo.advantage": "inter_only"},
      "alpha_low": {"hgpo.alpha": 0.3},
      "alpha_high": {"hgpo.alpha": 3.0},
      "tie_first": {"hgpo.tie": "first"},
      "intra_scope_all": {"hgpo.intra_scope": "all"},
      "skip_unsolved": {"hgpo.skip_unsolved": True},
      "tag_old_behaviour": {"hgpo.tag_old": "behaviour"},
      "tag_of_vocabulary": {"hgpo.tag_normalisation": "vocabulary", "hgpo.neither_penalty": 0.0},
    }
    | {
      f"{aggregation}{f'_tag_{weight:g}' if weight != 1 else ''}": {
        "hgpo.aggregation": aggregation,
        "hgpo.tag_weight": weight,
      }
      for aggregation in ("token_mean", "sequence_sum", "sequence_mean", "constant_length")
      for weight in (1.0, 10.0)
      if (aggregation, weight) != (config.hgpo.aggregation, config.hgpo.tag_weight)
    }
  )
  return config
