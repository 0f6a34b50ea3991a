"""Suites: public benchmarks, each a small file with its reader, its prompt and its scorer.

`load("gsm8k")` reads from the hub, `load("gsm8k", "test.jsonl")` a local file in the same format.
A suite of your own is one function with `suite.register`.
"""

from lhrm_jax.evaluation.suites import (  # noqa: F401, importing them registers them
  aime,
  alpaca_eval,
  amc23,
  arena_hard,
  asdiv,
  gpqa,
  gsm8k,
  humaneval,
  livecodebench,
  math500,
  mbpp,
  minerva,
  olympiadbench,
  svamp,
)
from lhrm_jax.evaluation.suites.suite import (
  JUDGE,
  REGISTRY,
  Suite,
  SuiteRow,
  load,
  names_and_paths,
  register,
  scorers,
)

__all__ = [
  "JUDGE",
  "REGISTRY",
  "Suite",
  "SuiteRow",
  "load",
  "names_and_paths",
  "register",
  "scorers",
]
