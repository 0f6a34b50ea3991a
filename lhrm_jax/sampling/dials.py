"""Dials of one checkpoint at inference: how readily it thinks, and for how long.

- A bias on the logit of `<think>` shifts the policy's own choice of mode.
- A threshold on p(think) replaces the draw of the opening tag by a decision.
- A budget ends each thought after so many tokens: the closing text and `</think>` are written in
  the policy's place, and it answers from there (https://arxiv.org/abs/2501.19393).

Each is set for every row by itself, so that one batch can serve requests with different dials. `N`
denotes rows and `V` the vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lhrm_jax.config import MOST_TOKENS, SHARE, Range, idle, knob, real, whole
from lhrm_jax.text import Tokenizer, tags

_CHOOSES = -1.0
_LONGEST_CLOSING = 500  # characters


@dataclasses.dataclass(frozen=True)
class DialsConfig:
  """Knobs of the dials of a policy that answers."""

  tag_bias: float = knob(
    0.0,
    real(-100, 100),
    "Added to the logit of `<think>` where the policy chooses its mode: above 0 it thinks more.",
  )
  threshold: float = knob(
    _CHOOSES,
    Range(
      lambda x: SHARE.holds(x) or (real().holds(x) and x == _CHOOSES),
      f"-1 (the policy chooses), or {SHARE.allowed}",
    ),
    "The policy thinks exactly where p(think), of the two tags, reaches it; -1 draws the tag.",
  )
  budget: int = knob(
    0,
    whole(0, MOST_TOKENS),
    "Longest thought in tokens; then `closing` and `</think>` are written, and the policy answers. "
    "0 for no budget.",
  )
  closing: str = knob(
    "",
    Range(
      lambda x: isinstance(x, str) and len(x) <= _LONGEST_CLOSING,
      f"text of at most {_LONGEST_CLOSING} characters",
    ),
    "Sentence that ends a thought cut by the budget.",
  )


@idle(DialsConfig, "tag_bias")
def _decided(c: DialsConfig) -> str:
  if c.threshold == _CHOOSES:
    return ""
  return f"dials.threshold={c.threshold:g}, which decides by the policy's own p(think)"


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["tag_bias", "threshold", "budget"],
  meta_fields=["closing"],
)
@dataclasses.dataclass(frozen=True)
class Dials:
  """The dials of a batch; `None` turns one off for all rows, and then costs nothing.

  Attributes:
    tag_bias: added to the logit of `<think>` where the policy chooses: scalar, or any shape that
      broadcasts to `[B, M, G]`; 0 changes nothing.
    threshold: p(think) of the two tags from which a row thinks, likewise; NaN leaves the choice to
      the policy. It reads the policy's own probability, whatever the temperature and the bias.
    budget: longest thought in tokens, likewise; 0 for none.
    closing: ids written where a thought is cut, `</think>` last.
  """

  tag_bias: Array | float | None = None
  threshold: Array | float | None = None
  budget: Array | int | None = None
  closing: tuple[int, ...] = ()

  @classmethod
  def of(cls, c: DialsConfig, tokenizer: Tokenizer) -> "Dials | None":
    """The dials that a config sets, `None` where it sets none.

    Raises:
      ValueError: the tokenizer cannot encode the closing text, or it holds a tag.
    """
    bias = c.tag_bias or None
    threshold = None if c.threshold == _CHOOSES else c.threshold
    if not c.budget:
      return None if bias is threshold is None else cls(bias, threshold)
    return cls(bias, threshold, c.budget, closing_ids(tokenizer, c.closing))

  def by_row(self, shape: tuple[int, int, int]) -> "Dials":
    """The dials as arrays of `shape`, `[B, M, G]`, with thresholds as log-odds.

    Log-odds tell probabilities apart that float32 rounds to 1.

    Raises:
      ValueError: a dial does not broadcast to `shape`, or there are budgets and no `closing`.
    """
    if self.budget is not None and not self.closing:
      raise ValueError("A budget needs `closing`, the ids that end a thought: see `closing_ids`.")
    odds = self.threshold
    if odds is not None:
      p = np.asarray(odds, np.float64)
      with np.errstate(divide="ignore"):
        odds = np.log(p) - np.log1p(-p)

    def spread(x: Array | float | None, dtype: type) -> np.ndarray | None:
      return None if x is None else np.broadcast_to(np.asarray(x, dtype), shape)

    return dataclasses.replace(
      self,
      tag_bias=spread(self.tag_bias, np.float32),
      threshold=spread(odds, np.float32),
      budget=spread(self.budget, np.int32),
    )


def closing_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
  """The ids that end a thought with `text`, `</think>` last.

  Raises:
    ValueError: the tokenizer cannot encode the text, or it holds a tag.
  """
  if held := [tag for tag in tags.TAGS if tag in text]:
    raise ValueError(f"dials.closing={text!r} holds {held[0]}, which would end the thought twice.")
  think, close = tags.OPENING_TAGS[tags.THINK], tags.CLOSING_TAGS[tags.THINK]
  try:
    ids = tokenizer.encode_response(f"{think}{text}{close}")
  except ValueError as error:
    raise ValueError(f"dials.closing={text!r}: {error}") from error
  return tuple(ids[1 : ids.index(tokenizer.tag_ids.closing[tags.THINK]) + 1])


def biased(logits: Array, opening: tuple[int, int], tag_bias: Array | None) -> Array:
  """Logits `[N, V]` of the first token with the bias `[N]` on `<think>`."""
  if tag_bias is None:
    return logits
  return logits.at[:, opening[tags.THINK]].add(tag_bias)


def decided(
  tokens: Array, logits: Array, opening: tuple[int, int], log_odds: Array | None
) -> Array:
  """First tokens `[N]`: the tag that the threshold decides, and `tokens` where there is none.

  Args:
    tokens: `[N]` tokens drawn.
    logits: `[N, V]` of the policy.
    opening: ids of the two opening tags.
    log_odds: `[N]` thresholds, NaN for none.
  """
  if log_odds is None:
    return tokens
  think, no_think = opening
  decision = jnp.where(logits[:, think] - logits[:, no_think] >= log_odds, think, no_think)
  return jnp.where(jnp.isnan(log_odds), tokens, decision)


def cut(
  tokens: Array, step: Array, thinking: Array, budgets: Array, closing: tuple[int, ...]
) -> tuple[Array, Array]:
  """Replaces the tokens of thoughts that have used up their budget by the closing ids.

  A thought that closes itself right after its last token of the budget is left alone.

  Args:
    tokens: `[N]` tokens drawn.
    step: index of these tokens in their responses; the opening tag's is 0.
    thinking: `[N]` bool, rows whose thought has not been closed.
    budgets: `[N]` int32, tokens of a thought; 0 for no budget.
    closing: ids that end a thought, `</think>` last.

  Returns:
    The tokens, and which rows are still thinking after them.
  """
  over = step - 1 - budgets  # index in `closing`
  closes = tokens == closing[-1]
  forced = thinking & (budgets > 0) & (over >= 0) & ~((over == 0) & closes)
  place = jnp.clip(over, 0, len(closing) - 1)
  tokens = jnp.where(forced, jnp.array(closing, jnp.int32)[place], tokens)
  return tokens, thinking & jnp.where(forced, over < len(closing) - 1, ~closes)
