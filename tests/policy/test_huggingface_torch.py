"""Parity with transformers, live: skipped where torch is not installed."""

import importlib.util
import pathlib
import random

import jax
import numpy as np
import pytest

from lhrm_jax import policy, text
from tests.policy import test_lora

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MAKE = pathlib.Path(__file__).parents[1] / "golden" / "make.py"
_spec = importlib.util.spec_from_file_location("make", MAKE)
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

compute = jax.jit(policy.logits, static_argnums=0)


def save_folder(name: str, seed: int, folder: pathlib.Path):
  family, fields = make.FOLDERS[name]
  model = make.random_model(family, fields, seed)
  model.save_pretrained(folder)
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=make.tiny_tokenizer(), eos_token="<|end|>"
  ).save_pretrained(folder)
  return model


def logits_of(config, params, tokens, mask) -> np.ndarray:
  return np.asarray(compute(config, params, tokens, mask)) * mask[..., None]


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("name", make.FOLDERS)
def test_logits_equal_before_and_after_a_round_trip(name, seed, tmp_path):
  model = save_folder(name, seed, tmp_path / "in")
  config, params, tokenizer = policy.load_pretrained(tmp_path / "in")
  policy.export_pretrained(tmp_path / "out", config, params, tokenizer, "", dtype="float32")
  exported = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "out", attn_implementation="eager", dtype=torch.float32
  ).eval()
  for pad_left in (False, True):
    tokens, mask = make.ragged_batch(seed, pad_left)
    ours = logits_of(config, params, tokens, mask)
    theirs = make.torch_logits(model, tokens, mask) * mask[..., None]
    np.testing.assert_allclose(ours[..., : make.VOCAB], theirs, atol=1e-4, rtol=0)
    again = make.torch_logits(exported, tokens, mask) * mask[..., None]
    np.testing.assert_array_equal(again[..., : make.VOCAB], theirs)
    np.testing.assert_allclose(again, ours[..., : again.shape[-1]], atol=1e-4, rtol=0)


def test_exported_tokenizer_gives_the_same_ids_in_transformers(tmp_path):
  save_folder("qwen2_tied", 0, tmp_path / "in")
  config, params, ours = policy.load_pretrained(tmp_path / "in")
  policy.export_pretrained(tmp_path / "out", config, params, ours, "")
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  chat = [{"role": "user", "content": "def add(a, b):\n  return 1½ é"}]

  def ids(**variables) -> list[int]:
    prompt = theirs.apply_chat_template(
      chat, add_generation_prompt=True, tokenize=False, **variables
    )
    return theirs(prompt, add_special_tokens=False).input_ids

  prompt = ours.encode_prompt(chat[0]["content"])
  think, no_think = ours.tag_ids.opening
  assert ids() == prompt
  assert ids(enable_thinking=True) == [*prompt, think]
  assert ids(enable_thinking=False) == [*prompt, no_think]
  response = "<think>one half</think>1/2"
  assert theirs(response, add_special_tokens=False).input_ids == ours.encode_response(response)[:-1]
  # vLLM and pipelines decode with special tokens dropped; the tags must survive it.
  assert theirs.decode(ours.encode_response(response), skip_special_tokens=True) == response
  assert theirs.eos_token_id == ours.eos_ids[0]


@pytest.mark.slow
def test_smollm2_logits_equal_transformers_from_the_same_gguf_file():
  file = make.smollm2_file()
  model = transformers.AutoModelForCausalLM.from_pretrained(
    file.parent, gguf_file=file.name, dtype=torch.float32
  ).eval()
  config, params, tokenizer = policy.load_pretrained(file)
  random.seed(0)
  ids = [tokenizer.encode_prompt(prompt) for prompt in make.PROMPTS[:4]]
  tokens = np.zeros((4, max(map(len, ids))), np.int32)
  mask = np.zeros_like(tokens)
  for i, row in enumerate(ids):
    tokens[i, : len(row)], mask[i, : len(row)] = row, 1
  theirs = make.torch_logits(model, tokens, mask) * mask[..., None]
  ours = logits_of(config, params, tokens, mask)[..., : theirs.shape[-1]]
  np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)


def test_load_tokenizer_reads_an_exported_folder(tmp_path):
  save_folder("llama_tied", 0, tmp_path / "in")
  loaded = policy.load_pretrained(tmp_path / "in")
  policy.export_pretrained(tmp_path / "out", *loaded, "")
  assert text.load_tokenizer(tmp_path / "out").tag_ids == loaded[2].tag_ids


@pytest.mark.parametrize("name", ["llama_tied", "qwen2_untied"])
def test_peft_computes_with_exported_adapters_what_we_do(name, tmp_path):
  peft = pytest.importorskip("peft")
  model = save_folder(name, 11, tmp_path / "in")
  config, params, tokenizer = policy.load_pretrained(tmp_path / "in")
  tags = tokenizer.tag_ids
  ids = (*tags.opening, *tags.closing)
  config, params = test_lora.with_adapters(config, params, tokens=ids)
  params = test_lora.moved(params)
  policy.export_adapter(tmp_path / "out", config, params, tokenizer, "", "base")
  model.resize_token_embeddings(tokenizer.vocab_size)
  adapted = peft.PeftModel.from_pretrained(model, tmp_path / "out").eval()
  tokens, mask = make.ragged_batch(11, False)
  tokens[0, : len(ids)] = ids
  ours = logits_of(config, params, tokens, mask)
  theirs = make.torch_logits(adapted, tokens, mask) * mask[..., None]
  size = theirs.shape[-1]
  np.testing.assert_allclose(ours[..., :size], theirs, atol=1e-4, rtol=0)
