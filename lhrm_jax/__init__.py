"""Large Hybrid-Reasoning Models (https://arxiv.org/abs/2505.14631) in JAX.

- `policy`: the Flax decoder as pure functions; `load_pretrained`, `logits`, `export_pretrained`
- `text`: tokenizers, tags, `parse_response`
- `sampling`: paired rollouts; `sample`
- `objectives`: `hgpo.assign_rewards`, `hgpo.advantages`, losses, advantages by name
- `rewards`: scorers; `get`, `register`, `math.verify`
- `data`: tasks, sources of rows, batches
- `training`: train state; updates of HFT and HGPO
- `evaluation`: Hybrid Accuracy, figures, the report
- `runs`: what a run needs around its maths: typed config, run folder, checkpoints, logs, report
- `planning`: what a config will cost: chips, FLOPs, programs compiled ahead of time
- `storage`: files, buckets and URLs
- `config`: settings declared once, with default, range and meaning
- `parallel`: mesh, shardings, many hosts

Each is imported when it is first used. Jobs are in a checkout's `experiments/`, see README.md.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"
__all__ = [
  "config", "data", "evaluation", "objectives", "parallel", "planning", "policy", "rewards", "runs",
  "sampling", "storage", "text", "training",
]  # fmt: skip


def __getattr__(name: str) -> ModuleType:
  if name in __all__:
    return importlib.import_module(f"lhrm_jax.{name}")
  raise AttributeError(f"module 'lhrm_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return [*globals(), *__all__]
