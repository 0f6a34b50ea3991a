"""What a policy is made of: sizes, switches of the Qwen2 / Qwen3 / Llama family, numerics."""

import dataclasses
from typing import Any

from lhrm_jax.config import (
  FLAG,
  MOST_TOKENS,
  MOST_WIDTH,
  Range,
  idle,
  knob,
  one_of,
  range_problems,
  real,
  whole,
)

ROPE_SCALINGS = ("none", "linear", "llama3")
REMAT_POLICIES = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("auto", "xla", "cudnn", "splash")
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads",
          "num_kv_heads")  # fmt: skip


def _is_number(value: Any) -> bool:
  """Whether `value` is a finite number that float32 can hold."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  return abs(value) < (2**53 if isinstance(value, int) else 1e38)


_PROJECTIONS = Range(
  lambda x: isinstance(x, str) and bool(x) and set(x.split(",")) <= set(LORA_TARGETS),
  f"some of {', '.join(LORA_TARGETS)}, separated by commas",
)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are stretched beyond the context a model was trained with.

  Attributes:
    kind: "none"; "linear" divides every frequency by `factor`; "llama3" divides the low
      frequencies by `factor`, keeps the high ones and blends between.
    factor: the stretch.
    low_freq_factor: "llama3": wavelengths above `original_positions / low_freq_factor` are divided.
    high_freq_factor: "llama3": wavelengths below `original_positions / high_freq_factor` are kept.
    original_positions: "llama3": the context length before stretching, in tokens.
  """

  kind: str = "none"
  factor: float = 1.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_positions: int = 8192

  def __post_init__(self):
    if self.kind not in ROPE_SCALINGS:
      raise ValueError(
        f"policy.rope_scaling.kind={self.kind!r} is none of {', '.join(ROPE_SCALINGS)}."
      )
    for name in ("factor", "low_freq_factor", "high_freq_factor", "original_positions"):
      value = getattr(self, name)
      if not (_is_number(value) and value > 0):
        raise ValueError(f"policy.rope_scaling.{name}={value!r} must be a positive number.")
    if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
      raise ValueError(
        f"policy.rope_scaling.low_freq_factor={self.low_freq_factor} must be below "
        f"high_freq_factor={self.high_freq_factor}: the band between is interpolated."
      )


@dataclasses.dataclass(frozen=True)
class PolicySettings:
  """Knobs of a decoder-only transformer of the Qwen2 / Qwen3 / Llama family.

  The section `policy` of a config, where a size may be left to the tokenizer or to other sizes;
  `PolicyConfig` has every size.
  """

  vocab_size: int = knob(
    0,
    whole(0, MOST_TOKENS),
    "Rows of the embedding table; 0 takes the tokenizer's. With `init_from`, a size other than 0 "
    "declares that the sizes here are the model's: plans then need no download, other models are "
    "refused, and `rope_theta` is applied.",
  )
  hidden_size: int = knob(64, whole(1, MOST_WIDTH), "Width of the residual stream.")
  intermediate_size: int = knob(192, whole(1, MOST_WIDTH), "Width of the SwiGLU layer.")
  num_layers: int = knob(3, whole(1, 10_000), "Decoder blocks.")
  num_heads: int = knob(4, whole(1, 10_000), "Query heads.")
  num_kv_heads: int = knob(4, whole(1, 10_000), "Key and value heads; divides `num_heads`.")
  head_dim: int = knob(
    0, whole(0, MOST_WIDTH), "Width of one head, even; 0 takes `hidden_size // num_heads`."
  )
  max_positions: int = knob(4096, whole(1, MOST_TOKENS), "Longest sequence, in tokens.")
  rope_theta: float = knob(10_000.0, real(1, 1e12, above=True), "Base of the rotary frequencies.")
  rms_norm_eps: float = knob(1e-6, real(0, 1, above=True), "Added to the mean square in RMSNorm.")
  qkv_bias: bool = knob(False, FLAG, "Biases on the q, k and v projections (Qwen2).")
  qk_norm: bool = knob(False, FLAG, "RMSNorm on each query and key head (Qwen3).")
  tie_embeddings: bool = knob(True, FLAG, "The head is the embedding table.")
  scan_layers: bool = knob(
    True,
    FLAG,
    "One compiled block scanned over stacked parameters: compile time does not grow with depth. At "
    "a handful of layers unrolling runs faster.",
  )
  remat: str = knob(
    "none",
    one_of(*REMAT_POLICIES),
    'What the backward pass keeps of a block: everything, matrix products ("dots"), or only its '
    'input ("full").',
  )
  dtype: str = knob(
    "float32",
    one_of(*DTYPES),
    "Data type of the computation; parameters are float32 masters. Norms, softmax and "
    "log-probabilities are float32 always.",
  )
  attention: str = knob(
    "auto",
    one_of(*ATTENTIONS),
    '"xla", "cudnn" (NVIDIA GPUs, bfloat16) or "splash" (TPUs); "auto" takes the platform\'s where '
    "it is exact.",
  )
  logprob_chunk: int = knob(4096, whole(1), "Tokens whose logits exist at one time.")
  attention_chunk: int = knob(
    0,
    whole(0),
    "Slots of the blocks of queries and of keys whose scores exist at one time, where no fused "
    "kernel runs, and of the rows attended to in one piece; 0 takes 64, and 128 for the latter.",
  )
  lora_rank: int = knob(
    0,
    whole(0, MOST_WIDTH),
    "Rank of low-rank adapters (LoRA) that are trained in place of the model, which is held in "
    "`dtype`; 0 trains all parameters. The embeddings of the tags are trained too.",
  )
  lora_alpha: float = knob(16.0, real(0, 1e6, above=True), "Adapters are scaled by `alpha / rank`.")
  lora_targets: str = knob(
    ",".join(LORA_TARGETS), _PROJECTIONS, "Projections with adapters, separated by commas."
  )


@idle(PolicySettings, "lora_alpha", "lora_targets")
def _no_adapters(c: PolicySettings) -> str:
  return "" if c.lora_rank else "policy.lora_rank=0"


@dataclasses.dataclass(frozen=True)
class PolicyConfig(PolicySettings):
  """A policy with all of its sizes.

  Hashable, so that it can be a static argument of `jax.jit`.

  Attributes:
    logit_vocab_size: rows of the table that stand for tokens; 0 means all. Rows beyond them only
      round the table up to a size that shards: they are never sampled and take no probability.
    rope_scaling: see `RopeScaling`.
    lora_tokens: with adapters, the tokens whose rows in the tables are trained.
  """

  logit_vocab_size: int = knob(0, whole(0, MOST_TOKENS), "Rows that stand for tokens; 0 means all.")
  rope_scaling: RopeScaling = RopeScaling()
  lora_tokens: tuple[int, ...] = ()

  def adapter(self, projection: str) -> tuple[int, float]:
    """Rank and scale of a projection's adapter; rank 0 where it has none."""
    if not self.lora_rank or projection not in self.lora_targets.split(","):
      return 0, 0.0
    return self.lora_rank, self.lora_alpha / self.lora_rank

  def __post_init__(self):
    """Raises:
    ValueError: values are out of range or contradictory; names every such field.
    """
    wrong = list(range_problems(type(self), vars(self), "policy.").values())
    if self.vocab_size == 0:
      wrong.append("policy.vocab_size=0 must be at least 1")
    if wrong:
      raise ValueError(f"{'; '.join(wrong)}.")
    if not self.head_dim:
      object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
    if self.logit_vocab_size > self.vocab_size:
      raise ValueError(
        f"policy.logit_vocab_size={self.logit_vocab_size} is above vocab_size={self.vocab_size}: "
        "a token without a row in the embedding table can't be predicted."
      )
    if not all(type(x) is int and 0 <= x < self.vocab_size for x in self.lora_tokens):
      raise ValueError(
        f"policy.lora_tokens={self.lora_tokens!r} must be ids below vocab_size={self.vocab_size}."
      )
    if self.lora_tokens and not self.lora_rank:
      raise ValueError("policy.lora_tokens are trained with adapters only: policy.lora_rank is 0.")
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"policy.num_heads={self.num_heads} is not a multiple of "
        f"policy.num_kv_heads={self.num_kv_heads}: every group of query heads shares one key head."
      )
    if self.head_dim < 1:
      raise ValueError(
        f"policy.head_dim={self.head_dim} must be at least 2; 0 takes policy.hidden_size // "
        f"policy.num_heads, here {self.hidden_size} // {self.num_heads}."
      )
    if self.head_dim % 2:
      raise ValueError(
        f"policy.head_dim={self.head_dim} is odd (if not set, it is policy.hidden_size // "
        "policy.num_heads): RoPE rotates pairs of channels."
      )

  @classmethod
  def from_dict(cls, fields: dict[str, Any]) -> "PolicyConfig":
    """Builds a config from plain JSON-like fields, e.g. those `to_dict` wrote.

    Raises:
      ValueError: a size is missing, or values are out of range.
    """
    if missing := [name for name in _SIZES if name not in fields]:
      raise ValueError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    fields = dict(fields)
    if isinstance(fields.get("rope_scaling"), dict):
      fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
    fields["lora_tokens"] = tuple(fields.get("lora_tokens", ()))
    return cls(**fields)

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)
