"""Typed configs: a knob is declared once, as a dataclass field beside the code it configures.

```python
@dataclasses.dataclass(frozen=True)
class PolicyObjectiveConfig:
  clip_low: float = knob(0.5, SHARE, "Clip range of the importance ratio below 1.")
```

The defaults that config files start from, the checks of values and docs/config.md all follow from
the declarations. Checks between knobs, and conditions under which a knob has no effect, are
declared beside them (`together`, `idle`).
"""

from lhrm_jax.config.knobs import Knob, knob, knobs, section, with_default
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
  SHARES,
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
from lhrm_jax.config.sections import (
  build,
  flatten,
  idle,
  nearest,
  range_problems,
  read,
  replaced,
  retire,
  retired,
  section_problems,
  short,
  together,
  without_effect,
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
  "SHARES",
  "SHORT",
  "SOURCES",
  "TEMPERATURE",
  "TEMPERATURE_OR_GREEDY",
  "TEXT",
  "WEIGHTS",
  "Knob",
  "Range",
  "build",
  "flatten",
  "idle",
  "knob",
  "knobs",
  "nearest",
  "one_of",
  "range_problems",
  "read",
  "real",
  "replaced",
  "retire",
  "retired",
  "section",
  "section_problems",
  "short",
  "together",
  "whole",
  "with_default",
  "without_effect",
]
