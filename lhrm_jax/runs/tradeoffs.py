"""Files beside an evaluation's samples: its dials, and routers against the policy's choice."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax import parallel, policy, routing
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.evaluation import Evaluator, Measured, routers, samples
from lhrm_jax.evaluation.calibration import p_think
from lhrm_jax.evaluation.dial_sweep import sweep, sweep_budgets
from lhrm_jax.evaluation.mode_leak import mode_leak
from lhrm_jax.evaluation.report import finite
from lhrm_jax.evaluation.tradeoff import Outcomes, shares_of_modes
from lhrm_jax.rewards.rollout_files import read_rollouts
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.runs import setup
from lhrm_jax.runs.json_files import write_json
from lhrm_jax.sampling import Prompts, mode_logprobs, prefill
from lhrm_jax.text import tags

DIALS, ROUTING, THRESHOLDS = "dials.json", "routing.json", "thresholds.json"
_MODES = {"": tags.INVALID_MODE, **{name: mode for mode, name in enumerate(tags.MODES)}}


def swept_dials(
  evaluator: Evaluator, measured: Measured, params: policy.Params, log: samples.SampleLog | None
) -> dict[str, Any]:
  """Accuracy against tokens along the dials of one policy, see `evaluation.dial_sweep`.

  Args:
    evaluator: its settings name the budgets, whose replies are sampled here.
    measured: the evaluation without them.
    params: of the policy.
    log: see `Evaluator.replies`.
  """
  of = functools.partial(Outcomes.of, margin=evaluator.settings.margin)
  outcomes = of(measured.judged.scores, measured.judged.lengths)
  found = sweep(outcomes, measured.first)
  if evaluator.settings.budgets:
    by_budget = {}
    for budget in evaluator.settings.budgets:
      replies = evaluator.with_budget(params, budget, log)
      by_budget[budget] = of(replies.scores, replies.lengths)
    found |= sweep_budgets(outcomes, by_budget, shares_of_modes(_valid(measured)))
  return finite(found)


def _valid(measured: Measured) -> np.ndarray:
  """Modes `[K, n]` of the free replies; a malformed one has none."""
  auto = measured.auto
  return np.where(auto.well_formed, auto.modes, tags.INVALID_MODE)[:, 0]


def drift_since(reference: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
  """The "mode_leak" of an evaluation with the drift of direct replies since an earlier stage.

  It is kept beside the summary, which is the policy's alone.

  Args:
    reference: folder of the earlier stage's evaluation.
    folder: of this stage's.

  Returns:
    An empty dict where the earlier stage was not evaluated on the same prompts.
  """
  if reference == folder:
    return {}
  try:
    before, after = (Evaluated.read(path) for path in (reference, folder))
  except (FileNotFoundError, UserError):
    return {}
  if before.prompts != after.prompts:
    return {}
  found = mode_leak(after.direct, after.lengths, before.lengths[:, tags.NO_THINK])
  return {"mode_leak": dataclasses.asdict(found)}


# ---- Routers


@dataclasses.dataclass(frozen=True)
class Evaluated:
  """An evaluation read back from its folder; `K` prompts, `n` forced replies per mode.

  Attributes:
    prompts: the `K` texts.
    scores: `[K, 2, n]` of forced replies.
    lengths: `[K, 2, n]` their tokens.
    direct: `[K, n]` str objects, the replies without thinking.
    chosen: `[K, m]` modes of the free replies, -1 where malformed.
    first: `[K, 3]` probabilities of the first token.
  """

  prompts: list[str]
  scores: np.ndarray
  lengths: np.ndarray
  direct: np.ndarray
  chosen: np.ndarray
  first: np.ndarray

  @classmethod
  def read(cls, folder: pathlib.Path) -> "Evaluated":
    """Reads `prompts.jsonl` and `samples.jsonl` of `WORKDIR/evaluation/STAGE`.

    Raises:
      FileNotFoundError: there are none.
      UserError: a line is damaged, or replies are missing.
    """
    with as_user_error(ValueError):
      records = samples.read_prompts(folder)
      plain = [s.without_ids() for s in samples.read_samples(folder) if not s.dial]
    by_pass: dict[str, dict[int, list[samples.Sample]]] = {name: {} for name in samples.PASSES}
    for sample in sorted(plain, key=lambda s: (s.seed, s.sample)):
      by_pass[sample.pass_name].setdefault(sample.prompt_id, []).append(sample)
    ids = [record.prompt_id for record in records]
    counts = {name: {len(of.get(i, ())) for i in ids} for name, of in by_pass.items()}
    if any(len(n) != 1 or 0 in n for n in counts.values()) or counts["think"] != counts["no_think"]:
      raise UserError(f"{folder}: replies are missing. Run the evaluation's command to its end.")

    def values(name: str, value: Any) -> list[list[Any]]:
      return [[value(sample) for sample in by_pass[name][i]] for i in ids]

    def paired(value: Any) -> np.ndarray:
      return np.stack([np.array(values(mode, value)) for mode in tags.MODES], axis=1)

    return cls(
      prompts=[record.prompt for record in records],
      scores=paired(lambda s: s.score),
      lengths=paired(lambda s: s.tokens),
      direct=np.array(values("no_think", lambda s: s.text), object),
      chosen=np.array(
        values(samples.FREE, lambda s: _MODES[s.mode] if s.well_formed else tags.INVALID_MODE)
      ),
      first=np.array([[r.p_think, r.p_no_think, r.p_neither] for r in records]),
    )


def training_rollouts(run: setup.Setup) -> list[ScoredRollouts]:
  """The scored rollouts on training prompts that `rollouts.path` names, both modes of each.

  Raises:
    UserError: there are none, they are damaged or of another policy, or their modes are not paired.
  """
  c = run.config.rollouts
  fingerprint = policy.fingerprint(run.params) if c.policy == "same" else ""
  with as_user_error(ValueError):
    found = list(read_rollouts(c, run.tokenizer, run.policy_config.vocab_size, fingerprint))
  if any(scored.scores.shape[1] != len(tags.MODES) for scored in found):
    raise UserError(
      f"rollouts.path={c.path!r}: a router learns from both modes of each prompt. Sample them with "
      "hgpo.pairing='paired'."
    )
  return found


def examples_of(rollouts: Iterable[ScoredRollouts], margin: float) -> routing.Examples:
  """Prompts with their better mode, by the rule of Hybrid Accuracy, and the gain of thinking."""
  prompts: list[str] = []
  think_better, gain = [], []
  for scored in rollouts:
    outcomes = Outcomes.of(scored.scores, scored.lengths, margin=margin)
    prompts += [row.prompt for row in scored.rows]
    think_better.append(outcomes.better == tags.THINK)
    gain.append(outcomes.gain)
  return routing.Examples(prompts, np.concatenate(think_better), np.concatenate(gain))


def train_routers(examples: routing.Examples, folder: pathlib.Path) -> list[routing.TrainedRouter]:
  """Trains every registered router and saves it as `folder/NAME.json`.

  Raises:
    UserError: a router needs a package that is not installed.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with as_user_error(ImportError):
    trained = [routing.train(name, examples) for name in routing.names()]
  for router in trained:
    routing.save(folder / f"{router.name}.json", router)
  return trained


def write_comparison(
  folder: pathlib.Path, trained: Sequence[routing.TrainedRouter], margin: float,
  examples: routing.Examples,
) -> dict[str, Any]:  # fmt: skip
  """Compares routers with the policy on an evaluation, and writes `routing.json` beside it.

  Args:
    folder: `WORKDIR/evaluation/STAGE`.
    trained: the routers.
    margin: of Hybrid Accuracy.
    examples: what they were trained on.

  Returns:
    What `evaluation.routers.compare` does, with "remarks", and "trained_on": the number of
    examples, and how many of the evaluation's prompts are among them word for word.

  Raises:
    UserError: the evaluation is missing or damaged, or a router's name is taken.
  """
  with as_user_error(FileNotFoundError):
    evaluated = Evaluated.read(folder)
  with as_user_error(ValueError):
    found = routers.compare(
      Outcomes.of(evaluated.scores, evaluated.lengths, margin=margin),
      shares_of_modes(evaluated.chosen), p_think(evaluated.first),
      {router.name: router.probability(evaluated.prompts) for router in trained},
      {router.name: router.modes(evaluated.prompts) for router in trained},
    )  # fmt: skip
  seen = set(examples.prompts)
  trained_on = {
    "prompts": len(examples.prompts),
    "evaluation_prompts_seen": sum(prompt in seen for prompt in evaluated.prompts),
  }
  found = finite({**found, "remarks": routers.remarks(found), "trained_on": trained_on})
  write_json(folder / ROUTING, found)
  return found


def thresholds_of(run: setup.Setup, rollouts: Iterable[ScoredRollouts]) -> routing.Thresholds:
  """Thresholds on the policy's p(think), calibrated on the training prompts of rollouts."""
  params, opening = run.sampling_params(run.params), run.tokenizer.tag_ids.opening
  batches = [scored.rollouts.prompts for scored in rollouts]
  width = max(batch.tokens.shape[1] for batch in batches)  # one program for all
  found = []
  with parallel.laid_out_like(params):
    for batch in batches:
      tokens = np.pad(batch.tokens, ((0, 0), (0, width - batch.tokens.shape[1])))
      prompts = Prompts(tokens, batch.lengths, batch.ids)
      found.append(np.asarray(_first_token_probs(run.policy_config, opening, params, prompts)))
  return routing.Thresholds.of(p_think(np.concatenate(found)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first_token_probs(
  config: policy.PolicyConfig, opening: tuple[int, int], params: policy.Params, prompts: Prompts
) -> jax.Array:
  hidden, _ = prefill(config, params, prompts)
  return jnp.exp(mode_logprobs(policy.next_token_logits(config, params, hidden), opening))
