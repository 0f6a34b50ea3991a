"""Writes reward_models.npz: random small sequence classifiers and the logits transformers gives.

  python tests/golden/make_reward_models.py

Needs torch and transformers, which the tests that read the file do not.
"""

import json
import pathlib

import numpy as np
import torch
import transformers

_SIZES = {
  "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
  "num_labels": 1, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
_LLAMA3 = {
  "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
  "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
_LENGTHS = (12, 7, 1, 24, 9)


def main() -> None:
  torch.manual_seed(0)
  arrays = {"lengths": np.array(_LENGTHS, np.int32)}
  tokens = torch.randint(1, _SIZES["vocab_size"], (len(_LENGTHS), max(_LENGTHS)))
  tokens[torch.arange(max(_LENGTHS)) >= torch.tensor(_LENGTHS)[:, None]] = _SIZES["pad_token_id"]
  arrays["tokens"] = tokens.numpy().astype(np.int32)
  models = {
    "llama": transformers.LlamaForSequenceClassification(
      transformers.LlamaConfig(**_SIZES, rms_norm_eps=1e-5, rope_parameters=_LLAMA3)
    ),
    "qwen2": transformers.Qwen2ForSequenceClassification(
      transformers.Qwen2Config(**_SIZES, rms_norm_eps=1e-6)
    ),
  }
  for family, model in models.items():
    model.eval()
    with torch.no_grad():
      for name, weight in model.named_parameters():  # biases and scales off their plain values
        scale = 1.0 if "embed" in name or "score" in name else 0.3
        weight.copy_(("norm" in name) + scale * torch.randn_like(weight))
      mask = tokens != _SIZES["pad_token_id"]
      arrays[f"{family}/logits"] = model(tokens, attention_mask=mask).logits[:, 0].numpy()
    for name, weight in model.state_dict().items():
      arrays[f"{family}/{name}"] = weight.numpy()
  arrays["made_with"] = np.array(json.dumps({
    "torch": torch.__version__, "transformers": transformers.__version__
  }))  # fmt: skip
  np.savez_compressed(pathlib.Path(__file__).with_name("reward_models.npz"), **arrays)


if __name__ == "__main__":
  main()
