"""Evaluates a policy: free choice, both forced modes, Hybrid Accuracy."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax import parallel, policy
from lhrm_jax.config import MOST_ROWS, TEMPERATURE_OR_GREEDY, idle, knob, real, whole
from lhrm_jax.data.batches import encode_prompts
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.evaluation.hybrid_accuracy import HybridAccuracy, better_modes, hybrid_accuracy
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.rewards import RewardFn, check_answer, scoring
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.sampling import (
  Prompts,
  Rollouts,
  SamplerSpec,
  mode_logprobs,
  prefill,
  sample,
)
from lhrm_jax.text import Tokenizer, form, tags

# What a reply's first token decides, in the order of `sampling.mode_logprobs`.
FIRST_TOKENS = (*tags.MODES, "neither")


_SEED = 0  # of all sampling here, for every stage: stages compare on equal terms


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """Knobs of an evaluation, the section `evaluation` of a config."""

  prompts: int = knob(500, whole(1, MOST_ROWS), "Evaluation prompts, at most.")
  batch_prompts: int = knob(100, whole(1, MOST_ROWS), "Prompts sampled at a time.")
  temperature: float = knob(
    0.6, TEMPERATURE_OR_GREEDY, "Sampling temperature of the free and the forced replies."
  )
  top_p: float = knob(0.95, real(0, 1, above=True), "Nucleus sampling of all replies.")
  samples: int = knob(4, whole(1, 2**16), "Replies per mode and prompt, for Hybrid Accuracy.")
  hacc_temperature: float = knob(
    0.6, TEMPERATURE_OR_GREEDY, "Sampling temperature for Hybrid Accuracy."
  )
  margin: float = knob(0.0, real(0), "Lead below which Hybrid Accuracy counts two modes as tied.")


@idle(EvaluationConfig, "top_p")
def _all_greedy(c: EvaluationConfig) -> str:
  if c.temperature or c.hacc_temperature or c.top_p == 1:
    return ""
  return "evaluation.temperature=0 and evaluation.hacc_temperature=0 (greedy)"


@idle(EvaluationConfig, "samples")
def _same_samples(c: EvaluationConfig) -> str:
  if c.hacc_temperature or c.samples == 1:
    return ""
  return "evaluation.hacc_temperature=0: greedy samples are all the same"


@dataclasses.dataclass(frozen=True)
class Replies:
  """Scored replies to all evaluation prompts, numpy.

  Attributes:
    scores: `[K, M, n]` float32.
    lengths: `[K, M, n]` int32, tokens.
    modes: `[K, M, n]` int, by the first token; -1 where it is not a tag.
    well_formed: `[K, M, n]` bool; not so where the reply was cut off.
    texts: `[K, M, n]` str objects.
    failed: number of judgements that failed, scored 0, by reason.
  """

  scores: np.ndarray
  lengths: np.ndarray
  modes: np.ndarray
  well_formed: np.ndarray
  texts: np.ndarray
  failed: dict[str, int] = dataclasses.field(default_factory=dict)


_ARRAYS = ("scores", "lengths", "modes", "well_formed", "texts")  # of `Replies`


@dataclasses.dataclass(frozen=True)
class Measured:
  """All replies of one evaluation.

  Attributes:
    auto: with the mode left to the policy, `[K, 1, 1]`.
    forced: in both modes, `[K, 2, 1]`.
    judged: in both modes, for Hybrid Accuracy, `[K, 2, n]`.
    first: `[K, 3]` probabilities of the first token, see `Evaluator.first_token_probs`.
  """

  auto: Replies
  forced: Replies
  judged: Replies
  first: np.ndarray


class Evaluator:
  """Evaluation prompts, encoded once, and how to sample and score them.

  Scores come from a `Scorer`, whose worker processes serve all evaluations until `close`.

  Attributes:
    rows: the `K` queries.
    settings: how to sample.
    batches: rows and encoded prompts, in batches of equal size.
  """

  def __init__(
    self,
    config: PolicyConfig,
    tokenizer: Tokenizer,
    reward_fn: RewardFn,
    rows: Sequence[PromptRow],
    settings: EvaluationConfig,
    data: DataConfig,
    **scoring_options: Any,
  ):
    """Keeps the prompts.

    Args:
      config: the policy's.
      tokenizer: the policy's.
      reward_fn: scores a response.
      rows: the queries.
      settings: how to sample.
      data: whose limits on length hold.
      **scoring_options: of `rewards.scoring.Scorer`.

    Raises:
      ValueError: a prompt cannot be encoded, or a row's answer is not what the reward needs.
    """
    for row in rows:
      check_answer(reward_fn, row.answer, row.source)
    self._config, self._tokenizer = config, tokenizer
    self._scorer = scoring.Scorer(
      reward_fn, background=False, tag_ids=tokenizer.tag_ids, **scoring_options
    )
    self.rows, self.settings = list(rows), settings
    self._max_tokens = data.max_response_tokens
    self.batches = []
    size = min(settings.batch_prompts, settings.prompts)
    for start in range(0, len(self.rows), size):
      batch = self.rows[start : start + size]
      # A short last batch is filled up with its first row, so that one program serves all.
      filled = batch + [batch[0]] * (size - len(batch))
      encoded = encode_prompts(tokenizer, filled, start, data.max_prompt_tokens)
      self.batches.append((batch, Prompts(*encoded)))

  def replies(
    self, params: policy.Params, *, paired: bool, samples: int = 1, temperature: float
  ) -> Replies:
    """Samples and scores `samples` replies per prompt, in both modes or freely.

    Every process of a job takes its share of the batches, and gets the replies to all.
    """
    sampler = SamplerSpec.of(
      self._tokenizer, samples=samples, max_tokens=self._max_tokens, paired=paired,
      temperature=temperature, top_p=self.settings.top_p,
    )  # fmt: skip
    mine: dict[int, Replies] = {}
    for i in range(jax.process_index(), len(self.batches), jax.process_count()):
      rows, prompts = self.batches[i]
      rollouts = sample(self._config, sampler, params, prompts, jax.random.key(_SEED))
      rollouts = _first(jax.device_get(rollouts), len(rows))
      scored = ScoredRollouts.read(self._tokenizer, rows, rollouts).judged_by(self._scorer)
      mine[i] = Replies(
        **{name: getattr(scored, name) for name in _ARRAYS}, failed=scored.judged.failed
      )
    found = {i: part for of in parallel.gather_objects(mine) for i, part in of.items()}
    parts = [found[i] for i in range(len(self.batches))]
    failed = sum((collections.Counter(part.failed) for part in parts), collections.Counter())
    return Replies(
      **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS},
      failed=dict(failed),
    )

  def close(self) -> None:
    """Ends the worker processes of the scoring, where it has any."""
    self._scorer.close()

  def auto(self, params: policy.Params) -> Replies:
    """One reply per prompt with the mode left to the policy."""
    return self.replies(params, paired=False, temperature=self.settings.temperature)

  def forced(self, params: policy.Params) -> Replies:
    """One reply per prompt and mode."""
    return self.replies(params, paired=True, temperature=self.settings.temperature)

  def judged(self, params: policy.Params) -> Replies:
    """The replies in both modes that Hybrid Accuracy is computed from."""
    c = self.settings
    return self.replies(params, paired=True, samples=c.samples, temperature=c.hacc_temperature)

  def measure(self, params: policy.Params) -> Measured:
    """Samples and scores all that an evaluation needs."""
    return Measured(
      self.auto(params), self.forced(params), self.judged(params), self.first_token_probs(params)
    )

  def evaluate(self, params: policy.Params) -> dict[str, Any]:
    """The whole evaluation of one policy: the `summary` of what it replies."""
    return self.summary(self.measure(params))

  def summary(self, measured: Measured) -> dict[str, Any]:
    """An evaluation as plain JSON-like values.

    Returns:
      For "auto", "think" and "no_think": accuracy, mean tokens, think rate, the share of malformed
      replies, and these by level, with `form.form_rates`; for "first_token" the mean probabilities
      of "think", "no_think" and "neither" where it is sampled at temperature 1, whole and by level;
      for "hacc" the fields of `HybridAccuracy`.
    """
    hacc = self.hybrid_accuracy(measured.auto, measured.judged, measured.first)
    return {
      "auto": self.summarise(measured.auto, 0),
      **{mode: self.summarise(measured.forced, m) for m, mode in enumerate(tags.MODES)},
      "first_token": self.summarise_first_token(measured.first),
      "hacc": dataclasses.asdict(hacc),
    }

  def hybrid_accuracy(self, auto: Replies, judged: Replies, first: np.ndarray) -> HybridAccuracy:
    """Hybrid Accuracy of free replies; see `Measured` for the arguments."""
    return hybrid_accuracy(
      judged.scores, judged.lengths, _chosen(auto), margin=self.settings.margin, mode_probs=first
    )

  def by_prompt(self, measured: Measured) -> dict[str, list]:
    """What pairs two policies prompt by prompt.

    Returns:
      Lists of `K`: "level"; of the free reply "score", "tokens", "mode" (-1 where it is malformed
      or has none); "better", the mode that Hybrid Accuracy calls the better one.
    """
    judged = measured.judged
    better, _ = better_modes(judged.scores, judged.lengths, self.settings.margin)
    return {
      "level": [row.level for row in self.rows],
      "score": measured.auto.scores[:, 0, 0].tolist(),
      "tokens": measured.auto.lengths[:, 0, 0].tolist(),
      "mode": _chosen(measured.auto).tolist(),
      "better": better.tolist(),
    }

  def first_token_probs(self, params: policy.Params) -> np.ndarray:
    """`[K, 3]` probabilities that a reply opens with `<think>`, `<no_think>` or neither.

    At temperature 1 and of the whole vocabulary, whatever the evaluation samples at.
    """
    opening = self._tokenizer.tag_ids.opening
    with parallel.laid_out_like(params):
      parts = [
        np.asarray(_first_token_probs(self._config, opening, params, prompts))[: len(rows)]
        for rows, prompts in self.batches
      ]
    return np.concatenate(parts)

  def summarise_first_token(self, probs: np.ndarray) -> dict[str, Any]:
    """Mean probabilities of a first token, `[K, 3]`, whole and by level."""
    levels = np.array([row.level for row in self.rows])

    def over(chosen: np.ndarray) -> dict[str, float]:
      means = probs[chosen].mean(axis=0)
      return dict(zip(FIRST_TOKENS, means.tolist(), strict=True))

    return {
      **over(np.ones(len(levels), bool)),
      "by_level": {str(level): over(levels == level) for level in sorted(set(levels.tolist()))},
    }

  def summarise(self, replies: Replies, mode_axis: int) -> dict[str, Any]:
    """Accuracy, mean tokens and think rate of one place on the mode axis: whole, by level, by where
    the rows come from, and by both.
    """
    levels = np.array([row.level for row in self.rows])
    sources = np.array([row.source for row in self.rows])
    texts = replies.texts[:, mode_axis].ravel().tolist()

    def over(chosen: np.ndarray) -> dict[str, Any]:
      return {
        "accuracy": float(replies.scores[chosen, mode_axis].mean()),
        "mean_tokens": float(replies.lengths[chosen, mode_axis].mean()),
        "think_rate": float((replies.modes[chosen, mode_axis] == tags.THINK).mean()),
        "malformed_rate": float((~replies.well_formed[chosen, mode_axis]).mean()),
        "prompts": int(chosen.sum()),
      }

    return {
      **over(np.ones(len(levels), bool)),
      "form": form.form_rates(
        replies.modes[:, mode_axis], replies.well_formed[:, mode_axis], texts
      ),
      "by_level": {str(level): over(levels == level) for level in sorted(set(levels.tolist()))},
      "by_source": {name: over(sources == name) for name in sorted(set(sources.tolist()))},
      "by_source_and_level": {
        name: {
          str(level): over((sources == name) & (levels == level))
          for level in sorted(set(levels[sources == name].tolist()))
        }
        for name in sorted(set(sources.tolist()))
      },
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first_token_probs(
  config: PolicyConfig, opening: tuple[int, int], params: policy.Params, prompts: Prompts
) -> jax.Array:
  hidden, _ = prefill(config, params, prompts)
  return jnp.exp(mode_logprobs(policy.next_token_logits(config, params, hidden), opening))


def _chosen(auto: Replies) -> np.ndarray:
  """`[K]` modes of free replies, of which a malformed one has none."""
  return np.where(auto.well_formed, auto.modes, tags.INVALID_MODE)[:, 0, 0]


def _first(rollouts: Rollouts, prompts: int) -> Rollouts:
  return jax.tree.map(lambda x: x[:prompts] if np.ndim(x) else x, rollouts)
