"""A reward model: a linear head on the policy's decoder, for queries without a definite answer."""

import copy
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.config import MOST_ROWS, MOST_TOKENS, PATH, knob, one_of, whole
from lhrm_jax.policy import PolicyConfig, huggingface, loading, pretrained
from lhrm_jax.policy.config import DTYPES
from lhrm_jax.rewards import scales
from lhrm_jax.rewards.registry import Failed
from lhrm_jax.text import PretrainedTokenizer, model_files
from lhrm_jax.text.responses import parse_response

HEAD_TENSOR = "score.weight"
LONG_ANSWERS = ("score_0", "truncate_left")

# A prompt, or a conversation that ends with it: role and content of each message.
Asked = str | Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class RewardModelConfig:
  """Knobs of the reward model, the section `reward_model` of a config."""

  init_from: str = knob(
    "",
    PATH,
    "Folder, URL or hub id of a `*ForSequenceClassification` model with one label: what the reward "
    "`reward_model` asks.",
  )
  scale: str = knob(
    "sigmoid",
    one_of(*(scale for scale in scales.SCALES if scale not in scales.OF_REFERENCE)),
    "Scale of the scores, which `hgpo.delta` is measured on (docs/rewards.md).",
  )
  batch: int = knob(
    32, whole(1, MOST_ROWS), "Responses scored at a time; a multiple of a host's `data` shards."
  )
  max_tokens: int = knob(
    2048, whole(1, MOST_TOKENS), "Longest prompt and answer together, in the model's tokens."
  )
  long_answers: str = knob(
    "score_0",
    one_of(*LONG_ANSWERS),
    "Handling of a longer prompt and answer: `score_0` scores 0 and counts it as "
    "`reward/failed/too_long`, `truncate_left` drops its first tokens.",
  )
  dtype: str = knob("float32", one_of(*DTYPES), "Type of the parameters and the computation.")


@functools.partial(jax.jit, static_argnums=0)
def reward_scores(
  config: PolicyConfig, params: policy.Params, head: Array, tokens: Array, lengths: Array
) -> Array:
  """Scores whole sequences, as a `*ForSequenceClassification` model with one label does.

  Args:
    config: static; `tie_embeddings` where `params` hold no language head.
    params: the decoder's.
    head: `[d]`, applied in float32 to the last token's hidden state.
    tokens: `[N, T]` int32, padded on the right.
    lengths: `[N]` int32, at least 1; later tokens are ignored.

  Returns:
    `[N]` float32, unbounded.
  """
  last, _ = policy.prefill(config, params, tokens, lengths)
  return jnp.einsum("nd,d->n", last.astype(jnp.float32), head.astype(jnp.float32))


class RewardModel:
  """A reward function that asks a reward model, many responses at a time.

  Only the answer part is shown to the model, so that both modes are judged on what the user reads.
  A malformed response scores 0 on every scale: the lowest score on a bounded one. On `raw` and
  `standardised`, where most answers score below 0, being malformed pays, so watch
  `mode/*/malformed_rate` there.

  Args:
    config: of the model's decoder.
    params: of the decoder, as `policy.init` lays them out. A language head is dropped.
    head: `[d]` or `[1, d]`, the classification head.
    encode: `encode(prompt, answer) -> ids` by the reward model's own tokenizer and template; a
      prompt with earlier messages comes as all of them, pairs of role and content.
    mesh: parameters are split over it as the policy's are, batches over `data` and `fsdp`.
    batch_size: sequences scored at a time; a short last batch is padded.
    max_tokens: width of every batch, so that one compiled program serves all.
    scale: of the scores, one of `scales.SCALES`.
    reference: prompts and answers whose logits `standardised` and `percentile` are relative to,
      e.g. some hundred answers of the policy before training.
    long_answers: what happens to a prompt and answer of more than `max_tokens` tokens. `score_0`:
      `Failed("too_long")`, a 0 that is counted. `truncate_left`: the first tokens, which are the
      prompt's, are left out.

  Raises:
    ValueError: the head does not fit the decoder, the sizes do not fit the mesh or the model, or
      the scale does not fit the reference.
  """

  on_device = True
  reads_earlier = True

  def __init__(
    self,
    config: PolicyConfig,
    params: policy.Params,
    head: Array | np.ndarray,
    encode: Callable[[Asked, str], Sequence[int]],
    *,
    mesh: Mesh,
    batch_size: int = 32,
    max_tokens: int = 2048,
    scale: str = "sigmoid",
    reference: Sequence[tuple[str, str]] | None = None,
    long_answers: str = "score_0",
  ):
    if scale not in scales.SCALES:
      raise ValueError(f"scale={scale!r} must be one of {', '.join(scales.SCALES)}.")
    if long_answers not in LONG_ANSWERS:
      raise ValueError(f"long_answers={long_answers!r} must be one of {', '.join(LONG_ANSWERS)}.")
    head = np.asarray(head, np.float32)
    if head.shape not in ((config.hidden_size,), (1, config.hidden_size)):
      raise ValueError(
        f"the head is {head.shape}, but a reward model of hidden size {config.hidden_size} has one "
        f"label: ({config.hidden_size},) or (1, {config.hidden_size})."
      )
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % shards:
      raise ValueError(
        f"batch_size={batch_size} does not divide over the {shards} shards of a batch "
        "(mesh data * fsdp); choose a multiple."
      )
    if max_tokens > config.max_positions:
      raise ValueError(
        f"max_tokens={max_tokens} is more than the reward model's {config.max_positions} positions."
      )
    self.config = PolicyConfig.from_dict({**config.to_dict(), "tie_embeddings": True})
    self.batch_size, self.max_tokens = batch_size, max_tokens
    self._encode = encode
    shardings = parallel.param_shardings(mesh, policy.logical_axes(self.config))
    decoder = {name: leaf for name, leaf in params.items() if name != "head"}
    self._params = jax.device_put(decoder, shardings)
    self._head = jax.device_put(head.reshape(-1), parallel.replicated(mesh))
    self._batch_sharding = parallel.batch_sharding(mesh)
    self._long_answers = long_answers
    self._reference: tuple[float, float] | None = None
    if reference is not None:
      sequences = [self._fit(encode(prompt, answer)) for prompt, answer in reference]
      fitting = [ids for ids in sequences if not isinstance(ids, Failed)]
      self._reference = scales.reference_of(self.logits(fitting))
    self._scale = self._checked(scale)

  def with_scale(self, scale: str) -> "RewardModel":
    """This model with its scores on another scale.

    Raises:
      ValueError: the scale needs a reference set, and the model was made without.
    """
    if scale not in scales.SCALES:
      raise ValueError(f"scale={scale!r} must be one of {', '.join(scales.SCALES)}.")
    other = copy.copy(self)
    other._scale = self._checked(scale)
    return other

  def _checked(self, scale: str) -> str:
    if scale in scales.OF_REFERENCE and self._reference is None:
      raise ValueError(
        f"scale={scale!r} is relative to a reference set: give `reference`, prompts and answers."
      )
    return scale

  def logits(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """The model's own scores `[N]` float32 of token sequences of any number and length.

    Raises:
      ValueError: a sequence is empty or longer than `max_tokens`. Nothing is truncated silently.
    """
    for ids in sequences:
      if not 1 <= len(ids) <= self.max_tokens:
        raise ValueError(
          f"a sequence has {len(ids)} tokens; the reward model takes 1 to "
          f"max_tokens={self.max_tokens}. Raise max_tokens or shorten prompts and responses."
        )
    scores = []
    for start in range(0, len(sequences), self.batch_size):
      batch = sequences[start : start + self.batch_size]
      tokens = np.zeros((self.batch_size, self.max_tokens), np.int32)
      lengths = np.ones(self.batch_size, np.int32)  # padding rows are one token long
      for i, ids in enumerate(batch):
        tokens[i, : len(ids)], lengths[i] = ids, len(ids)
      tokens, lengths = jax.device_put((tokens, lengths), self._batch_sharding)
      found = reward_scores(self.config, self._params, self._head, tokens, lengths)
      scores.append(jax.device_get(found)[: len(batch)])
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)

  def score_batch(
    self, prompts: Sequence[Asked], responses: Sequence[str], answers: Sequence[str]
  ) -> list[float]:
    """A score for each response: 0.0 for malformed ones, `Failed` for those that the model cannot
    score.
    """
    del answers
    parts = [parse_response(response).answer for response in responses]
    scores: list[float] = [0.0] * len(parts)
    places, sequences = [], []
    for i, part in enumerate(parts):
      if part is None:
        continue
      try:
        ids = self._fit(self._encode(prompts[i], part))
      except Exception as error:  # one response must not cost the others their batch
        ids = Failed("raised", f"encoding {part[:200]!r} raised {type(error).__name__}: {error}.")
      if isinstance(ids, Failed):
        scores[i] = ids
        continue
      places.append(i)
      sequences.append(ids)
    found = scales.apply(self._scale, self.logits(sequences), *(self._reference or (0.0, 1.0)))
    for i, score in zip(places, found, strict=True):
      scores[i] = float(score)
    return scores

  def _fit(self, ids: Sequence[int]) -> Sequence[int] | Failed:
    """`ids` as the model can take them, or why it cannot."""
    if not len(ids) >= 1:
      return Failed("empty", "the prompt and answer have no token.")
    if max(ids) >= self.config.vocab_size:
      return Failed("token", f"the reward model has no token {max(ids)}.")
    if len(ids) <= self.max_tokens:
      return ids
    if self._long_answers == "truncate_left":
      return ids[-self.max_tokens :]
    return Failed(
      "too_long",
      f"a prompt and answer have {len(ids)} tokens, and the reward model takes "
      f"max_tokens={self.max_tokens}. Raise max_tokens, shorten responses, or set "
      "long_answers='truncate_left'.",
      by_choice=True,
    )

  def __call__(self, prompt: Asked, response: str, answer: str) -> float:
    return self.score_batch([prompt], [response], [answer])[0]


@functools.lru_cache(maxsize=1)  # training and an evaluation's judge share it
def from_config(config: RewardModelConfig, mesh: Mesh) -> RewardModel:
  """Loads the reward model that a config names, with its own tokenizer and chat template.

  Args:
    config: with `init_from`.
    mesh: see `RewardModel`; of this process's devices, since each process scores its own rows.

  Raises:
    FileNotFoundError: there is no such folder, or a file is missing.
    ValueError: see `load_reward_model`.
  """
  folder = pretrained.locate(config.init_from)
  if not folder.is_dir():
    raise ValueError(f"{folder} is a file: a reward model is a folder of safetensors files")
  tokenizer = PretrainedTokenizer.load(folder)

  def encode(prompt: Asked, answer: str) -> list[int]:
    asked = (("user", prompt),) if isinstance(prompt, str) else prompt
    turns = (*asked, ("assistant", answer))
    return tokenizer.encode_messages(
      [{"role": role, "content": content} for role, content in turns], finished=True
    )

  return load_reward_model(
    folder,
    encode,
    mesh=mesh,
    dtype=config.dtype,
    batch_size=config.batch,
    max_tokens=config.max_tokens,
    scale=config.scale,
    long_answers=config.long_answers,
  )


class _WithoutHead:
  """A checkpoint without its classification head: the decoder's tensors."""

  def __init__(self, checkpoint: loading.Checkpoint):
    self.where, self.shape, self.read = checkpoint.where, checkpoint.shape, checkpoint.read
    self._names = checkpoint.names() - {HEAD_TENSOR}

  def names(self) -> frozenset[str]:
    return self._names


def load_reward_model(
  folder: pathlib.Path | str,
  encode: Callable[[Asked, str], Sequence[int]],
  *,
  mesh: Mesh,
  dtype: str = "float32",
  **options: Any,
) -> RewardModel:
  """Loads a `*ForSequenceClassification` folder with one label, e.g. Llama-3.1-Tulu-3-8B-RM.

  Args:
    folder: with `config.json` and safetensors files; tensors go straight to their shards.
    encode: see `RewardModel`.
    mesh: see `RewardModel`.
    dtype: of the parameters and the computation.
    **options: `batch_size`, `max_tokens`, `scale`, `reference` and `long_answers` of `RewardModel`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the architecture is not implemented, or a tensor is missing, unexpected or of
      another shape; it is named.
  """
  folder = pathlib.Path(folder)
  path = model_files.find(folder, "config.json")
  if path is None:
    raise FileNotFoundError(f"{folder} lacks config.json.")
  # Such a model has no language head, whatever its config says.
  fields = {**model_files.read_json(path), "architectures": [], "tie_word_embeddings": True}
  config = dataclasses.replace(huggingface.config_from_json(fields, str(path)), dtype=dtype)
  checkpoint = huggingface.SafetensorsFolder(folder)
  head, decoder = read_head(checkpoint), _WithoutHead(checkpoint)
  loading.check_tensors(config, decoder)
  rows = loading.TableRows(config.vocab_size, (), config.vocab_size)
  shardings = parallel.param_shardings(mesh, policy.logical_axes(config))
  params = loading.build_params(config, decoder, rows, dtype, shardings)
  return RewardModel(config, params, head, encode, mesh=mesh, **options)


def read_head(checkpoint: loading.Checkpoint) -> np.ndarray:
  """The classification head of a checkpoint, `[d]` float32.

  Raises:
    ValueError: there is none, or it has several labels.
  """
  if HEAD_TENSOR not in checkpoint.names():
    raise ValueError(f"{checkpoint.where} holds no {HEAD_TENSOR}: this is not a reward model.")
  if len(shape := checkpoint.shape(HEAD_TENSOR)) != 2 or shape[0] != 1:
    raise ValueError(
      f"{checkpoint.where}: {HEAD_TENSOR} is {shape}; a reward model has one label, (1, d)."
    )
  return np.asarray(checkpoint.read(HEAD_TENSOR), np.float32)[0]
