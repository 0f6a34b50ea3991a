"""The real HGPO command with one fault put in: `python -m tests.chaos.faulty_run FAULT ...`.

Faults, at HGPO's third step: "reward" and "logprobs" put a NaN there, "gradient" an infinity;
"disk" is full from then on.
"""

import dataclasses
import functools
import resource
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax.rewards import scoring
from lhrm_jax.runs import checkpoints
from lhrm_jax.training import hgpo, rollout_logprobs

AT = 3
PROMPTS = 4  # of a training step; an evaluation has others


def on_call(fn, number: int, spoil, counts=lambda result: True):
  """`fn`, the result of the call with this number, of those that count, spoiled."""
  calls = 0

  @functools.wraps(fn)
  def wrapped(*args, **kwargs):
    nonlocal calls
    result = fn(*args, **kwargs)
    calls += counts(result)
    return spoil(result) if calls == number and counts(result) else result

  return wrapped


def reward() -> None:
  def spoil(scored):
    scores = np.array(scored.scores)
    scores[0, 1, 0] = np.nan
    return dataclasses.replace(scored, scores=scores)

  scoring.Scorer.wait = on_call(
    scoring.Scorer.wait, AT, spoil, lambda scored: len(scored.scores) == PROMPTS
  )


def logprobs() -> None:
  rollout_logprobs.Score.__call__ = on_call(
    rollout_logprobs.Score.__call__, AT,
    # An infinity would be clamped: a reference may give a token no chance.
    lambda s: dataclasses.replace(s, logprobs=jnp.asarray(s.logprobs).at[0, 0, 0, 1].set(jnp.nan)),
  )  # fmt: skip


def gradient() -> None:
  apply = hgpo.apply_gradients

  def spoiled(optimizer, schedule, state, loss, grads, metrics):
    factor = jnp.where(state.step == AT - 1, jnp.inf, 1.0)
    grads = jax.tree.map(lambda g: g * factor, grads)
    return apply(optimizer, schedule, state, loss, grads, metrics)

  hgpo.apply_gradients = spoiled


def disk() -> None:
  save = checkpoints.Checkpoints.save

  def full(self, state, step, *args, **kwargs):
    if self._folder.name == "hgpo" and step >= AT:
      resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return save(self, state, step, *args, **kwargs)

  checkpoints.Checkpoints.save = full


if __name__ == "__main__":
  {f.__name__: f for f in (reward, logprobs, gradient, disk)}[sys.argv.pop(1)]()
  runpy.run_module("experiments.hgpo", run_name="__main__", alter_sys=True)
