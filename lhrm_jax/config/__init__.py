"""Typed configs: a knob is declared once, as a dataclass field beside what it configures.

```python
@dataclasses.dataclass(frozen=True)
class PolicyLossConfig:
  clip_low: float = knob(0.5, SHARE, "Clip range below a ratio of 1.")
```
"""

from lhrm_jax.config.knobs import knob
from lhrm_jax.config.ranges import (
  FLAG,
  LEVELS,
  MESH_SIZE,
  MOST_ROWS,
  MOST_STEPS,
  MOST_TOKENS,
  MOST_WIDTH,
  NAME,
  NAMES,
  OPTIONS,
  PATH,
  REWARDS,
  SHARE,
  SHORT,
  SOURCES,
  TEMPERATURE,
  TEMPERATURE_OR_GREEDY,
  TEXT,
  WEIGHTS,
  Range,
  one_of,
  real,
  whole,
)

__all__ = [
  "FLAG",
  "LEVELS",
  "MESH_SIZE",
  "MOST_ROWS",
  "MOST_STEPS",
  "MOST_TOKENS",
  "MOST_WIDTH",
  "NAME",
  "NAMES",
  "OPTIONS",
  "PATH",
  "REWARDS",
  "SHARE",
  "SHORT",
  "SOURCES",
  "TEMPERATURE",
  "TEMPERATURE_OR_GREEDY",
  "TEXT",
  "WEIGHTS",
  "Range",
  "knob",
  "one_of",
  "real",
  "whole",
]
