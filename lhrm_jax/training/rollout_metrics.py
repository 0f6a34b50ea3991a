"""Metrics of a batch of scored rollouts, under TRL's names where it has one."""

from collections.abc import Sequence

import numpy as np

from lhrm_jax.sampling import LENGTH, Rollouts
from lhrm_jax.text import TagIds, form, tags

# As in `objectives.hgpo`: means of float32 scores carry rounding; a lead below this is a tie.
_TIE_TOLERANCE = 1e-6


def rollout_metrics(
  rollouts: Rollouts, scores: np.ndarray, r_inter: np.ndarray | None, tag_ids: TagIds,
  texts: Sequence[str] | None = None, delta: float | None = None,
) -> dict[str, float]:  # fmt: skip
  """Scalars of one step's rollouts.

  Args:
    rollouts: on the host, `[B, M, G, T]`.
    scores: `[B, M, G]`.
    r_inter: `[B, 2, G]` for paired rollouts, else `None`.
    tag_ids: to read modes off first tokens.
    texts: the responses as `scoring.decode` gives them; without them, nothing is said of their
      form.
    delta: of paired rollouts, see `hgpo.assign_rewards`. `mode/within_delta_frac` is then the share
      of queries whose mode means differ by less than its size, so that it decides who wins: near
      1, the scores are on another scale than delta.

  Returns:
    Metric names to values. `mode/sampled_think_rate` only where the policy chose the mode; the
    share of its free replies to the evaluation prompts is `mode/think_rate`. See
    `form.form_rates` for malformed, empty and leaking responses; one that was cut off is malformed.
  """
  lengths, cut_off = rollouts.lengths, rollouts.finish_reason == LENGTH
  modes = np.vectorize(tag_ids.mode_of)(rollouts.responses[..., 0])
  # In float64, and off the extremes: rounding in a mean must not give equal scores a spread.
  scores = np.asarray(scores, np.float64)
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
  if texts is not None:
    whole = form.well_formed(texts, rollouts.responses[..., 0].ravel(), tag_ids) & ~cut_off.ravel()
    metrics["completions/malformed_rate"] = (~whole).mean()
    rates = form.form_rates(modes, whole, texts)
    metrics |= {f"mode/{name}": value for name, value in rates.items()}
  if r_inter is None:
    metrics["mode/sampled_think_rate"] = (modes == tags.THINK).mean()
  else:
    means = scores.mean(axis=2)
    lead = np.abs(means[:, tags.THINK] - means[:, tags.NO_THINK])
    metrics["mode/winner_think_frac"] = r_inter[:, tags.THINK, 0].mean()
    metrics["mode/tie_frac"] = (lead <= _TIE_TOLERANCE).mean()
    if delta is not None:
      metrics["mode/within_delta_frac"] = (lead < abs(delta) - _TIE_TOLERANCE).mean()
  return {name: float(value) for name, value in metrics.items()}
