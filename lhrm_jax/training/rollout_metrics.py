"""Metrics of a batch of scored rollouts, under TRL's names where TRL has one."""

import numpy as np

from lhrm_jax.objectives import advantages, hgpo
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.text import form, tags
from lhrm_jax.training.hgpo import HGPOConfig

# As in `objectives.hgpo`: means of float32 scores carry rounding; a lead below this is a tie.
_TIE_TOLERANCE = 1e-6


def rollout_metrics(scored: ScoredRollouts, c: HGPOConfig) -> dict[str, float]:
  """Returns the metrics of one step's rollouts, by name.

  `mode/within_delta_frac` is the share of queries whose mode means differ by less than `c.delta`,
  so that delta decides the winner: near 1, the scores are on another scale than delta.
  `mode/sampled_think_rate` is present only where the policy chose the mode; `mode/think_rate` is of
  the evaluation prompts. Where the queries come from several sources, `source/NAME/...` has rewards
  and lengths of each, by mode too. See `form.form_rates` for malformed (which includes truncated),
  empty and leaking responses.

  Args:
    scored: rollouts with their advantages.
    c: knobs of stage II: the advantage function and its margin.
  """
  lengths, cut_off, modes = scored.lengths, scored.truncated, scored.modes
  # In float64, and flat groups by their extremes: rounding must not give equal scores a spread.
  scores = np.asarray(scored.scores, np.float64)
  of_query = scores.reshape(len(scores), -1)
  flat = of_query.max(axis=1) == of_query.min(axis=1)
  metrics = {
    "reward": scores.mean(),
    "reward_std": np.where(flat, 0.0, of_query.std(axis=1)).mean(),
    "frac_reward_zero_std": flat.mean(),
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
  metrics["completions/malformed_rate"] = (~scored.well_formed).mean()
  rates = form.form_rates(modes, scored.well_formed, scored.texts.ravel().tolist())
  metrics |= {f"mode/{name}": value for name, value in rates.items()}
  r_inter = winning_mode(scored, c)
  if r_inter is None:
    chosen = modes[..., c.forced(modes.shape[2]) :]
    metrics["mode/sampled_think_rate"] = (chosen == tags.THINK).mean()
  else:
    means = scores.mean(axis=2)
    lead = np.abs(means[:, tags.THINK] - means[:, tags.NO_THINK])
    metrics["mode/winner_think_frac"] = r_inter[:, tags.THINK, 0].mean()
    metrics["mode/tie_frac"] = (lead <= _TIE_TOLERANCE).mean()
    metrics["mode/within_delta_frac"] = (lead < abs(c.delta) - _TIE_TOLERANCE).mean()
  metrics |= _by_source(scored, scores)
  return {name: float(value) for name, value in metrics.items()}


def _by_source(scored: ScoredRollouts, scores: np.ndarray) -> dict[str, float]:
  """Mean reward and length of the responses to each source's queries, whole and by mode."""
  sources = np.array([row.source for row in scored.rows])
  names = np.unique(sources)
  if len(names) < 2:
    return {}
  metrics = {}
  for name in names:
    mine = sources == name
    of_source, lengths, modes = scores[mine], scored.lengths[mine], scored.modes[mine]
    prefix = f"source/{name or 'unnamed'}"
    metrics[f"{prefix}/reward"] = of_source.mean()
    metrics[f"{prefix}/mean_length"] = lengths.mean()
    for mode, mode_name in enumerate(tags.MODES):
      of_mode = modes == mode
      if of_mode.any():
        metrics[f"{prefix}/{mode_name}/reward"] = of_source[of_mode].mean()
        metrics[f"{prefix}/{mode_name}/mean_length"] = lengths[of_mode].mean()
  return metrics


def winning_mode(scored: ScoredRollouts, c: HGPOConfig) -> np.ndarray | None:
  """Returns `r_inter` `[B, 2, G]`, or `None` for rollouts that are not paired.

  It is computed for advantages without one, with the margin `c.delta` if they take it, else 0.
  """
  if scored.scores.shape[1] != len(tags.MODES):
    return None
  if scored.advantages.r_inter is not None:
    return scored.advantages.r_inter
  delta = c.delta if "delta" in advantages.settings_of(c.advantage) else 0.0
  return np.asarray(hgpo.assign_rewards(scored.scores, delta=delta)[0])
