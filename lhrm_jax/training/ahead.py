"""Programs compiled in a background thread, while a job does what comes before their first call."""

from concurrent.futures import Future
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import numpy as np

from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.rewards.background import Worker
from lhrm_jax.sampling import Prompts, Rollouts
from lhrm_jax.training.hgpo import HGPOBatch
from lhrm_jax.training.hgpo_config import HGPOConfig
from lhrm_jax.training.rollout_logprobs import RolloutLogprobs

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

# One thread, so that all processes of a job compile in the same order; a job that ends does not
# wait for it.
_COMPILER = Worker("compile-ahead")


class Traceable(Protocol[P, R]):
  """A function whose program can be traced for the shapes of its arguments, as a jitted one's."""

  def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

  def trace(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...


class CompiledAhead(Generic[P, R]):
  """A function whose program is being compiled; its first call waits until that is done.

  JAX keeps what it has compiled, so that the call finds it. Arguments of other shapes than expected
  compile a program of their own.
  """

  def __init__(self, fn: Traceable[P, R], *args: P.args, **kwargs: P.kwargs):
    """Args:
    fn: the function.
    args: arrays or `jax.ShapeDtypeStruct`s with the shapes and shardings of its arguments.
    kwargs: likewise.
    """
    self._fn = fn
    self._compiling: Future | None = _COMPILER.submit(
      lambda: fn.trace(*args, **kwargs).lower().compile()
    )

  def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls the function; raises what compiling it raised."""
    if self._compiling is not None:
      self._compiling.result()
      self._compiling = None  # what it holds takes memory
    return self._fn(*args, **kwargs)


def example_rollouts(c: HGPOConfig, prompts: int, prompt_tokens: int, max_tokens: int) -> Rollouts:
  """Rollouts of single tokens in the shape of a step's, to compile for what those will need.

  Args:
    c: pairing and samples.
    prompts: number of prompts.
    prompt_tokens: tokens of the longest prompt.
    max_tokens: tokens of the longest response.
  """
  shape = (prompts, 2 if c.pairing == "paired" else 1, c.samples)
  ones, each = np.ones(prompts, np.int32), np.ones(shape, np.int32)
  tokens = np.zeros((*shape, max_tokens), np.int32)
  return Rollouts(
    Prompts(np.zeros((prompts, prompt_tokens), np.int32), ones, ones), tokens, each,
    tokens.astype(np.float32), 0 * each, np.int32(0),
  )  # fmt: skip


def example_batch(c: HGPOConfig, rollouts: Rollouts) -> HGPOBatch:
  """An update's input in the shape that rollouts of this shape give it."""
  zeros = np.zeros(rollouts.lengths.shape, np.float32)
  modes = np.zeros((len(zeros), 3), np.float32)
  scored = RolloutLogprobs(rollouts.logprobs, rollouts.logprobs, modes)
  advantages = Advantages(tag=zeros, body=zeros)
  return HGPOBatch(rollouts, advantages, scored, scored if c.updates > 1 else None)
