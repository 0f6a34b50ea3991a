"""Metrics of a batch of scored rollouts, under TRL's names where it has one."""

import numpy as np

from lhrm_jax.sampling import LENGTH, Rollouts
from lhrm_jax.text import TagIds, tags


def rollout_metrics(
  rollouts: Rollouts, scores: np.ndarray, r_inter: np.ndarray | None, tag_ids: TagIds
) -> dict[str, float]:
  """Scalars of one step's rollouts.

  Args:
    rollouts: on the host, `[B, M, G, T]`.
    scores: `[B, M, G]`.
    r_inter: `[B, 2, G]` for paired rollouts, else `None`.
    tag_ids: to read modes off first tokens.

  Returns:
    Metric names to values. `mode/think_rate` only where the policy chose the mode.
  """
  lengths, cut_off = rollouts.lengths, rollouts.finish_reason == LENGTH
  modes = np.vectorize(tag_ids.mode_of)(rollouts.responses[..., 0])
  spread = scores.reshape(len(scores), -1).std(axis=1)
  metrics = {
    "reward": scores.mean(),
    "reward_std": spread.mean(),
    "frac_reward_zero_std": (spread == 0).mean(),
    "completions/mean_length": lengths.mean(),
    "completions/max_length": lengths.max(),
    "completions/clipped_ratio": cut_off.mean(),
  }
  for mode, name in enumerate(tags.MODES):
    of_mode = modes == mode
    if of_mode.any():
      metrics[f"mode/{name}/reward"] = scores[of_mode].mean()
      metrics[f"mode/{name}/mean_length"] = lengths[of_mode].mean()
      metrics[f"mode/{name}/clipped_ratio"] = cut_off[of_mode].mean()
  if r_inter is None:
    metrics["mode/think_rate"] = (modes == tags.THINK).mean()
  else:
    means = scores.mean(axis=2)
    metrics["mode/winner_think_frac"] = r_inter[:, tags.THINK, 0].mean()
    metrics["mode/tie_frac"] = (means[:, tags.THINK] == means[:, tags.NO_THINK]).mean()
  return {name: float(value) for name, value in metrics.items()}
