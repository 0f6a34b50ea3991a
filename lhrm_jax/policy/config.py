"""What a policy is made of: sizes, switches of the Qwen2 / Qwen3 / Llama family, numerics."""

import dataclasses
from typing import Any

ROPE_SCALINGS = ("none", "linear", "llama3")
REMAT_POLICIES = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("auto", "xla", "cudnn", "splash")
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads",
          "num_kv_heads", "max_positions", "logprob_chunk")  # fmt: skip


def _is_number(value: Any) -> bool:
  """Whether `value` is a finite number that float32 can hold."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  return abs(value) < (2**53 if isinstance(value, int) else 1e38)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f"{name}={value!r} is none of {', '.join(choices)}.")


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
    _check_choice("policy.rope_scaling.kind", self.kind, ROPE_SCALINGS)
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
class PolicyConfig:
  """A decoder-only transformer of the Qwen2 / Qwen3 / Llama family.

  Hashable, so that it can be a static argument of `jax.jit`.

  Attributes:
    vocab_size: rows of the embedding table `V`.
    hidden_size: width of the residual stream `d`.
    intermediate_size: width of the SwiGLU layer `f`.
    num_layers: decoder blocks `L`.
    num_heads: query heads `H`.
    num_kv_heads: key and value heads `K`; divides `num_heads`.
    head_dim: width of one head `D`; 0 takes `hidden_size // num_heads`.
    logit_vocab_size: rows of the table that stand for tokens; 0 means all. Rows beyond them only
      round the table up to a size that shards: they are never sampled and take no probability.
    max_positions: longest sequence, in tokens.
    rope_theta: base of the rotary frequencies.
    rope_scaling: see `RopeScaling`.
    rms_norm_eps: added to the mean square in RMSNorm.
    qkv_bias: biases on the q, k and v projections (Qwen2).
    qk_norm: RMSNorm on each query and key head (Qwen3).
    tie_embeddings: the head is the embedding table.
    scan_layers: one compiled block scanned over stacked parameters. Compile time does not grow with
      depth; at a handful of layers unrolling runs faster.
    remat: what the backward pass keeps of a block: "none" recomputes nothing, "dots" keeps matrix
      products, "full" keeps only the block's input.
    dtype: of the computation; parameters are float32 masters. Norms, softmax and log-probabilities
      are float32 always.
    attention: "xla", "cudnn" (NVIDIA GPUs, bfloat16) or "splash" (TPUs); "auto" takes the
      platform's where it is exact (see `flash.choose`).
    logprob_chunk: tokens whose logits exist at one time (see `head.token_logprobs`).
    attention_chunk: queries of a row whose scores exist at one time; 0 means all (see
      `attention.attend`).
  """

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int = 0
  logit_vocab_size: int = 0
  max_positions: int = 4096
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling = RopeScaling()
  rms_norm_eps: float = 1e-6
  qkv_bias: bool = False
  qk_norm: bool = False
  tie_embeddings: bool = True
  scan_layers: bool = True
  remat: str = "none"
  dtype: str = "float32"
  attention: str = "auto"
  logprob_chunk: int = 4096
  attention_chunk: int = 0

  def __post_init__(self):
    for name in (*_SIZES, "head_dim", "logit_vocab_size"):
      value = getattr(self, name)
      if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"policy.{name}={value!r} must be a whole number.")
      if value < 1 and name not in _SIZES:
        continue  # 0 has a meaning of its own, and what is below is told further down
      if value < 1:
        raise ValueError(f"policy.{name}={value} must be at least 1.")
      if value >= 2**31:
        raise ValueError(f"policy.{name}={value} is beyond every model: it must be below 2**31.")
    for name, least in (("rope_theta", 1.0), ("rms_norm_eps", 0.0)):
      value = getattr(self, name)
      if not (_is_number(value) and value >= least):
        raise ValueError(f"policy.{name}={value!r} must be a finite number of at least {least:g}.")
    if not self.head_dim:
      object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
    if self.logit_vocab_size > self.vocab_size:
      raise ValueError(
        f"policy.logit_vocab_size={self.logit_vocab_size} is above vocab_size={self.vocab_size}: "
        "a token without a row in the embedding table can't be predicted."
      )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"policy.num_heads={self.num_heads} is no multiple of "
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
    _check_choice("policy.remat", self.remat, REMAT_POLICIES)
    _check_choice("policy.attention", self.attention, ATTENTIONS)
    _check_choice("policy.dtype", self.dtype, DTYPES)

  @classmethod
  def from_dict(cls, fields: dict[str, Any]) -> "PolicyConfig":
    """Builds a config from plain JSON-like fields, e.g. those `to_dict` wrote."""
    fields = dict(fields)
    if isinstance(fields.get("rope_scaling"), dict):
      fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
    return cls(**fields)

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)
