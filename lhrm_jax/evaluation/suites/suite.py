"""What a suite is, the registry of suites, and reading one from the hub or from a local file."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lhrm_jax.data import catalog, sources
from lhrm_jax.data.fields import BadRow, Fields, answer_text, columns, text_field
from lhrm_jax.data.rows import prompt_row
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.data.sources import Loaded, Source
from lhrm_jax.registry import Registry

JUDGE = "judge"  # scorer of suites whose replies are compared with a baseline's


@dataclasses.dataclass(frozen=True)
class SuiteRow(PromptRow):
  """One problem of a suite; `source` is the suite's name.

  Attributes:
    subject: subject or category, "" where the suite has none.
  """

  subject: str = ""


@dataclasses.dataclass(frozen=True)
class Suite:
  """A benchmark: where its rows are, how one is read, and what scores a reply.

  Attributes:
    name: the suite's, and its rows' `source`.
    source: usual place of its rows, on the hub.
    to_row: reads one row; `None` for a row that is good but not wanted.
    scorer: registered reward, or `JUDGE`.
  """

  name: str
  source: Source
  to_row: Callable[[Fields], SuiteRow | None]
  scorer: str = "math"


REGISTRY: Registry[Suite] = Registry("suite")


def register(
  name: str, hub_id: str, split: str = "test", *, subset: str = "", scorer: str = "math"
) -> Callable[[Callable[[Fields], SuiteRow | None]], Callable]:
  """Registers a reader of rows as the suite `name`; a decorator.

  Args:
    name: the suite's.
    hub_id: data set on the hub.
    split: its split.
    subset: its subset.
    scorer: see `Suite`.
  """

  def decorator(to_row: Callable[[Fields], SuiteRow | None]) -> Callable:
    source = Source(f"hf:{hub_id}", split, subset=subset)
    REGISTRY.register(name, Suite(name, source, to_row, scorer))
    return to_row

  return decorator


def row(suite: str, prompt: str, answer: Any, *, level: Any = 0, subject: Any = "") -> SuiteRow:
  """A checked row of a suite.

  Raises:
    BadRow: a field is missing or of the wrong type.
  """
  read = prompt_row({"prompt": prompt, "answer": answer, "level": level, "source": suite})
  return SuiteRow(**vars(read), subject=str(subject or ""))


def math_row(
  suite: str, question: str, answer: Any, *, level: Any = 0, subject: Any = ""
) -> SuiteRow:
  """A mathematical problem, with the request for a boxed answer.

  Raises:
    BadRow: there is no answer.
  """
  if answer in (None, ""):
    raise BadRow("the row has no answer")
  asked = catalog.math_prompt(question)
  return row(suite, asked, whole(answer), level=level, subject=subject)


def whole(answer: Any) -> str:
  """An answer as text; 27.0, which a table made of a whole number, as 27."""
  text = answer_text(answer).strip()
  return text.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", text) else text


def first_text(fields: Fields, *names: str) -> str:
  """The text in the first of these columns that the row has.

  Raises:
    BadRow: it has none, or that one holds no text.
  """
  name = next((name for name in names if fields.get(name) is not None), None)
  if name is None:
    raise BadRow(f"none of {', '.join(names)}; the row has {columns(fields)}")
  return text_field(fields, name)


def names_and_paths(named: str) -> dict[str, str]:
  """The suites of `evaluation.suites` with their paths, "" for the hub.

  Args:
    named: as "gsm8k, math500=math500.jsonl".

  Raises:
    ValueError: a suite is not registered, or named twice.
  """
  found: dict[str, str] = {}
  for entry in filter(None, map(str.strip, named.split(","))):
    name, _, path = (part.strip() for part in entry.partition("="))
    REGISTRY.get(name)
    if name in found:
      raise ValueError(f"the suite {name!r} is named twice")
    found[name] = path
  return found


def load(
  name: str, path: str = "", *, subset: str = "",
  prepare: Callable[[Fields], Fields | None] | None = None,
) -> Loaded:  # fmt: skip
  """Reads a suite.

  Args:
    name: a registered suite.
    path: a file, `hf:NAME` or `tfds:NAME` in the same format; "" for the usual place on the hub.
    subset: on the hub, in place of the usual one.
    prepare: completes the fields of a row, or returns `None` for one that is not wanted.

  Raises:
    UnknownName: there is no such suite.
    FileNotFoundError: there is no such file.
    ValueError: a row is bad, with file and line; or there are none.
  """
  suite = REGISTRY.get(name)
  source = dataclasses.replace(suite.source, subset=subset or suite.source.subset)
  if path:
    split = "train" if path.endswith(sources.SUFFIXES) else source.split
    source = dataclasses.replace(source, path=path, split=split, subset="")

  def to_row(fields: Fields) -> SuiteRow | None:
    prepared = prepare(fields) if prepare else fields
    return None if prepared is None else suite.to_row(prepared)

  return sources.load(source, to_row)


def scorers(suites: Sequence[str]) -> Mapping[str, str]:
  """Names of the scorers by suite, as `reward_by_source` takes them."""
  return {name: REGISTRY.get(name).scorer for name in suites}
