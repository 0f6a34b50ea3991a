"""What a policy update minimises: objectives by name, from log-probabilities to a loss.

The update computes log-probabilities, block by block, and differentiates; an objective turns them
into a loss and knows neither the policy nor the batch. A rival of HGPO's loss is one function:

```python
@register("reinforce")
def reinforce(config, rows):
  loss = masked_sum_count(-rows.new.logprobs * rows.body[:, None], rows.mask)
  return loss, {}
```

`N` denotes response rows, `T` their tokens, `B` prompts and `R` responses of each prompt.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.objectives import losses, policy_losses
from lhrm_jax.objectives.masked import Maximum, SumCount
from lhrm_jax.objectives.policy_objective import PolicyBatch, loss_weights, policy_objective
from lhrm_jax.registry import Registry

Metrics = dict[str, SumCount | Maximum]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowLogprobs:
  """One policy's log-probabilities of response rows.

  Attributes:
    logprobs: `[N, T]` float32 of the response tokens.
    entropy: `[N, T]` float32 of each token's whole distribution, nats.
    mode_logprobs: `[N, 3]` float32, of each row's prompt: first token `<think>`, `<no_think>`, or
      any other.
    tag_logprobs: `[N]` float32 of each row's forced tag, given that the first token is one of the
      two opening tags; `None` where no mode was forced.
  """

  logprobs: Array
  entropy: Array
  mode_logprobs: Array
  tag_logprobs: Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ObjectiveRows:
  """Response rows of any prompts, as an objective sees them.

  Attributes:
    new: of the policy that learns; the gradient flows through these alone.
    old: of the policy that sampled, scored by the trainer; on the only update from the rollouts
      these are the values of `new`.
    ref: of the reference policy.
    sampler_logprobs: `[N, T]` float32, as the sampler recorded them.
    tag: `[N]` float32, advantage of the opening tag.
    body: `[N]` float32, advantage of every later token.
    mask: `[N, T]` bool, tokens that belong to the response; elsewhere arrays may hold anything.
    lengths: `[N]` int32.
    mode: `[N]` int32, the mode each row was forced into, -1 where the policy chose it; `None`
      where it chose all of them.
    max_tokens: longest response that the rollouts allow; static, and at least `T`.
    per_sequence: `policy_losses.count_per_sequence` of the whole update, for `separate_tag`.
  """

  new: RowLogprobs
  old: RowLogprobs
  ref: RowLogprobs
  sampler_logprobs: Array
  tag: Array
  body: Array
  mask: Array
  lengths: Array
  mode: Array | None
  max_tokens: int = dataclasses.field(metadata={"static": True})
  per_sequence: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ObjectivePrompts:
  """The prompts of a block of rows, for what an objective says once per prompt.

  Attributes:
    mode_logprobs: `[B, 3]` float32 of the policy that learns; the gradient flows through these.
    ref_mode_logprobs: `[B, 3]` float32 of the reference policy.
    mask: `[B, R, T]` bool, tokens of each prompt's responses; none where a place holds no prompt or
      one that stands in another place too, neither of which may count.
    forced: share of the responses whose modes were forced; static.
    per_sequence: as of `ObjectiveRows`.
  """

  mode_logprobs: Array
  ref_mode_logprobs: Array
  mask: Array
  forced: float = dataclasses.field(metadata={"static": True})
  per_sequence: Array | None = None


RowsFn = Callable[[Any, ObjectiveRows], tuple[SumCount, Metrics]]
PromptsFn = Callable[[Any, ObjectivePrompts], tuple[SumCount, Metrics]]


@dataclasses.dataclass(frozen=True)
class Objective:
  """A loss to minimise: the sum of its two parts, divided by the sum of their counts.

  Attributes:
    of_rows: `of_rows(config, rows) -> (loss, metrics)`; may be called for a part of the rows at a
      time, so that its loss must be a sum over them. `config` is the section `hgpo`.
    of_prompts: likewise of the prompts, each once; `None` for no such part.
  """

  of_rows: RowsFn
  of_prompts: PromptsFn | None = None


REGISTRY: Registry[Objective] = Registry("objective")
get, names = REGISTRY.get, REGISTRY.names


def register(name: str, of_prompts: PromptsFn | None = None) -> Callable[[RowsFn], RowsFn]:
  """Registers `of_rows(config, rows)`, with `of_prompts` where it has one, as an objective."""

  def add(of_rows: RowsFn) -> RowsFn:
    REGISTRY.register(name, Objective(of_rows, of_prompts))
    return of_rows

  return add


def hgpo_of_prompts(config: Any, prompts: ObjectivePrompts) -> tuple[SumCount, Metrics]:
  """`losses.tag_regulariser`, with the weights that first tokens have in the loss.

  The penalty on first tokens that are neither tag is of forced tags only: where the policy chooses
  its first token, those are sampled, score 0 and are pushed down. Rows count already.
  """
  per_prompt = losses.tag_regulariser(
    prompts.mode_logprobs, prompts.ref_mode_logprobs,
    beta=config.beta if config.tag_kl == "exact" else 0.0,
    neither_penalty=config.neither_penalty * prompts.forced,
  )  # fmt: skip
  b, r, t = prompts.mask.shape
  weights, _ = loss_weights(config, prompts.mask.reshape(b * r, t), t, prompts.per_sequence)
  loss = jnp.sum(per_prompt * weights[:, 0].reshape(b, r).sum(1))
  return SumCount(loss, jnp.float32(0)), {}


@register("hgpo", hgpo_of_prompts)
def hgpo(config: Any, rows: ObjectiveRows) -> tuple[SumCount, Metrics]:
  """The objective that the config's knobs describe, HGPO's by default; see `policy_objective`.

  Args:
    config: a `PolicyObjectiveConfig` with `discount` and `every_token` (see
      `losses.token_advantages`), as `HGPOConfig` is. Under `tag_normalisation` "tags", the
      log-probability of a forced tag is taken among the two tags, in ratio, surrogate and KL.
    rows: see `ObjectiveRows`.
  """
  new, old, ref = (x.logprobs for x in (rows.new, rows.old, rows.ref))
  sampler = rows.sampler_logprobs
  if rows.mode is not None:
    forced = rows.mode >= 0

    def with_forced(logprobs: Array, tags: Array | float) -> Array:
      tags = jnp.where(forced, tags, logprobs[:, 0])
      return policy_losses.with_tag_logprobs(logprobs, tags)

    if config.tag_normalisation == "tags":
      new, old, ref = (
        with_forced(x.logprobs, x.tag_logprobs) for x in (rows.new, rows.old, rows.ref)
      )
    if config.tag_old == "behaviour":
      old = with_forced(old, math.log(0.5))
    sampler = with_forced(sampler, old[:, 0])  # what nothing drew needs no correction
  batch = PolicyBatch(
    new, old, ref,
    losses.token_advantages(
      rows.tag, rows.body, rows.mask.shape[1], config.discount, rows.lengths,
      every_token=config.every_token,
    ),
    rows.mask, sampler, rows.new.entropy,
  )  # fmt: skip
  return policy_objective(
    config, batch, constant_length=rows.max_tokens, per_sequence=rows.per_sequence
  )
