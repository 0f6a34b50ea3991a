"""Knobs of the preparation of data, the section `prepare` of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lhrm_jax.config import (
  FLAG,
  MOST_ROWS,
  NAMES,
  OPTIONS,
  PATH,
  SHARE,
  SHARES,
  knob,
  one_of,
  whole,
)

EXECUTORS = ("local", "slurm", "ray")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
  """What `experiments.prepare_data` does beside reading the sources of the section `data`."""

  tokenizer: str = knob(
    "", PATH, 'Model whose tokenizer and chat template encode the rows; "" takes init_from.'
  )
  chat: str = knob(
    "", NAMES, "Sources of chat from which queries that need reasoning are removed by a classifier."
  )
  chat_threshold: float = knob(
    0.5, SHARE, "Probability of needing reasoning from which a query of chat is removed."
  )
  chat_examples: int = knob(
    20_000, whole(100), "Queries of each kind that the classifier is fitted to, at most."
  )
  verify: bool = knob(
    True, FLAG, "Remove demonstrations whose answer is not equal in value to the known one."
  )
  suites: str = knob(
    "",
    NAMES,
    "Evaluations whose questions are removed, as in `evaluation.suites`, beside `data.evaluation`.",
  )
  most_rows: Mapping[str, float] = knob(
    {}, SHARES, 'Most rows of a source in each mode, chosen at random, as {"wildchat": 649569}.'
  )
  part_rows: int = knob(4096, whole(1, MOST_ROWS), "Rows of a part: what a task holds in memory.")
  shard_rows: int = knob(1024, whole(1, MOST_ROWS), "Rows of a shard of demonstrations.")
  tasks: int = knob(16, whole(1, 100_000), "Tasks that every step is divided into.")
  workers: int = knob(2, whole(1, 100_000), "Tasks that run at a time.")
  executor: str = knob("local", one_of(*EXECUTORS), "Executor of datatrove that runs the tasks.")
  executor_options: Mapping[str, Any] = knob(
    {}, OPTIONS, 'Its further arguments, as {"time": "10:00:00", "partition": "cpu"} for SLURM.'
  )
