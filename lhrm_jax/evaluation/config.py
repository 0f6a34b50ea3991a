"""Knobs of an evaluation: what is asked, how replies are sampled, and who judges them."""

import dataclasses

from lhrm_jax.config import (
  FLAG,
  MOST_ROWS,
  MOST_TOKENS,
  NAMES,
  TEMPERATURE,
  TEMPERATURE_OR_GREEDY,
  Range,
  idle,
  knob,
  real,
  section,
  together,
  whole,
)
from lhrm_jax.evaluation import suites
from lhrm_jax.evaluation.judge import JudgeConfig
from lhrm_jax.evaluation.suites.livecodebench import LiveCodeBenchConfig
from lhrm_jax.sampling import ByMode, DialsConfig
from lhrm_jax.sampling.decoding import decode_slots
from lhrm_jax.text import tags

_AS_ALL = -1  # of a mode's own settings: as the others

_TEMPERATURE = Range(
  lambda x: TEMPERATURE_OR_GREEDY.holds(x) or _is_unset(x),
  f"-1 (as all replies), 0 (greedy), or {TEMPERATURE.allowed}",
)
_TOP_P = Range(
  lambda x: real(0, 1, above=True).holds(x) or _is_unset(x),
  "-1 (as all replies), or a number above 0 and at most 1",
)


def _is_unset(x: object) -> bool:
  return isinstance(x, int | float) and not isinstance(x, bool) and x == _AS_ALL


@dataclasses.dataclass(frozen=True)
class ModeSamplingConfig:
  """Sampling settings of the replies in one mode; -1 leaves one as for all replies."""

  temperature: float = knob(_AS_ALL, _TEMPERATURE, "Temperature of replies in this mode.")
  top_p: float = knob(_AS_ALL, _TOP_P, "Nucleus sampling of replies in this mode.")
  top_k: int = knob(_AS_ALL, whole(_AS_ALL), "Top-k sampling of replies in this mode, 0 for none.")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """Knobs of an evaluation, the section `evaluation` of a config."""

  prompts: int = knob(
    500, whole(1, MOST_ROWS), "Evaluation prompts, at most; of each suite where any is named."
  )
  batch_prompts: int = knob(100, whole(1, MOST_ROWS), "Prompts sampled at a time, at most.")
  temperature: float = knob(
    0.6, TEMPERATURE_OR_GREEDY, "Sampling temperature of the free and the forced replies."
  )
  top_p: float = knob(0.95, real(0, 1, above=True), "Nucleus sampling of all replies.")
  samples: int = knob(4, whole(1, 2**16), "Replies per mode and prompt, for Hybrid Accuracy.")
  hacc_temperature: float = knob(
    0.6, TEMPERATURE_OR_GREEDY, "Sampling temperature for Hybrid Accuracy."
  )
  margin: float = knob(0.0, real(0), "Lead below which Hybrid Accuracy counts two modes as tied.")
  suites: str = knob(
    "",
    NAMES,
    'Suites to evaluate on in place of the task\'s prompts, as "gsm8k,math500=math500.jsonl": '
    "each from the hub, or from a file in the same format (docs/evaluation.md).",
  )
  free_samples: int = knob(1, whole(1, 2**16), "Free replies per prompt and seed.")
  seeds: int = knob(
    1,
    whole(1, 2**16),
    "Seeds of the free replies and of those for Hybrid Accuracy, sampled once with each.",
  )
  max_prompt_tokens: int = knob(
    0, whole(0, MOST_TOKENS), "Longest prompt of an evaluation; 0 for `data.max_prompt_tokens`."
  )
  max_response_tokens: int = knob(
    0, whole(0, MOST_TOKENS), "Longest reply of an evaluation; 0 for `data.max_response_tokens`."
  )
  batch_tokens: int = knob(
    0,
    whole(0),
    "Slots of keys and values of a batch, at most: its prompts and the longest replies to each; 0 "
    "for no bound but `batch_prompts`.",
  )
  decode_slots: int = decode_slots()
  top_k: int = knob(0, whole(0), "Top-k sampling of all replies, 0 for none.")
  score_malformed: bool = knob(
    False,
    FLAG,
    "Whether a malformed reply is scored by its text without tags, not 0: for models that were "
    "never trained on the tags.",
  )
  think: ModeSamplingConfig = section(ModeSamplingConfig)
  no_think: ModeSamplingConfig = section(ModeSamplingConfig)
  dials: DialsConfig = section(DialsConfig)
  budgets: tuple[int, ...] = knob(
    (),
    Range(
      lambda x: isinstance(x, list | tuple) and all(whole(1, MOST_TOKENS).holds(n) for n in x),
      "budgets of thoughts in tokens, whole numbers above 0, as in (64, 256)",
    ),
    "Budgets of thoughts to sweep in dials.json: each samples the forced replies once more, with "
    "`dials.closing`.",
  )
  livecodebench: LiveCodeBenchConfig = section(LiveCodeBenchConfig)
  judge: JudgeConfig = section(JudgeConfig)

  def drawing(self, temperature: float) -> dict[str, ByMode]:
    """Temperature, top-p and top-k of replies, as `SamplerSpec` takes them.

    Args:
      temperature: of replies in a mode without one of its own.
    """
    found: dict[str, ByMode] = {}
    shared = {"temperature": temperature, "top_p": self.top_p, "top_k": self.top_k}
    for name, of_all in shared.items():
      own = [getattr(getattr(self, mode), name) for mode in tags.MODES]
      by_mode = (*(of_all if _is_unset(x) else x for x in own), of_all)
      found[name] = of_all if len(set(by_mode)) == 1 else by_mode
    return found

  @property
  def forced_alike(self) -> bool:
    """Whether forced replies are drawn as those for Hybrid Accuracy, whose modes are forced too."""
    first, second = (
      [x[:2] if isinstance(x, tuple) else (x, x) for x in self.drawing(temperature).values()]
      for temperature in (self.temperature, self.hacc_temperature)
    )
    return first == second


@together(EvaluationConfig, "suites")
def _suites_known(c: EvaluationConfig) -> str:
  try:
    suites.names_and_paths(c.suites)
  except ValueError as error:
    return f"evaluation.suites={c.suites!r}: {error}"
  return ""


@together(EvaluationConfig, "budgets", "dials.budget")
def _one_budget(c: EvaluationConfig) -> str:
  if not (c.budgets and c.dials.budget):
    return ""
  return (
    f"evaluation.budgets={c.budgets} are compared with replies without a budget, and "
    f"evaluation.dials.budget={c.dials.budget} gives all of them one: set one of the two."
  )


@idle(EvaluationConfig, "top_p", "top_k")
def _all_greedy(c: EvaluationConfig) -> str:
  if c.temperature or c.hacc_temperature or any(_draws(c, mode) for mode in tags.MODES):
    return ""
  return "evaluation.temperature=0 and evaluation.hacc_temperature=0 (greedy)"


def _draws(c: EvaluationConfig, mode: str) -> bool:
  """Whether a mode has a temperature of its own, above 0."""
  return getattr(c, mode).temperature > 0


@idle(EvaluationConfig, "decode_slots")
def _slots_for_all(c: EvaluationConfig) -> str:
  most = c.batch_prompts * max(2 * c.samples, c.free_samples)
  if c.decode_slots < most:
    return ""
  return f"at most {most:,} replies to evaluation.batch_prompts={c.batch_prompts} at a time"


@idle(EvaluationConfig, "samples")
def _same_samples(c: EvaluationConfig) -> str:
  if c.hacc_temperature or c.samples == 1 or any(_draws(c, mode) for mode in tags.MODES):
    return ""
  return "evaluation.hacc_temperature=0: greedy samples are all the same"


@idle(EvaluationConfig, "dials.closing")
def _never_cut(c: EvaluationConfig) -> str:
  if c.dials.budget or c.budgets:
    return ""
  return "evaluation.dials.budget=0 and evaluation.budgets=()"


@idle(EvaluationConfig, "free_samples")
def _same_free_samples(c: EvaluationConfig) -> str:
  if c.temperature or any(_draws(c, mode) for mode in tags.MODES):
    return ""
  return "evaluation.temperature=0: greedy replies are all the same"


@idle(EvaluationConfig, "seeds")
def _same_seeds(c: EvaluationConfig) -> str:
  if c.temperature or c.hacc_temperature or any(_draws(c, mode) for mode in tags.MODES):
    return ""
  return "evaluation.temperature=0 and evaluation.hacc_temperature=0: greedy replies are the same"


@idle(
  EvaluationConfig, *(f"livecodebench.{f.name}" for f in dataclasses.fields(LiveCodeBenchConfig))
)
def _no_livecodebench(c: EvaluationConfig) -> str:
  return "" if "livecodebench" in named(c) else "evaluation.suites without livecodebench"


@idle(EvaluationConfig, *(f"judge.{f.name}" for f in dataclasses.fields(JudgeConfig)))
def _nothing_judged(c: EvaluationConfig) -> str:
  return "" if judged(c) else "evaluation.suites without alpaca_eval and arena_hard"


@idle(EvaluationConfig, "judge.baseline")
def _no_arena(c: EvaluationConfig) -> str:
  return "" if "arena_hard" in named(c) else "evaluation.suites without arena_hard"


def named(c: EvaluationConfig) -> list[str]:
  """Names of the suites; none where they are wrong."""
  try:
    return list(suites.names_and_paths(c.suites))
  except ValueError:
    return []


def judged(c: EvaluationConfig) -> list[str]:
  """Names of the suites that a judge scores."""
  return [name for name in named(c) if suites.REGISTRY.get(name).scorer == suites.JUDGE]
