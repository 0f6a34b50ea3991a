"""What DPO and RFT train on, as a config describes it: read and chosen once, drawn by step."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lhrm_jax import parallel, policy
from lhrm_jax.data.batches import Encoded
from lhrm_jax.data.packing import most_rows, pack
from lhrm_jax.data.pairs import PairBatch, pack_pairs
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.planning.flops import sequence_flops, update_passes
from lhrm_jax.rewards import selection
from lhrm_jax.rewards.rollout_files import read_rollouts
from lhrm_jax.rewards.selection import Pair
from lhrm_jax.runs.budget import Budget
from lhrm_jax.runs.config import Config
from lhrm_jax.runs.setup import Setup
from lhrm_jax.text import tags
from lhrm_jax.training.dpo import make_pair_logprobs
from lhrm_jax.training.offline import OfflineConfig, drawn
from lhrm_jax.training.packed import RowShape


def check(config: Config, workdir: str, stage: str) -> None:
  """Raises:
  UserError: the config names nothing to start from or to train on, or what would be moved aside.
  """
  if not config.init_from:
    raise UserError("Name the run to start from: --config.init_from=RUN.")
  if not config.rollouts.path:
    raise UserError(
      f"{stage} trains on rollouts: --config.rollouts.path=DIR, a --workdir of "
      "experiments.rollouts."
    )
  path, folder = (pathlib.Path(x).expanduser().absolute() for x in (config.rollouts.path, workdir))
  if folder in (path, *path.parents):
    raise UserError(f"rollouts.path={path} lies in --workdir={workdir}: choose another folder.")


@dataclasses.dataclass(frozen=True)
class Batch:
  """The rows of a step, over the mesh, and the FLOPs of the update by them."""

  rows: Any
  flops: float


@dataclasses.dataclass(frozen=True)
class Preferences:
  """The pairs of a run.

  Attributes:
    pairs: all of them.
    rows: shape of the rows that they are packed into.
    longest: slots of the longest.
    most: pairs that fit into a row at most.
    ref_logprobs: `[P, 2]` of whole responses under the policy that training starts from.
    spent: what their rollouts and their log-probabilities cost.
    facts: metrics of the data.
    epochs_per_step: passes over the data that a step makes.
  """

  pairs: Sequence[Pair]
  rows: RowShape
  longest: int
  most: int
  ref_logprobs: np.ndarray
  spent: Budget
  facts: dict[str, float]
  epochs_per_step: float


def preferences(run: Setup, reference: policy.Params) -> Preferences:
  """Reads the rollouts, pairs their responses, and scores these once under the reference.

  Raises:
    UserError: the rollouts cannot be read, are not this policy's, or give no pair.
  """
  c, spent = run.config.dpo, Budget(run.policy_config)
  pairs, queries = [], 0
  for scored in _rollouts(run, reference, spent):
    pairs += selection.preference_pairs(scored)
    queries += len(scored.rows)
  if not pairs:
    raise UserError(
      f"rollouts.path={run.config.rollouts.path!r}: none of {queries:,} queries has one mode whose "
      "responses score higher than the other's: nothing is preferred."
    )
  sequences = [x for pair in pairs for x in (pair.chosen, pair.rejected)]
  _check_positions(run, sequences)
  slots = [pair.slots for pair in pairs]
  rows = _row_shape(c, slots, run, "dpo", c.pairs_per_step)
  facts = {
    "pairs/total": len(pairs),
    "pairs/query_frac": len(pairs) / queries,
    "pairs/chosen_think_frac": float(np.mean([pair.mode == tags.THINK for pair in pairs])),
  }
  unknown = np.zeros((len(pairs), 2), np.float32)
  spent.flops += _flops(run, sequences)
  found = Preferences(
    pairs, rows, max(slots), rows.length // min(slots), unknown, spent, facts,
    c.pairs_per_step / len(pairs),
  )  # fmt: skip
  return dataclasses.replace(found, ref_logprobs=_reference_logprobs(run, found, reference))


def _reference_logprobs(run: Setup, found: Preferences, reference: policy.Params) -> np.ndarray:
  """Of all pairs, as many at a time as a step takes, in one program."""
  score = make_pair_logprobs(run.policy_config, run.mesh, found.rows.at_a_time)
  scored, count = [], run.config.dpo.pairs_per_step
  for first in range(0, len(found.pairs), count):
    at = np.arange(first, min(first + count, len(found.pairs)))
    batch, place = _packed(run, found, at)
    of_rows = jax.device_get(score(reference, parallel.shard_rows(run.mesh, batch)))
    scored.append(of_rows[place[:, 0], place[:, 1]])
  return np.concatenate(scored)


def pair_batch(run: Setup, found: Preferences, step: int) -> Batch:
  """The rows of one DPO step: a function of the seed and the step alone."""
  at = drawn(run.config.seed, step, run.config.dpo.pairs_per_step, len(found.pairs))
  sequences = [x for i in at for x in (found.pairs[i].chosen, found.pairs[i].rejected)]
  rows = parallel.shard_rows(run.mesh, _packed(run, found, at)[0])
  return Batch(rows, _update_flops(run, sequences))


def _packed(run: Setup, found: Preferences, at: np.ndarray) -> tuple[PairBatch, np.ndarray]:
  pairs = [(found.pairs[i].chosen, found.pairs[i].rejected) for i in at]
  length = found.rows.length
  return pack_pairs(
    pairs, found.ref_logprobs[at], length, found.most, pad_id=run.tokenizer.pad_id,
    lanes=found.rows.lanes, least=most_rows(run.config.dpo.pairs_per_step, found.longest, length),
    devices=found.rows.devices,
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BestResponses:
  """The responses that RFT trains on.

  Attributes:
    pools: responses that a step draws from in equal parts; one, or one per mode.
    rows: shape of the rows that they are packed into.
    longest: slots of the longest.
    spent: what their rollouts cost.
    facts: metrics of the data.
    epochs_per_step: passes over the data that a step makes.
  """

  pools: Sequence[Sequence[Encoded]]
  rows: RowShape
  longest: int
  spent: Budget
  facts: dict[str, float]
  epochs_per_step: float


def best_responses(run: Setup, start: policy.Params) -> BestResponses:
  """Reads the rollouts and takes the best responses, each of them once.

  Raises:
    UserError: the rollouts cannot be read, are not this policy's, or none is good enough.
  """
  c, spent = run.config.rft, Budget(run.policy_config)
  found, queries = [], 0
  rng = np.random.default_rng([run.config.seed, 0])
  for scored in _rollouts(run, start, spent):
    found += selection.best_responses(
      scored, best_of=c.best_of, ties=c.ties, above=c.above, rng=rng
    )
    queries += len(scored.rows)
  kept = selection.without_duplicates(found)
  if not kept:
    raise UserError(
      f"rollouts.path={run.config.rollouts.path!r}: no well-formed response to {queries:,} queries "
      f"has a score above rft.above={c.above:g}."
    )
  by_mode = [[encoded for encoded, m in kept if m == mode] for mode in range(len(tags.MODES))]
  if c.balance == "equal" and not all(by_mode):
    missing = tags.MODES[[bool(pool) for pool in by_mode].index(False)]
    raise UserError(f"rft.balance='equal', and none of the best responses is in mode {missing}.")
  pools = by_mode if c.balance == "equal" else [[encoded for encoded, _ in kept]]
  sequences = [encoded for encoded, _ in kept]
  _check_positions(run, sequences)
  facts = {
    "responses/total": len(kept),
    "responses/duplicate_frac": 1 - len(kept) / len(found),
    "responses/think_frac": len(by_mode[tags.THINK]) / len(kept),
  }
  slots = [encoded.slots for encoded in sequences]
  rows = _row_shape(c, slots, run, "rft", c.responses_per_step)
  epochs = c.responses_per_step / len(kept)
  return BestResponses(pools, rows, max(slots), spent, facts, epochs)


def response_batch(run: Setup, found: BestResponses, step: int) -> Batch:
  """The rows of one RFT step: a function of the seed and the step alone."""
  c, sequences = run.config.rft, []
  for pool in found.pools:
    count = c.responses_per_step // len(found.pools)
    sequences += [pool[i] for i in drawn(run.config.seed, step, count, len(pool))]
  length = found.rows.length
  packed = pack(
    sequences, length, pad_id=run.tokenizer.pad_id, lanes=found.rows.lanes,
    least=most_rows(c.responses_per_step, found.longest, length), devices=found.rows.devices,
  )  # fmt: skip
  return Batch(parallel.shard_rows(run.mesh, packed), _update_flops(run, sequences))


def _flops(run: Setup, sequences: Sequence[Encoded]) -> float:
  """FLOPs of one forward pass."""
  predicted = sum(sum(weight > 0 for weight in sequence.weights) for sequence in sequences)
  return sequence_flops(run.policy_config, [x.slots for x in sequences], predicted)


def _update_flops(run: Setup, sequences: Sequence[Encoded]) -> float:
  return update_passes(run.policy_config) * _flops(run, sequences)


def _rollouts(run: Setup, start: policy.Params, spent: Budget) -> Any:
  """The rollouts of the config, step by step, each counted; says at the end what was left out."""
  c, left_out = run.config.rollouts, collections.Counter()
  with as_user_error(OSError, ValueError):
    for scored in read_rollouts(
      c, run.tokenizer, run.policy_config.vocab_size, policy.fingerprint(start), left_out
    ):
      spent.add(scored)
      yield scored
  for reason, count in left_out.items():
    if parallel.is_writer():
      print(f"{count:,} queries of rollouts.path are left out: {reason}.", flush=True)


def _check_positions(run: Setup, sequences: Sequence[Encoded]) -> None:
  longest = max(len(sequence.ids) for sequence in sequences)
  if longest > run.policy_config.max_positions:
    raise UserError(
      f"rollouts.path={run.config.rollouts.path!r}: a prompt and its response have {longest} "
      f"tokens, more than policy.max_positions={run.policy_config.max_positions}."
    )


def _row_shape(
  c: OfflineConfig, slots: Sequence[int], run: Setup, section: str, count: int
) -> RowShape:
  longest = max(slots)
  if c.packed_length and c.packed_length < longest:
    raise UserError(
      f"{section}.packed_length={c.packed_length} is less than the {longest} places of the longest "
      f"that must fit into a row: set it to {longest} or more, or to 0."
    )
  return RowShape.of(c, longest, count, run.mesh)
