"""A catalog of public data sets: where they are on the hub, and how to read their rows.

`load("gsm8k")` gives queries, `load("openr1_math")` demonstrations. A copy on disk in the same
format is read by passing its path.
"""

import dataclasses
import functools
import re

from lhrm_jax.data import chat_formats, reasoning_formats, rows, sources
from lhrm_jax.data.dataset import MATH_SUFFIX, Dataset, boxed, math_prompt
from lhrm_jax.data.rows import BadRow, Fields
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.data.sources import Loaded, Source

__all__ = ["DATASETS", "MATH_SUFFIX", "Dataset", "boxed", "load", "math_prompt"]


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
  "tulu3_preferences": Dataset(
    Source("hf:allenai/llama-3.1-tulu-3-8b-preference-mixture"), _tulu3_preferences
  ),
  "aime24": Dataset(Source("hf:HuggingFaceH4/aime_2024"), _aime),
  "aime_1983_2024": Dataset(Source("hf:di-zhang-fdu/AIME_1983_2024"), _aime),
  "amc23": Dataset(Source("hf:math-ai/amc23", "test"), _amc),
  **chat_formats.DATASETS,
  **reasoning_formats.DATASETS,
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
