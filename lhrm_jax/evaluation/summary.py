"""What an evaluation found, as plain JSON-like values.

`K` denotes prompts and `n` replies to each. "auto" is the free pass; intervals are of 95 %.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lhrm_jax.data.schema import PromptRow
from lhrm_jax.evaluation import bootstrap, statistics
from lhrm_jax.evaluation.calibration import calibration, p_think
from lhrm_jax.evaluation.hybrid_accuracy import better_modes, hybrid_accuracy
from lhrm_jax.evaluation.mode_leak import mode_leak
from lhrm_jax.evaluation.replies import Measured, Replies
from lhrm_jax.rewards import BySource, RewardFn, name_of, parts_of
from lhrm_jax.text import boxes, form, parse_response, tags
from lhrm_jax.text.responses import without_tags

# What a reply's first token decides, in the order of `sampling.mode_logprobs`.
FIRST_TOKENS = (*tags.MODES, "neither")
_VOTING = ("exact_match", "math", "multiple_choice", "numeric")  # rewards that compare one answer
_LENGTH_GROUPS = 4
# A number that a hostile reply can't make endless, as `1e999999999` is.
_NUMBER = re.compile(
  r"[-+]?(\d{1,40}(\.\d{0,20})?|\.\d{1,20})([eE][-+]?\d{1,3})?|[-+]?\d{1,20}/\d{1,20}"
)
_SPACES = re.compile(r"[\s$]+|\\[,;!]|\.$")

Votes = Callable[[str], bool]


def summarise_all(
  rows: Sequence[PromptRow], measured: Measured, suites: Sequence[str], lengths: np.ndarray, *,
  margin: float, votes: Votes, score_malformed: bool = False,
) -> dict[str, Any]:  # fmt: skip
  """The whole evaluation of one policy.

  Args:
    rows: `K` queries.
    measured: the replies to them.
    suites: `K` names of suites.
    lengths: `[K]` tokens of the prompts.
    margin: of Hybrid Accuracy.
    votes: whether replies to rows of a source give answers that can be counted, for maj@k.
    score_malformed: whether malformed replies have answers too.

  Returns:
    "auto", "think" and "no_think", each as `summarise` returns, with "avg", "pass" and "maj" (see
    `statistics`); "first_token" the mean probabilities of "think", "no_think" and "neither" where
    it is sampled at temperature 1, whole and by level, and under "greedy" the shares of the most
    likely one; "hacc" the fields of `HybridAccuracy`, "calibration" those of `Calibration` and
    "mode_leak" those of `ModeLeak`; "differences" paired over prompts; "suites", by name, all of
    these again.
  """
  rows, of = list(rows), np.array(suites)
  names = list(dict.fromkeys(suites))
  read = final_answer
  if score_malformed:
    read = lambda text: final_answer(well_formed_text(text))  # noqa: E731

  one = functools.partial(_one, margin=margin, votes=votes, read=read)
  whole = one(rows, measured, lengths)
  if len(names) == 1:
    return {**whole, "suites": {names[0]: whole}}
  found = {}
  for name in names:
    places = np.flatnonzero(of == name)
    mine = [rows[i] for i in places]
    found[name] = one(mine, measured.take(places), lengths[places])
  return {**whole, "suites": found}


def _one(
  rows: Sequence[PromptRow], measured: Measured, lengths: np.ndarray, *, margin: float,
  votes: Votes, read: Callable[[str], str | None],
) -> dict[str, Any]:  # fmt: skip
  auto, forced, judged = measured.auto, measured.forced, measured.judged
  hacc = hybrid_accuracy(
    judged.scores, judged.lengths, chosen_modes(auto), margin=margin, mode_probs=measured.first
  )
  passes = {"auto": (auto, 0), **{mode: (forced, m) for m, mode in enumerate(tags.MODES)}}
  read_votes = read if all(votes(row.source) for row in rows) else None
  first = summarise_first_token(rows, measured.first)
  if measured.greedy is not None:
    shares = [(measured.greedy == m).mean() for m in (tags.THINK, tags.NO_THINK, tags.INVALID_MODE)]
    first["greedy"] = dict(zip(FIRST_TOKENS, map(float, shares), strict=True))
  return {
    **{
      name: summarise(rows, of, m, lengths) | repeated(of, m, read_votes)
      for name, (of, m) in passes.items()
    },
    "first_token": first,
    "hacc": dataclasses.asdict(hacc),
    "calibration": dataclasses.asdict(
      calibration(p_think(measured.first), judged.scores, judged.lengths, margin=margin)
    ),
    "mode_leak": dataclasses.asdict(mode_leak(judged.texts[:, tags.NO_THINK], judged.lengths)),
    "differences": _differences(passes),
  }


def summarise(
  rows: Sequence[PromptRow], replies: Replies, mode_axis: int, lengths: np.ndarray | None = None
) -> dict[str, Any]:
  """One place on the mode axis, `[K, n]`.

  Returns:
    Accuracy (mean score), mean tokens, think rate, share of malformed replies and number of
    prompts: whole, by level, by source, by both, by subject where rows have one and by the length
    of the prompt where `lengths` are given. Of the whole also "form" (`form.form_rates`),
    "truncated_rate", "interval" of the first three, "percentiles" of tokens and the means
    "by_mode". Nothing here depends on the machine's speed.
  """
  at = _at(replies, mode_axis)
  levels = np.array([row.level for row in rows])
  sources = np.array([row.source for row in rows])
  subjects = np.array([getattr(row, "subject", "") for row in rows])

  def over(chosen: np.ndarray) -> dict[str, Any]:
    return {
      "accuracy": float(at.scores[chosen].mean()),
      "mean_tokens": float(at.lengths[chosen].mean()),
      "think_rate": float((at.modes[chosen] == tags.THINK).mean()),
      "malformed_rate": float((~at.well_formed[chosen]).mean()),
      "prompts": int(chosen.sum()),
      "interval": _intervals(at, chosen),
    }

  def by(groups: np.ndarray, chosen: np.ndarray | None = None) -> dict[str, dict[str, Any]]:
    found = groups if chosen is None else groups[chosen]
    inside = np.ones(len(groups), bool) if chosen is None else chosen
    return {str(name): over(inside & (groups == name)) for name in np.unique(found)}

  summary = {
    **over(np.ones(len(rows), bool)),
    "form": form.form_rates(at.modes, at.well_formed, at.texts.ravel().tolist()),
    "percentiles": statistics.percentiles(at.lengths),
    "by_mode": {name: _of_mode(at, m) for m, name in enumerate(tags.MODES)},
    "by_level": by(levels),
    "by_source": by(sources),
    "by_source_and_level": {
      str(name): by(levels, sources == name) for name in np.unique(sources)
    },
  }  # fmt: skip
  if any(subjects):
    summary["by_subject"] = by(subjects)
  if lengths is not None:
    summary["by_length"] = by(_length_groups(lengths))
  if at.truncated is not None:
    summary["truncated_rate"] = float(at.truncated.mean())
  return summary


def repeated(
  replies: Replies, mode_axis: int, read: Callable[[str], str | None] | None
) -> dict[str, Any]:
  """avg@k with its errors, pass@k by k and maj@k.

  Args:
    replies: of all prompts.
    mode_axis: place on the mode axis.
    read: the answer of a reply, for maj@k; `None` where answers cannot be counted.
  """
  at = _at(replies, mode_axis)
  ks = statistics.powers_up_to(at.scores.shape[1])
  answers = None
  if read:  # right replies are one answer, whose text does not matter
    wrong = at.scores <= statistics.RIGHT
    answers = [
      [read(text) if parse else None for text, parse in zip(*row, strict=True)]
      for row in zip(at.texts, wrong, strict=True)
    ]
  return {
    "avg": dataclasses.asdict(statistics.average_at_k(at.scores)),
    "pass": {str(k): statistics.pass_at_k(at.scores, k) for k in ks},
    "maj": statistics.majority_at_k(at.scores, answers) if answers else None,
  }


def summarise_first_token(rows: Sequence[PromptRow], probs: np.ndarray) -> dict[str, Any]:
  """Mean probabilities of a first token, `[K, 3]`, whole and by level."""
  levels = np.array([row.level for row in rows])

  def over(chosen: np.ndarray) -> dict[str, float]:
    means = probs[chosen].mean(axis=0)
    return dict(zip(FIRST_TOKENS, means.tolist(), strict=True))

  return {
    **over(np.ones(len(levels), bool)),
    "by_level": {str(level): over(levels == level) for level in sorted(set(levels.tolist()))},
  }


def by_prompt(rows: Sequence[PromptRow], measured: Measured, margin: float) -> dict[str, list]:
  """What pairs two policies prompt by prompt.

  Returns:
    Lists of `K`: "level"; "prompt", a digest of the prompt and its answer; of the first free reply
    "score", "tokens", "mode" (-1 where it is malformed or has none); "better", the mode that Hybrid
    Accuracy calls the better one, "tie", whether length decided it, and the means that it compares,
    "scores" and "lengths", each a pair (think, no_think); "p_think".
  """
  judged = measured.judged
  better, tie = better_modes(judged.scores, judged.lengths, margin)
  return {
    "level": [row.level for row in rows],
    "prompt": [_digest(row) for row in rows],
    "score": measured.auto.scores[:, 0, 0].tolist(),
    "tokens": measured.auto.lengths[:, 0, 0].tolist(),
    "mode": chosen_modes(measured.auto).tolist(),
    "better": better.tolist(),
    "tie": tie.tolist(),
    "scores": judged.scores.mean(axis=2, dtype=np.float64).tolist(),
    "lengths": judged.lengths.mean(axis=2).tolist(),
    "p_think": measured.first[:, tags.THINK].tolist(),
  }


def _digest(row: PromptRow) -> str:
  asked = json.dumps([row.earlier, row.prompt, row.answer])
  return hashlib.sha256(asked.encode()).hexdigest()[:8]


def chosen_modes(auto: Replies) -> np.ndarray:
  """`[K]` modes of the first free replies, of which a malformed one has none."""
  return np.where(auto.well_formed, auto.modes, tags.INVALID_MODE)[:, 0, 0]


def has_votes(reward_fn: RewardFn, source: str) -> bool:
  """Whether a reward compares one final answer, so that equal answers can be counted."""
  if isinstance(reward_fn, BySource):
    reward_fn = reward_fn.parts[reward_fn.name_for(source)]
  return all(name_of(part) in _VOTING for part in parts_of(reward_fn))


def final_answer(text: str) -> str | None:
  """The final answer of a reply, normalised: in its last box, or the last line of its answer.

  `None` for a malformed reply and one without an answer. Numbers are equal however written.
  """
  part = parse_response(text).answer
  if part is None:
    return None
  found = boxes.outermost(part)
  final = found[-1].content if found else part.strip().rpartition("\n")[2]
  final = _SPACES.sub("", final or "")
  if not final:
    return None
  number = final.replace(",", "")
  try:
    return str(Fraction(number)) if _NUMBER.fullmatch(number) else final
  except ZeroDivisionError:
    return final


def well_formed_text(text: str) -> str:
  """A reply as a well-formed one: a malformed one becomes a direct answer of its text."""
  if parse_response(text).well_formed:
    return text
  opening, closing = (of[tags.NO_THINK] for of in (tags.OPENING_TAGS, tags.CLOSING_TAGS))
  return f"{opening}{without_tags(text)}{closing}"


def _at(replies: Replies, mode_axis: int) -> Replies:
  """The replies at one place on the mode axis, arrays `[K, n]`."""
  arrays = {name: x[:, mode_axis] for name, x in vars(replies).items() if isinstance(x, np.ndarray)}
  return dataclasses.replace(replies, **arrays)


def _intervals(at: Replies, chosen: np.ndarray) -> dict[str, tuple[float, float]]:
  scores = np.asarray(at.scores[chosen], np.float64).mean(axis=1)
  shares = scores.min() >= 0 and scores.max() <= 1
  return {
    "accuracy": (statistics.share_interval if shares else statistics.interval)(scores),
    "mean_tokens": statistics.interval(at.lengths[chosen].mean(axis=1)),
    "think_rate": statistics.share_interval((at.modes[chosen] == tags.THINK).mean(axis=1)),
  }


def _of_mode(at: Replies, mode: int) -> dict[str, Any]:
  """Replies that open one mode: number, mean score, mean tokens and their percentiles."""
  of = at.modes == mode
  if not of.any():
    return {"replies": 0}
  return {
    "replies": int(of.sum()),
    "accuracy": float(at.scores[of].mean()),
    "mean_tokens": float(at.lengths[of].mean()),
    "percentiles": statistics.percentiles(at.lengths[of]),
  }


def _length_groups(lengths: np.ndarray) -> np.ndarray:
  """A name for each prompt by its length, in up to four groups of about equal size."""
  bounds = np.unique(np.quantile(lengths, np.linspace(0, 1, _LENGTH_GROUPS + 1)).round())
  group = np.clip(np.searchsorted(bounds, lengths, side="left") - 1, 0, max(len(bounds) - 2, 0))
  names = np.empty(len(lengths), object)
  for i in np.unique(group):
    mine = lengths[group == i]
    names[group == i] = f"{mine.min()}-{mine.max()}"
  return names


def _differences(passes: dict[str, tuple[Replies, int]]) -> dict[str, Any]:
  """Accuracy and tokens of one pass less another's, paired over prompts."""
  pairs = (("auto", "think"), ("auto", "no_think"), ("think", "no_think"))
  found = {}
  for one, other in pairs:
    a, b = (_at(*passes[name]) for name in (one, other))
    values = {
      "accuracy": a.scores.mean(1, dtype=np.float64) - b.scores.mean(1, dtype=np.float64),
      "mean_tokens": a.lengths.mean(1) - b.lengths.mean(1),
    }
    found[f"{one}-{other}"] = {
      name: {"mean": float(x.mean()), "interval": bootstrap.interval(x[None])}
      for name, x in values.items()
    }
  return found
