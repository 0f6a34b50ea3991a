"""A catalog of public data sets: where they are on the hub, and how to read their rows.

`load("gsm8k")` gives queries, `load("openr1_math")` demonstrations. A copy on disk in the same
format is read by passing its path.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

from lhrm_jax.data import rows, sources
from lhrm_jax.data.rows import BadRow, Fields
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.data.sources import Loaded, Source
from lhrm_jax.text import boxes

# What the paper appends to a mathematical question (https://arxiv.org/abs/2505.14631).
MATH_SUFFIX = "Let's think step by step and output the final answer within \\boxed{}."


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set: where its rows are, the function that reads one, and the kind of row it returns."""

  source: Source
  to_row: Callable[[Fields], PromptRow | HFTRow | None]
  kind: type[PromptRow] | type[HFTRow] = PromptRow


def math_prompt(question: str) -> str:
  """`question` with the request for a boxed answer."""
  return f"{question.strip()}\n{MATH_SUFFIX}"


def boxed(solution: str) -> str:
  """The content of the last `\\boxed{...}` of a solution.

  Raises:
    BadRow: there is none, or it is never closed.
  """
  box = boxes.last(solution)
  if box is None:
    raise BadRow("the solution boxes no answer")
  if box.content is None:
    raise BadRow("the \\boxed{ of the solution never closes")
  return box.content


def _question(fields: Fields, prompt: str, answer, level=0, *, source: str) -> PromptRow:
  """A mathematical query whose question is in the column `prompt`."""
  if answer in (None, ""):
    raise BadRow(f"no answer; the row has {rows.columns(fields)}")
  asked = math_prompt(rows.text_field(fields, prompt))
  return rows.prompt_row(
    {"prompt": asked, "answer": _whole(answer), "level": level, "source": source}
  )


def _whole(answer) -> str:
  """An answer as text; 27.0, which a table made of a whole number, as 27."""
  text = rows.answer_text(answer).strip()
  return text.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", text) else text


def _gsm8k(fields: Fields) -> PromptRow:
  _, mark, answer = rows.text_field(fields, "answer").rpartition("####")
  if not mark:
    raise BadRow("the answer holds no '####'")
  return _question(fields, "question", answer.strip().replace(",", ""), source="gsm8k")


def _gsm8k_solved(fields: Fields, mode: str) -> HFTRow:
  """The worked solution as reasoning, or its result alone, without calculator marks `<<...>>`."""
  row = _gsm8k(fields)
  work = re.sub(r"<<.*?>>", "", fields["answer"].rpartition("####")[0]).strip()
  answer = f"\\boxed{{{row.answer}}}"
  response = answer if mode == "no_think" else f"<think>{work}</think>{answer}"
  return rows.hft_row({"prompt": row.prompt, "response": response, "mode": mode})


def _math(fields: Fields) -> PromptRow:
  level = re.search(r"\d", str(fields.get("level", "")))  # "Level 5", 5, or "Level ?"
  answer = fields.get("answer") or boxed(str(fields.get("solution", "")))
  return _question(fields, "problem", answer, int(level[0]) if level else 0, source="math")


def _deepscaler(fields: Fields) -> PromptRow:
  return _question(fields, "problem", fields.get("answer"), source="deepscaler")


def _aime(fields: Fields) -> PromptRow:
  question = "problem" if "problem" in fields else "Question"
  answer = fields.get("answer", fields.get("Answer"))
  return _question(fields, question, answer, source="aime")


def _amc(fields: Fields) -> PromptRow:
  question = "question" if "question" in fields else "problem"
  return _question(fields, question, fields.get("answer"), source="amc")


def _openr1_math(fields: Fields) -> HFTRow | None:
  """The first complete generation that was verified; `None` where the row has none."""
  generations = fields.get("generations")
  if generations is None:
    raise BadRow(f"no 'generations'; the row has {rows.columns(fields)}")
  if not isinstance(generations, list):
    raise BadRow(f"'generations' is {type(generations).__name__}, not a list")
  count = len(generations)
  verified, complete = (
    fields.get(column) or [True] * count
    for column in ("correctness_math_verify", "is_reasoning_complete")
  )
  if not (isinstance(verified, list) and isinstance(complete, list)) or (
    len(verified) != count or len(complete) != count
  ):
    raise BadRow(
      f"'correctness_math_verify' and 'is_reasoning_complete' are not lists of {count}, as "
      "'generations'"
    )
  for text, right, whole in zip(generations, verified, complete, strict=True):
    if right and whole:
      prompt = math_prompt(rows.text_field(fields, "problem"))
      return rows.hft_row({"prompt": prompt, "response": text, "mode": "think"})
  return None


def _tulu3_preferences(fields: Fields) -> PromptRow:
  """The query of a preference pair, whose responses a reward model scores."""
  prompt = fields.get("prompt")
  if not prompt:
    match fields.get("chosen"):
      case [{"role": "user", "content": prompt}, *_]:
        pass
  return rows.prompt_row({"prompt": prompt, "answer": "", "source": "tulu3"})


DATASETS: dict[str, Dataset] = {
  "gsm8k": Dataset(Source("hf:openai/gsm8k", subset="main"), _gsm8k),
  "gsm8k_think": Dataset(
    Source("hf:openai/gsm8k", subset="main"), functools.partial(_gsm8k_solved, mode="think"), HFTRow
  ),
  "gsm8k_no_think": Dataset(
    Source("hf:openai/gsm8k", subset="main"),
    functools.partial(_gsm8k_solved, mode="no_think"),
    HFTRow,
  ),
  "gsm8k_test": Dataset(Source("hf:openai/gsm8k", "test", subset="main"), _gsm8k),
  "math": Dataset(Source("hf:DigitalLearningGmbH/MATH-lighteval"), _math),
  "math500": Dataset(Source("hf:HuggingFaceH4/MATH-500", "test"), _math),
  "deepscaler": Dataset(Source("hf:agentica-org/DeepScaleR-Preview-Dataset"), _deepscaler),
  "openr1_math": Dataset(Source("hf:open-r1/OpenR1-Math-220k"), _openr1_math, HFTRow),
  "tulu3_preferences": Dataset(
    Source("hf:allenai/llama-3.1-tulu-3-8b-preference-mixture"), _tulu3_preferences
  ),
  "aime24": Dataset(Source("hf:HuggingFaceH4/aime_2024"), _aime),
  "aime_1983_2024": Dataset(Source("hf:di-zhang-fdu/AIME_1983_2024"), _aime),
  "amc23": Dataset(Source("hf:math-ai/amc23", "test"), _amc),
}


def load(
  name: str, *, path: str = "", split: str = "", on_bad_row: str = "raise", streaming: bool = False
) -> Loaded:
  """Loads a data set of `DATASETS`.

  Args:
    name: its key.
    path: where to read it instead of the hub, as `Source.path`.
    split: replaces the usual one.
    on_bad_row: "raise" or "skip".
    streaming: read while it downloads.

  Raises:
    KeyError: there is no data set of that name; the message lists all.
  """
  if name not in DATASETS:
    raise KeyError(f"no data set named {name!r}; known: {', '.join(sorted(DATASETS))}.")
  dataset = DATASETS[name]
  source = dataclasses.replace(
    dataset.source,
    path=path or dataset.source.path,
    split=split or ("train" if path.endswith(sources.SUFFIXES) else dataset.source.split),
    subset="" if path else dataset.source.subset,
    streaming=streaming,
  )
  return sources.load(source, dataset.to_row, on_bad_row)
