"""Recomputes a dumped update and finds the arrays that are not finite."""

import functools
from typing import Any

import jax
import numpy as np
from rich.table import Table

from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.data.pairs import PairBatch
from lhrm_jax.objectives.masked import SumCount
from lhrm_jax.runs import nonfinite, setup
from lhrm_jax.runs.config import DPO, HGPO
from lhrm_jax.training import update
from lhrm_jax.training.dpo import dpo_batch_loss
from lhrm_jax.training.hft import hft_loss
from lhrm_jax.training.hgpo import HGPOBatch, hgpo_gradients


def recompute(run: setup.Setup, stage: str, params, batch) -> tuple[float, Any]:
  """Returns the mean loss and the gradient of the summed loss."""
  if stage != HGPO:
    loss_fn, of = functools.partial(hft_loss, run.policy_config), TokenBatch
    if stage == DPO:
      loss_fn, of = functools.partial(dpo_batch_loss, run.policy_config, run.config.dpo), PairBatch
    # Row by row: it need not be fast, but fit. Older runs dumped several batches of an update.
    gradients = jax.jit(functools.partial(update.accumulate_rows, loss_fn, at_a_time=1))
    batches = [nonfinite.rebuild(of, b) for b in (batch if isinstance(batch, list) else [batch])]
    parts = [gradients(params, part) for part in batches]
    loss, grads, _ = functools.reduce(update.add_sums, parts)
  else:
    c, opening = run.config.hgpo, run.tokenizer.tag_ids.opening
    rebuilt = nonfinite.rebuild(HGPOBatch, batch)
    loss, grads, _ = hgpo_gradients(run.policy_config, c, opening, params, rebuilt)
  assert isinstance(loss, SumCount)
  return float(loss.mean()), grads


def not_finite(tree) -> list[tuple[str, int, int, str]]:
  """Returns (name, non-finite entries, all entries, first index) of each non-finite array."""
  found = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    values = np.asarray(leaf)
    if not np.issubdtype(values.dtype, np.inexact) and values.dtype.name != "bfloat16":
      continue
    bad = ~np.isfinite(values.astype(np.float32))
    if bad.any():
      first = tuple(int(i) for i in np.argwhere(bad)[0])
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      found.append((name, int(bad.sum()), values.size, str(first)))
  return found


def as_table(rows) -> Table:
  table = Table("array", "not finite", "of", "first at")
  for row in rows:
    table.add_row(*map(str, row))
  return table
