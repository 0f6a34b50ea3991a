"""Evaluates a policy: free choice, both forced modes, Hybrid Accuracy."""

import collections
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax import parallel, policy
from lhrm_jax.data.batches import prompt_ids
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.evaluation import replies as pass_replies
from lhrm_jax.evaluation import samples as files
from lhrm_jax.evaluation import summary as summaries
from lhrm_jax.evaluation.batching import Batch, make_batches
from lhrm_jax.evaluation.config import EvaluationConfig
from lhrm_jax.evaluation.hybrid_accuracy import HybridAccuracy, hybrid_accuracy
from lhrm_jax.evaluation.replies import Measured, Replies
from lhrm_jax.evaluation.samples import PromptRecord, Sample, SampleKey, SampleLog
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.rewards import RewardFn, check_answer, scoring
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.sampling import Dials, Prompts, Rollouts, SamplerSpec, mode_logprobs, prefill, sample
from lhrm_jax.sampling.dials import closing_ids
from lhrm_jax.text import Tokenizer, tags

_SEED = 0  # the first of all sampling here, for every stage: stages compare on equal terms


class Evaluator:
  """Evaluation prompts, encoded once, and how to sample and score them.

  Scores come from a `Scorer`, whose worker processes serve all evaluations until `close`.

  Attributes:
    rows: the `K` queries; a row's place is its prompt's id.
    settings: how to sample.
    max_prompt_tokens: longest prompt.
    max_response_tokens: longest reply.
    generation_seconds: wall seconds in which replies were being sampled, all passes so far.
  """

  def __init__(
    self,
    config: PolicyConfig,
    tokenizer: Tokenizer,
    reward_fn: RewardFn,
    rows: Sequence[PromptRow],
    settings: EvaluationConfig,
    data: DataConfig,
    *,
    task: str = "task",
    **scoring_options: Any,
  ):
    """Keeps the prompts.

    Args:
      config: the policy's.
      tokenizer: the policy's.
      reward_fn: scores a response.
      rows: the queries.
      settings: how to sample.
      data: whose limits on length hold where `settings` has none.
      task: suite of rows that belong to none.
      **scoring_options: of `rewards.scoring.Scorer`.

    Raises:
      ValueError: a prompt cannot be encoded or is too long, a row's answer is not what the reward
        needs, or the text that closes a thought cannot be encoded.
    """
    for row in rows:
      check_answer(reward_fn, row.answer, row.source)
    self._config, self._tokenizer, self._reward_fn = config, tokenizer, reward_fn
    # Without their ids, the tags that `_scored` adds decide the mode.
    tag_ids = None if settings.score_malformed else tokenizer.tag_ids
    self._scorer = scoring.Scorer(reward_fn, background=False, tag_ids=tag_ids, **scoring_options)
    self.rows, self.settings, self._task = list(rows), settings, task
    self._dials = Dials.of(settings.dials, tokenizer)
    self._closing = closing_ids(tokenizer, settings.dials.closing)
    self.max_prompt_tokens = settings.max_prompt_tokens or data.max_prompt_tokens
    self.max_response_tokens = settings.max_response_tokens or data.max_response_tokens
    self._encoded = [prompt_ids(tokenizer, row) for row in self.rows]
    self._check_lengths()
    self.generation_seconds = 0.0

  def _check_lengths(self) -> None:
    key = "evaluation" if self.settings.max_prompt_tokens else "data"
    for row, ids in zip(self.rows, self._encoded, strict=True):
      if len(ids) > self.max_prompt_tokens:
        raise ValueError(
          f"A prompt has {len(ids)} tokens, more than {key}.max_prompt_tokens="
          f"{self.max_prompt_tokens}: {row.prompt[:80]!r}. Raise the limit, or set "
          "data.long_prompts to 'skip' or 'truncate_left'."
        )

  @property
  def prompt_lengths(self) -> np.ndarray:
    """`[K]` int, tokens of each prompt."""
    return np.array([len(ids) for ids in self._encoded])

  @property
  def suites(self) -> list[str]:
    """`K` names of the suites that the rows belong to."""
    return [row.source if hasattr(row, "subject") else self._task for row in self.rows]

  def fingerprint(self) -> str:
    """SHA-256 of the prompts and answers, in their order."""
    held = [
      [ids, row.answer, row.source] for ids, row in zip(self._encoded, self.rows, strict=True)
    ]
    return hashlib.sha256(json.dumps(held, default=int).encode()).hexdigest()

  # ---- Sampling

  def replies(
    self, params: policy.Params, *, paired: bool, samples: int = 1, temperature: float,
    seeds: int = 1, dial: Mapping[str, Any] | None = None, log: SampleLog | None = None,
    dials: Dials | None = None, **changes: Any,
  ) -> Replies:  # fmt: skip
    """Samples and scores replies to every prompt, in both modes or freely.

    Every process of a job takes its share of the batches, and gets the replies to all. While one
    batch is scored, the next is sampled.

    Args:
      params: the policy's.
      paired: whether to force both modes.
      samples: replies per prompt, mode and seed.
      temperature: of modes without one of their own.
      seeds: number of seeds.
      dial: recorded with each sample, see `Sample`.
      log: kept samples are taken from here, and new ones appended batch by batch; of the process
        that writes.
      dials: in place of the settings'.
      **changes: fields of `SamplerSpec` in place of the settings'.
    """
    names = tags.MODES if paired else (files.FREE,)
    spec = SamplerSpec.of(self._tokenizer, **{
      "samples": samples, "max_tokens": self.max_response_tokens, "paired": paired,
      "slots": self.settings.decode_slots, **self.settings.drawing(temperature), **changes,
    })  # fmt: skip
    known = parallel.gather_objects(log.known if log else {})[0]
    batches = self._batches(len(names) * samples)
    failed: collections.Counter[str] = collections.Counter()
    found: list[Sample] = []
    dial = dict(dial or {})
    for seed in range(seeds):
      keys = functools.partial(_keys, names=names, samples=samples, seed=seed, dial=dial)
      missing = [batch for batch in batches if not all(key in known for key in keys(batch))]
      done = {id(batch) for batch in missing}
      found += [known[key] for batch in batches if id(batch) not in done for key in keys(batch)]
      for batch, rollouts, seconds in self._sampled(params, spec, missing, seed, dials):
        new: list[Sample] = []
        if batch is not None:
          scored = self._scored([self.rows[i] for i in batch.places], rollouts)
          failed.update(scored.judged.failed)
          new = pass_replies.to_samples(scored, names, seed=seed, seconds=seconds, dial=dial)
        for part in parallel.gather_objects(new):
          if log is not None:
            log.append(part)
          found += [known.get(sample.key, sample).without_ids() for sample in part]
    shape = (len(self.rows), len(names), samples * seeds)
    counts = sum(
      map(collections.Counter, parallel.gather_objects(dict(failed))), collections.Counter()
    )
    return pass_replies.from_samples(found, shape, names, samples, dict(counts))

  def _scored(self, rows: Sequence[PromptRow], rollouts: Rollouts) -> ScoredRollouts:
    scored = ScoredRollouts.read(self._tokenizer, rows, rollouts)
    if not self.settings.score_malformed:
      return scored.judged_by(self._scorer)
    texts = np.vectorize(summaries.well_formed_text, otypes=[object])(scored.texts)
    judged = dataclasses.replace(scored, texts=texts).judged_by(self._scorer).judged
    return dataclasses.replace(scored, judged=judged)

  def _batches(self, replies: int) -> list[Batch]:
    c = self.settings
    return make_batches(
      self._encoded, pad_id=self._tokenizer.pad_id, max_prompt_tokens=self.max_prompt_tokens,
      batch_prompts=min(c.batch_prompts, c.prompts), replies=replies,
      max_response_tokens=self.max_response_tokens, batch_tokens=c.batch_tokens,
    )  # fmt: skip

  def _sampled(
    self, params: policy.Params, spec: SamplerSpec, batches: Sequence[Batch], seed: int,
    dials: Dials | None,
  ) -> Iterator[tuple[Batch | None, Rollouts | None, float]]:  # fmt: skip
    """Yields this process's batches with their rollouts, on the host, and wall seconds.

    The next batch is under way while the caller handles one. All processes get equally many;
    `None` stands for a batch that another process alone has.
    """
    step, first = jax.process_count(), jax.process_index()
    mine = [
      batches[i + first] if i + first < len(batches) else None for i in range(0, len(batches), step)
    ]
    key, free_at = jax.random.key(_SEED + seed), 0.0

    def start(batch: Batch | None) -> tuple[float, Future | None]:
      began = time.perf_counter()
      if batch is None:
        return began, None
      rollouts = sample(self._config, spec, params, batch.prompts, key, dials=dials or self._dials)
      return began, waiter.submit(_fetched, rollouts, len(batch.places))

    # The thread only waits: programs of two threads could reach the devices in different orders.
    with ThreadPoolExecutor(1) as waiter:
      following = start(mine[0]) if mine else None
      for i, batch in enumerate(mine):
        (began, future), following = following, start(mine[i + 1]) if i + 1 < len(mine) else None
        if future is None:
          yield None, None, 0.0
          continue
        rollouts, ready = future.result()
        seconds, free_at = ready - max(began, free_at), ready
        self.generation_seconds += seconds
        yield batch, rollouts, seconds

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

  def with_budget(
    self, params: policy.Params, budget: int, log: SampleLog | None = None
  ) -> Replies:
    """The replies of `judged`, their thoughts cut after `budget` tokens."""
    c, dials = self.settings, self._dials or Dials()
    return self.replies(
      params, paired=True, samples=c.samples, temperature=c.hacc_temperature, seeds=c.seeds,
      dial={"budget": budget}, log=log,
      dials=dataclasses.replace(dials, budget=budget, closing=self._closing),
    )  # fmt: skip

  def measure(
    self, params: policy.Params, log: SampleLog | None = None,
    first_tokens: tuple[np.ndarray, np.ndarray] | None = None,
  ) -> Measured:  # fmt: skip
    """Samples and scores all that an evaluation needs.

    Where forced replies and those for Hybrid Accuracy are sampled alike, they are the same ones;
    else one forced reply is sampled per prompt and mode.

    Args:
      params: the policy's.
      log: see `replies`.
      first_tokens: of these parameters, where they are known.
    """
    c = self.settings
    first, greedy = first_tokens or self.first_tokens(params)
    auto = self.replies(
      params, paired=False, samples=c.free_samples, temperature=c.temperature, seeds=c.seeds,
      log=log,
    )  # fmt: skip
    judged = self.replies(
      params, paired=True, samples=c.samples, temperature=c.hacc_temperature, seeds=c.seeds, log=log
    )
    forced = judged
    if not c.forced_alike:
      dial = {"temperature": c.temperature}
      forced = self.replies(params, paired=True, temperature=c.temperature, dial=dial, log=log)
    return Measured(auto, forced, judged, first, greedy)

  def first_token_probs(self, params: policy.Params) -> np.ndarray:
    """`[K, 3]` probabilities that a reply opens with `<think>`, `<no_think>` or neither.

    At temperature 1 and of the whole vocabulary, whatever the evaluation samples at.
    """
    return self.first_tokens(params)[0]

  def first_tokens(self, params: policy.Params) -> tuple[np.ndarray, np.ndarray]:
    """`first_token_probs`, and the mode `[K]` of the most likely first token, -1 for neither."""
    opening = self._tokenizer.tag_ids.opening
    probs = np.zeros((len(self.rows), 1 + len(opening)), np.float32)
    greedy = np.zeros(len(self.rows), int)
    with parallel.laid_out_like(params):
      for batch in self._batches(0):
        found, tokens = _first_tokens(self._config, opening, params, batch.prompts)
        probs[batch.places] = np.asarray(found)[: len(batch.places)]
        modes = map(self._tokenizer.tag_ids.mode_of, np.asarray(tokens).tolist())
        greedy[batch.places] = list(modes)[: len(batch.places)]
    return probs, greedy

  # ---- Results

  def evaluate(self, params: policy.Params) -> dict[str, Any]:
    """The whole evaluation of one policy: the `summary` of what it replies."""
    return self.summary(self.measure(params))

  def summary(self, measured: Measured) -> dict[str, Any]:
    """An evaluation as plain JSON-like values: `summary.summarise_all`, and its settings."""
    found = summaries.summarise_all(
      self.rows, measured, self.suites, self.prompt_lengths, margin=self.settings.margin,
      votes=functools.partial(summaries.has_votes, self._reward_fn),
      score_malformed=self.settings.score_malformed,
    )  # fmt: skip
    return {**found, "sampling": self.sampling_settings()}

  def sampling_settings(self) -> dict[str, Any]:
    """How replies were sampled: settings by mode, seeds, and limits on length."""
    c = self.settings

    def by_mode(temperature: float) -> dict[str, dict[str, float]]:
      drawing = c.drawing(temperature)
      return {
        mode: {n: x[m] if isinstance(x, tuple) else x for n, x in drawing.items()}
        for m, mode in enumerate((*tags.MODES, "neither"))
      }

    return {
      "free": by_mode(c.temperature), "forced": by_mode(c.temperature),
      "hacc": by_mode(c.hacc_temperature), "seeds": list(range(c.seeds)),
      "free_samples": c.free_samples, "samples": c.samples,
      "max_prompt_tokens": self.max_prompt_tokens,
      "max_response_tokens": self.max_response_tokens,
    }  # fmt: skip

  def prompt_records(self, first: np.ndarray, greedy: np.ndarray) -> list[PromptRecord]:
    """The prompts as `prompts.jsonl` keeps them; see `first_tokens` for the arguments."""
    return [
      PromptRecord(
        prompt_id=i, suite=suite, prompt=row.prompt, answer=row.answer, level=row.level,
        subject=getattr(row, "subject", ""), source=row.source, p_think=p[tags.THINK],
        p_no_think=p[tags.NO_THINK], p_neither=p[-1],
        greedy_mode=tags.MODES[mode] if mode != tags.INVALID_MODE else "",
        prompt_tokens=len(self._encoded[i]),
      )
      for i, (row, suite, p, mode) in enumerate(
        zip(self.rows, self.suites, first.tolist(), greedy.tolist(), strict=True)
      )
    ]  # fmt: skip

  def hybrid_accuracy(self, auto: Replies, judged: Replies, first: np.ndarray) -> HybridAccuracy:
    """Hybrid Accuracy of free replies; see `Measured` for the arguments."""
    chosen = summaries.chosen_modes(auto)
    return hybrid_accuracy(
      judged.scores, judged.lengths, chosen, margin=self.settings.margin, mode_probs=first
    )

  def by_prompt(self, measured: Measured) -> dict[str, list]:
    """What pairs two policies prompt by prompt, see `summary.by_prompt`."""
    return summaries.by_prompt(self.rows, measured, self.settings.margin)

  def summarise_first_token(self, probs: np.ndarray) -> dict[str, Any]:
    """Mean probabilities of a first token, `[K, 3]`, whole and by level."""
    return summaries.summarise_first_token(self.rows, probs)

  def summarise(self, replies: Replies, mode_axis: int) -> dict[str, Any]:
    """Accuracy, tokens and think rate of one place on the mode axis, see `summary.summarise`."""
    return summaries.summarise(self.rows, replies, mode_axis, self.prompt_lengths)


def _keys(
  batch: Batch, *, names: Sequence[str], samples: int, seed: int, dial: Mapping[str, Any]
) -> list[SampleKey]:
  of_dial = tuple(sorted(dial.items()))
  return [
    (int(place), name, seed, number, of_dial)
    for place in batch.places for name in names for number in range(samples)
  ]  # fmt: skip


def _fetched(rollouts: Rollouts, prompts: int) -> tuple[Rollouts, float]:
  """The first prompts' rollouts on the host, and when they were there."""
  found = jax.device_get(rollouts)
  ready = time.perf_counter()
  return jax.tree.map(lambda x: x[:prompts] if np.ndim(x) else x, found), ready


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first_tokens(
  config: PolicyConfig, opening: tuple[int, int], params: policy.Params, prompts: Prompts
) -> tuple[jax.Array, jax.Array]:
  hidden, _ = prefill(config, params, prompts)
  logits = policy.next_token_logits(config, params, hidden)
  return jnp.exp(mode_logprobs(logits, opening)), jnp.argmax(logits, axis=-1)
