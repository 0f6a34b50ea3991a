"""Formats of worked solutions, which are thinking demonstrations: mathematics, code and others."""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from lhrm_jax.data import rows
from lhrm_jax.data.dataset import Dataset, boxed, math_prompt
from lhrm_jax.data.fields import BadRow, Fields, Unwanted, columns, short, text_field
from lhrm_jax.data.schema import HFTRow
from lhrm_jax.data.sources import Source
from lhrm_jax.text import tags

_OPENING, _CLOSING = tags.OPENING_TAGS[tags.THINK], tags.CLOSING_TAGS[tags.THINK]
_MATH = "verifiable_math"
_CODE = ("verifiable_code", "code_output_prediction")
_OPEN_THOUGHTS = re.compile(
  r"<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*"
  r"<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?\s*",
  re.DOTALL,
)
_LAST_YEAR = 2023  # AIME 2024 is an evaluation


def _solved(prompt: str, response: str, answer: Any = None) -> HFTRow:
  """A thinking demonstration, with its opening tag where a server left that in the prompt."""
  response = text_field({"response": response}, "response").strip()
  if _CLOSING in response and not response.startswith(_OPENING):
    response = _OPENING + response
  row = rows.hft_row({"prompt": prompt, "response": response, "mode": tags.MODES[tags.THINK]})
  known = answer not in (None, "")
  return dataclasses.replace(row, answer=rows.answer_text(answer)) if known else row


def _asked(question: str) -> str:
  """A mathematical question with the request for a boxed answer, where it has none yet."""
  return question if "\\boxed" in question else math_prompt(question)


def _of_messages(value: Any, key: str) -> tuple[str, str]:
  """Prompt and response of a conversation of one exchange, after a system prompt or none."""
  row = value if isinstance(value, list) else []
  turns = [
    (turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value"))
    for turn in row
    if isinstance(turn, Mapping)
  ]
  match [turn for turn in turns if turn[0] != "system"]:
    case [("user" | "human", str(prompt)), ("assistant" | "gpt", str(response))]:
      return prompt, response
  raise BadRow(f"{key!r} is not one message of a user and its reply")


def _synthetic1(fields: Fields, wanted: tuple[str, ...] = (), but: tuple[str, ...] = ()) -> HFTRow:
  """A response of SYNTHETIC-1 that its own verifier found right.

  Args:
    fields: a row of SYNTHETIC-1 or of its subset for fine-tuning.
    wanted: types of tasks; all if empty.
    but: types of tasks that are left out.
  """
  kind, score = fields.get("task_type"), fields.get("score")
  if not isinstance(kind, str):
    raise BadRow(f"no 'task_type'; the row has {columns(fields)}")
  if kind in but or (wanted and kind not in wanted):
    raise Unwanted(f"task_type={short(kind)}")
  if not isinstance(score, int | float):
    raise BadRow(f"score={short(score)} is not a number")
  if score < 1:
    raise Unwanted("its verifier found the response wrong")
  if fields.get("messages") is not None:
    prompt, response = _of_messages(fields["messages"], "messages")
  else:
    prompt, response = text_field(fields, "prompt"), text_field(fields, "llm_response")
  if kind != _MATH:
    return _solved(prompt, response)
  return _solved(_asked(prompt), response, _ground_truth(fields.get("verification_info")))


def _ground_truth(info: Any) -> Any:
  """The answer in `verification_info`, JSON in text; `None` where there is none."""
  try:
    held = json.loads(info) if isinstance(info, str) else info
  except (RecursionError, ValueError):
    return None
  answer = held.get("ground_truth") if isinstance(held, Mapping) else None
  return answer if isinstance(answer, str | int) else None


def _openr1_math(fields: Fields) -> HFTRow:
  """The first complete generation that was verified."""
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
      return _solved(prompt, text, fields.get("answer"))
  raise Unwanted("no generation is complete and verified")


def _openthoughts(fields: Fields, domain: str) -> HFTRow:
  """A row of one domain, from the subset `metadata` of OpenThoughts."""
  if fields.get("domain") is None:
    raise BadRow(f"no 'domain', which the subset 'metadata' has; the row has {columns(fields)}")
  if fields["domain"] != domain:
    raise Unwanted(f"domain={short(fields['domain'])}")
  thought, solution = (text_field(fields, f"deepseek_{x}") for x in ("reasoning", "solution"))
  question = text_field(fields, "problem")
  if starter := fields.get("starter_code"):
    question = f"{question}\n\n{text_field({'starter_code': starter}, 'starter_code')}"
  prompt = _asked(question) if domain == "math" else question
  return _solved(prompt, f"{_OPENING}{thought.strip()}{_CLOSING}{solution.strip()}")


def _aops(fields: Fields) -> HFTRow:
  """A problem of the AoPS forum: a sampled thought if the row has one, else the worked solution.

  The worked solution is the thought, and its last box the answer.
  """
  if fields.get("messages") is not None:
    question, solution = _of_messages(fields["messages"], "messages")
  else:
    question, solution = text_field(fields, "problem"), text_field(fields, "solution")
  if _CLOSING in solution:
    return _solved(_asked(question), solution)
  answer = boxed(solution)
  response = f"{_OPENING}{solution.strip()}{_CLOSING}\\boxed{{{answer}}}"
  return _solved(_asked(question), response, answer)


def _aime(fields: Fields) -> HFTRow:
  """A problem of AIME 1983 to 2023 with a response in a column `response`, which the hub lacks."""
  year = fields.get("Year")
  if not isinstance(year, int):
    raise BadRow(f"no 'Year'; the row has {columns(fields)}")
  if year > _LAST_YEAR:
    raise Unwanted(f"of {year}, which is an evaluation")
  if fields.get("response") is None:
    raise BadRow("no 'response': the data set has answers only, so sample some and add the column")
  question, response = text_field(fields, "Question"), text_field(fields, "response")
  return _solved(_asked(question), response, fields.get("Answer"))


def _codeforces(fields: Fields) -> HFTRow:
  """A complete generation for a problem of Codeforces."""
  if fields.get("finish_reason") not in (None, "stop"):
    raise Unwanted("the generation is not complete")
  if fields.get("messages") is not None:
    return _solved(*_of_messages(fields["messages"], "messages"))
  return _solved(text_field(fields, "prompt"), text_field(fields, "generation"))


def _kodcode(fields: Fields) -> HFTRow:
  """A solution that passed the tests of its problem in KodCode."""
  if str(fields.get("r1_correctness", True)) != "True":
    raise Unwanted("the solution failed its tests")
  prompt, response = _of_messages(fields.get("conversations"), "conversations")
  if wrapped := _OPEN_THOUGHTS.fullmatch(response):
    response = f"{_OPENING}{wrapped[1].strip()}{_CLOSING}{wrapped[2].strip()}"
  return _solved(prompt, response)


def _of_type(wanted: tuple[str, ...] = (), but: tuple[str, ...] = ()) -> Dataset:
  reader = functools.partial(_synthetic1, wanted=wanted, but=but)
  return Dataset(Source("hf:PrimeIntellect/SYNTHETIC-1", streaming=True), reader, HFTRow)


def _of_domain(domain: str) -> Dataset:
  source = Source("hf:open-thoughts/OpenThoughts-114k", subset="metadata")
  return Dataset(source, functools.partial(_openthoughts, domain=domain), HFTRow)


DATASETS: dict[str, Dataset] = {
  "synthetic1_math": _of_type(wanted=(_MATH,)),
  "synthetic1_code": _of_type(wanted=_CODE),
  "synthetic1_other": _of_type(but=(_MATH, *_CODE)),
  "openr1_math": Dataset(Source("hf:open-r1/OpenR1-Math-220k"), _openr1_math, HFTRow),
  "openthoughts_math": _of_domain("math"),
  "openthoughts_code": _of_domain("code"),
  "aops": Dataset(Source("hf:DeepStudentLlama/AoPS-Instruct"), _aops, HFTRow),
  "aime_solved": Dataset(Source("hf:di-zhang-fdu/AIME_1983_2024"), _aime, HFTRow),
  "codeforces_cots": Dataset(
    Source("hf:open-r1/codeforces-cots", subset="solutions_decontaminated"), _codeforces, HFTRow
  ),
  "kodcode": Dataset(Source("hf:KodCode/KodCode-V1-SFT-R1"), _kodcode, HFTRow),
}
