"""LiveCodeBench: competition programs by date of contest (https://arxiv.org/abs/2403.07974).

Hidden tests are stored as compressed pickles of text. No pickle is trusted here: one that holds
anything but text is a bad row.
"""

import base64
import binascii
import dataclasses
import datetime
import io
import json
import pickle
import zlib
from typing import Any

from lhrm_jax.config import NAME, Range, knob, together
from lhrm_jax.data.fields import BadRow, Fields, text_field
from lhrm_jax.evaluation.suites import programs
from lhrm_jax.evaluation.suites.suite import SuiteRow, register, row

# Starter code is annotated with them and imports none.
_TYPES = "from typing import Any, Dict, List, Optional, Set, Tuple"
_MOST_BYTES = 2**28  # of the tests of one problem, unpacked


def _is_date(value: Any) -> bool:
  try:
    return value == "" or bool(datetime.date.fromisoformat(value))
  except (TypeError, ValueError):
    return False


_DATE = Range(_is_date, 'a date as "2024-08-01", or ""')


@dataclasses.dataclass(frozen=True)
class LiveCodeBenchConfig:
  """Knobs of the suite `livecodebench`."""

  version: str = knob(
    "release_v5", NAME, "Release on the hub; a local file is the release it was taken from."
  )
  since: str = knob("", _DATE, 'First day of contests, as "2024-08-01"; "" for no bound.')
  until: str = knob("", _DATE, 'Last day of contests; "" for no bound.')


@together(LiveCodeBenchConfig, "since", "until")
def _window(c: LiveCodeBenchConfig) -> str:
  if not c.since or not c.until or c.since <= c.until:
    return ""
  return (
    f"evaluation.livecodebench.since={c.since!r} is after evaluation.livecodebench.until="
    f"{c.until!r}: no contest lies between."
  )


def in_window(fields: Fields, c: LiveCodeBenchConfig) -> bool:
  """Whether a row's contest lies in the window.

  Raises:
    BadRow: its date is missing.
  """
  day = text_field(fields, "contest_date")[:10]
  return (not c.since or day >= c.since) and (not c.until or day <= c.until)


_LEVELS = {"easy": 1, "medium": 2, "hard": 3}


@register("livecodebench", "livecodebench/code_generation_lite", scorer="code")
def read(fields: Fields) -> SuiteRow:
  """Problems of standard input, or calls of a method of `Solution`."""
  public = _json(text_field(fields, "public_test_cases"), "public_test_cases")
  tests = [*public, *_hidden(text_field(fields, "private_test_cases"))]
  starter = fields.get("starter_code") or ""
  task = text_field(fields, "question_content").strip()
  if starter:
    task += f"\n\nComplete this program:\n```python\n{starter.rstrip()}\n```"
  else:
    task += "\n\nThe program reads from standard input and writes to standard output."
  level = _LEVELS.get(str(fields.get("difficulty")), 0)
  answer = json.dumps(_tests(tests, fields))
  return row(
    "livecodebench", programs.asked(task), answer, level=level, subject=fields.get("platform")
  )


def _tests(tests: list[Any], fields: Fields) -> dict[str, Any]:
  try:
    if all(test["testtype"] == "stdin" for test in tests):
      return {"io": [{"input": test["input"], "output": test["output"]} for test in tests]}
    name = _json(text_field(fields, "metadata"), "metadata")["func_name"].rpartition(".")[2]
    calls = [
      {
        "function": name,
        "args": [json.loads(line) for line in test["input"].split("\n") if line.strip()],
        "expected": json.loads(test["output"]),
      }
      for test in tests
    ]
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise BadRow(f"the tests are not LiveCodeBench's: {error!r}") from None
  return {"calls": calls, "setup": _TYPES}


def _hidden(text: str) -> list[Any]:
  """Hidden tests: JSON, or JSON as a pickled text, compressed and in base64."""
  if text.lstrip().startswith("["):
    return _json(text, "private_test_cases")
  try:
    unpack = zlib.decompressobj()
    packed = unpack.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    if unpack.unconsumed_tail:
      raise BadRow("'private_test_cases' unpacks to more than any test takes")
    found = _TextOnly(io.BytesIO(packed)).load()
  except BadRow:
    raise
  except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError, IndexError,
          AttributeError, KeyError, TypeError, MemoryError) as error:  # fmt: skip
    raise BadRow(f"'private_test_cases' cannot be unpacked: {error}") from None
  if not isinstance(found, str):
    raise BadRow("'private_test_cases' holds a pickle of something else than text")
  return _json(found, "private_test_cases")


class _TextOnly(pickle.Unpickler):
  """Refuses every class and function."""

  def find_class(self, module: str, name: str) -> Any:
    raise BadRow(f"'private_test_cases' holds a pickle that would import {module}.{name}")


def _json(text: str, column: str) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise BadRow(f"{column!r} is not JSON: {error}") from None
