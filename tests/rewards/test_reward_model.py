"""The reward model against transformers' logits, over a mesh, and as a reward function."""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from lhrm_jax import parallel, rewards
from lhrm_jax.policy import PolicyConfig, RopeScaling, huggingface
from lhrm_jax.rewards import model as reward_model
from lhrm_jax.rewards import scales

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "reward_models.npz"
SIZES = {
  "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_layers": 2, "num_heads": 4,
  "num_kv_heads": 2, "max_positions": 64,
}  # fmt: skip
CONFIGS = {
  "llama": PolicyConfig(
    **SIZES, rms_norm_eps=1e-5, tie_embeddings=False,
    rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 16), scan_layers=False,
  ),
  "qwen2": PolicyConfig(**SIZES, rms_norm_eps=1e-6, qkv_bias=True, tie_embeddings=False),
}  # fmt: skip
# Where a tensor of a layer goes, and the axes it unfolds into; None transposes `[out, in]`.
HEADS = {"q": (4, 4), "k": (2, 4), "v": (2, 4)}


def golden(family):
  """Config, parameters in our layout, head, tokens, lengths and transformers' logits."""
  config, stored = CONFIGS[family], np.load(GOLDEN)
  of = lambda name: stored[f"{family}/{name}"]  # noqa: E731
  layers = []
  for i in range(config.num_layers):
    at = f"model.layers.{i}"
    attention = {}
    for x, (heads, width) in HEADS.items():
      kernel = of(f"{at}.self_attn.{x}_proj.weight").reshape(heads, width, -1).transpose(2, 0, 1)
      attention[x] = {"kernel": kernel}
      if config.qkv_bias:
        attention[x]["bias"] = of(f"{at}.self_attn.{x}_proj.bias").reshape(heads, width)
    out = of(f"{at}.self_attn.o_proj.weight").T.reshape(4, 4, -1)
    layers.append({
      "attention": {**attention, "o": {"kernel": out}},
      "mlp": {x: {"kernel": of(f"{at}.mlp.{x}_proj.weight").T} for x in ("gate", "up", "down")},
      "attention_norm": {"scale": of(f"{at}.input_layernorm.weight")},
      "mlp_norm": {"scale": of(f"{at}.post_attention_layernorm.weight")},
    })  # fmt: skip
  params = {
    "embedding": of("model.embed_tokens.weight"),
    "head": of("model.embed_tokens.weight"),  # a language head is dropped
    "final_norm": {"scale": of("model.norm.weight")},
  }
  if config.scan_layers:
    params["layers"] = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
  else:
    params |= {f"layer_{i}": layer for i, layer in enumerate(layers)}
  sequences = [
    row[:length].tolist() for row, length in zip(stored["tokens"], stored["lengths"], strict=True)
  ]
  return config, params, of("score.weight"), sequences, of("logits")


def make_model(family, *, encode=None, max_tokens=30, batch_size=4, options=None, **mesh):
  config, params, head, sequences, logits = golden(family)
  scorer = reward_model.RewardModel(
    config, params, head, encode or (lambda prompt, answer: [1]), mesh=parallel.make_mesh(**mesh),
    batch_size=batch_size, max_tokens=max_tokens, **(options or {}),
  )  # fmt: skip
  return scorer, sequences, logits


@pytest.mark.parametrize("family", CONFIGS)
def test_scores_equal_transformers_logits(family):
  """Ragged rows, wider padding than transformers saw, and a last batch that is filled up."""
  scorer, sequences, logits = make_model(family)
  np.testing.assert_allclose(scorer.logits(sequences), logits, atol=1e-4)
  np.testing.assert_allclose(scorer.logits(sequences[3:]), logits[3:], atol=1e-4)
  assert scorer.logits([]).shape == (0,)


def test_what_stands_in_the_padding_changes_nothing():
  config, params, head, _, logits = golden("qwen2")
  stored = np.load(GOLDEN)
  tokens, lengths = stored["tokens"].copy(), stored["lengths"]
  tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = 17
  config = PolicyConfig.from_dict({**config.to_dict(), "tie_embeddings": True})
  params.pop("head")
  found = reward_model.reward_scores(config, params, head[0], tokens, lengths)
  np.testing.assert_allclose(found, logits, atol=1e-4)


def test_one_program_serves_batches_of_every_size():
  scorer, sequences, _ = make_model("llama", max_tokens=26)
  before = reward_model.reward_scores._cache_size()
  for count in (1, 4, 5):
    scorer.logits(sequences[:count])
  assert reward_model.reward_scores._cache_size() == before + 1


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_eight_devices_score_like_one(mesh):
  code = (
    "import json, jax\nfrom tests.rewards.test_reward_model import make_model\n"
    "assert jax.device_count() == 8\n"
    "for family in ('llama', 'qwen2'):\n"
    f"  model, rows, _ = make_model(family, batch_size=8, **{mesh})\n"
    "  print(json.dumps(model.logits(rows).tolist()))"
  )
  run = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False,
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
    cwd=pathlib.Path(__file__).parents[2],
  )  # fmt: skip
  assert run.returncode == 0, run.stderr[-2000:]
  for family, line in zip(CONFIGS, run.stdout.splitlines()[-2:], strict=True):
    np.testing.assert_allclose(json.loads(line), golden(family)[-1], atol=1e-4)


def test_only_the_answer_part_is_judged_and_an_open_response_scores_0():
  seen = []

  def encode(prompt, answer):
    seen.append((prompt, answer))
    return [1 + ord(c) % 60 for c in answer]

  scorer, _, _ = make_model("qwen2", encode=encode)
  responses = ["<think>long</think>abc", "<no_think>abc</no_think>", "<think>abc", "abc"]
  scores = scorer.score_batch(["q"] * 4, responses, [""] * 4)
  assert seen == [("q", "abc"), ("q", "abc")]
  assert scores[0] == scores[1] and 0 < scores[0] < 1
  assert scores[2:] == [0.0, 0.0]
  assert scorer("q", responses[0], "") == scores[0]


def letters(prompt, answer):
  return [1 + ord(c) % 60 for c in prompt + answer]


REFERENCE = [("q", "ab"), ("q", "cde"), ("p", "f")]


def test_scores_are_on_the_scale_that_is_named():
  responses = ["<think></think>abc", "<think></think>xy"]
  options = {"scale": "raw", "reference": REFERENCE}
  raw, _, _ = make_model("qwen2", encode=letters, options=options)
  logits = raw.logits([letters("q", "abc"), letters("q", "xy")])
  known = raw.logits([letters(*row) for row in REFERENCE]).astype(np.float64)
  expected = {
    "raw": logits,
    "sigmoid": 1 / (1 + np.exp(-logits)),
    "standardised": (logits - known.mean()) / known.std(),
  }
  standard = expected["standardised"]
  expected["percentile"] = [0.5 * (1 + math.erf(z / 2**0.5)) for z in standard]
  assert expected.keys() == set(scales.SCALES)
  for scale, scores in expected.items():
    model = raw.with_scale(scale)
    np.testing.assert_allclose(model.score_batch(["q"] * 2, responses, [""] * 2), scores, rtol=1e-5)
    assert model.score_batch(["q"], ["<think>abc"], [""]) == [0.0]


def test_the_scale_of_a_config_reaches_the_model_inside_of_other_rewards():
  model, _, _ = make_model("qwen2", encode=letters)
  reward = rewards.compose({"both": 2.0}, both=rewards.by_query("exact_match", model))
  logit = float(model.logits([letters("q", "abc")])[0])
  found = rewards.rescaled(reward, "raw")("q", "<think></think>abc", "")
  assert found == pytest.approx(2 * logit, rel=1e-6)
  assert rewards.rescaled(reward, "raw")("q", "<think></think>7", "7") == 2.0
  with pytest.raises(ValueError, match="no reward model in 'exact_match'"):
    rewards.rescaled(rewards.get("exact_match"), "raw")
  with pytest.raises(ValueError, match="'standardised' is relative to a reference set"):
    rewards.rescaled(reward, "standardised")


@pytest.mark.parametrize(
  ("options", "why"),
  [
    ({"scale": "logit"}, "one of raw, sigmoid, standardised, percentile"),
    ({"long_answers": "cut"}, "one of score_0, truncate_left"),
    ({"scale": "standardised"}, "give `reference`"),
    ({"scale": "percentile"}, "give `reference`"),
    ({"reference": []}, "at least two finite and different"),
    ({"reference": REFERENCE[:1]}, "at least two finite and different"),
    ({"reference": REFERENCE[:1] * 3}, "at least two finite and different"),
  ],
)
def test_a_scale_and_its_reference_must_fit(options, why):
  with pytest.raises(ValueError, match=why):
    make_model("qwen2", encode=letters, options=options)


def test_an_answer_beyond_the_limit_scores_0_and_is_counted_or_loses_its_prompt_s_start():
  responses = [f"<think></think>{'a' * n}" for n in (29, 30, 5000)]
  scorer, _, _ = make_model("qwen2", encode=letters)
  scores = scorer.score_batch(["q"] * 3, responses, [""] * 3)
  assert scores[0] > 0.0 and not isinstance(scores[0], rewards.Failed)
  assert [(score, score.reason) for score in scores[1:]] == [(0.0, "too_long")] * 2
  assert "truncate_left" in scores[1].detail

  cutting, _, _ = make_model("qwen2", encode=letters, options={"long_answers": "truncate_left"})
  scores = cutting.score_batch(["q"] * 3, responses, [""] * 3)
  logits = cutting.logits([letters("q", "a" * 29), letters("", "a" * 30)])
  np.testing.assert_allclose(scores, scales.apply("sigmoid", logits[[0, 1, 1]]), rtol=1e-5)


def test_a_response_that_cannot_be_encoded_costs_only_itself():
  def encode(prompt, answer):
    answer.encode()
    return letters(prompt, answer) if answer else []

  scorer, _, _ = make_model("qwen2", encode=encode)
  texts = ["<think></think>abc", "<think></think>\ud800", "<think></think>"]
  scores = scorer.score_batch(["q"] * 3, texts, [""] * 3)
  assert scores[0] == scorer("q", texts[0], "") > 0
  assert [score.reason for score in scores[1:]] == ["raised", "empty"]


def test_one_scorer_per_query():
  scorer, _, _ = make_model("llama", encode=lambda prompt, answer: [5, 6, 7])
  reward = rewards.by_query("exact_match", scorer)
  response = "<think>a</think>7"
  assert reward("", response, "7") == 1.0
  assert reward("", response, "8") == 0.0
  assert reward("", response, " ") == scorer("", response, "")
  with pytest.raises(KeyError, match="no reward named"):
    rewards.by_query("exact_mach", scorer)


def test_what_does_not_fit_is_refused():
  config, params, head, sequences, _ = golden("llama")
  mesh = parallel.make_mesh()
  make = lambda head=head, **options: reward_model.RewardModel(  # noqa: E731
    config, params, head, lambda *_: [1], mesh=mesh, **{"max_tokens": 20, **options}
  )
  with pytest.raises(ValueError, match="one label"):
    make(np.zeros((2, 16)))
  with pytest.raises(ValueError, match="64 positions"):
    make(max_tokens=65)
  with pytest.raises(ValueError, match="24 tokens"):
    make().logits(sequences)


def test_the_head_is_read_from_a_folder(tmp_path):
  numpy = pytest.importorskip("safetensors.numpy")
  head = golden("llama")[2]
  read = lambda: reward_model.read_head(huggingface.SafetensorsFolder(tmp_path))  # noqa: E731
  path = tmp_path / "model.safetensors"
  numpy.save_file({"score.weight": head}, path)
  np.testing.assert_array_equal(read(), head[0])
  numpy.save_file({"score.weight": np.concatenate([head, head])}, path)
  with pytest.raises(ValueError, match="one label"):
    read()
  numpy.save_file({"lm_head.weight": head}, path)
  with pytest.raises(ValueError, match="not a reward model"):
    read()


@pytest.mark.parametrize("family", CONFIGS)
def test_a_whole_model_is_loaded_from_its_folder(tmp_path, family):
  numpy = pytest.importorskip("safetensors.numpy")
  config, _, _, sequences, logits = golden(family)
  stored = np.load(GOLDEN)
  tensors = {
    name.removeprefix(f"{family}/"): np.ascontiguousarray(stored[name])
    for name in stored.files
    if name.startswith(f"{family}/") and name != f"{family}/logits"
  }
  fields = huggingface.config_to_json(config)
  fields["architectures"] = [
    fields["architectures"][0].replace("CausalLM", "SequenceClassification")
  ]
  (tmp_path / "config.json").write_text(json.dumps(fields))
  numpy.save_file(tensors, tmp_path / "model.safetensors")
  model = reward_model.load_reward_model(
    tmp_path, lambda prompt, answer: [1], mesh=parallel.make_mesh(), batch_size=4, max_tokens=30
  )
  np.testing.assert_allclose(model.logits(sequences), logits, atol=1e-4)

  del tensors["model.norm.weight"]
  numpy.save_file(tensors, tmp_path / "model.safetensors")
  with pytest.raises(ValueError, match=r"missing model\.norm\.weight"):
    reward_model.load_reward_model(
      tmp_path, lambda prompt, answer: [1], mesh=parallel.make_mesh(), max_tokens=30
    )
