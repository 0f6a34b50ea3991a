"""fastokens in the place of `tokenizers`: the same ids, or none of it."""

import pytest

from lhrm_jax import text
from lhrm_jax.errors import UserError
from lhrm_jax.text import fast_encoding
from tests.text.test_pretrained import GOLDEN, varied_strings

MODELS = ("qwen3_tied", "qwen2_untied", "llama_scaled", "mistral")


@pytest.mark.parametrize("model", MODELS)
def test_a_thousand_texts_have_the_same_ids(model):
  exact = text.load_tokenizer(GOLDEN / model)
  quick = exact.faster()
  for encoder in (quick._continuing, quick._rendered):
    assert isinstance(encoder, fast_encoding.FastEncoder) or model == "mistral"
  tags = ("<think>", "</think>", "<no_think>", "<|im_end|>", "<|im_start|>")
  for response in varied_strings(1000, tags):
    assert quick.encode_response(response) == exact.encode_response(response)
  for i, prompt in enumerate(varied_strings(150, tags)):
    messages = [{"role": "user", "content": prompt}]
    if i % 3 == 0:
      messages += [{"role": "assistant", "content": f"<think>{prompt}</think>Yes."}, *messages]
    assert quick.encode_messages(messages) == exact.encode_messages(messages)


def test_an_encoder_that_differs_is_not_used(monkeypatch):
  exact = text.load_tokenizer(GOLDEN / MODELS[0])

  class Other:
    @staticmethod
    def from_json_str(definition):
      return Other()

    def encode(self, text, add_special_tokens):
      found = exact._continuing.encode(text, add_special_tokens=False)
      return found if "²" not in text else exact._continuing.encode(text[1:])

  monkeypatch.setattr("fastokens.Tokenizer", Other)
  assert exact.faster()._continuing is exact._continuing


def test_one_that_fails_on_a_text_leaves_it_to_the_exact_one_and_one_that_errs_is_told():
  exact = text.load_tokenizer(GOLDEN / MODELS[0])._continuing

  class Failing:
    def encode(self, text, add_special_tokens):
      raise RuntimeError("match limit")

  class Wrong:
    def encode(self, text, add_special_tokens):
      return exact.encode(text + "!", add_special_tokens=False)

  ids = exact.encode("1 + 1", add_special_tokens=False).ids
  assert fast_encoding.FastEncoder(Failing(), exact).encode("1 + 1").ids == ids
  with pytest.raises(UserError, match="pip uninstall fastokens"):
    fast_encoding.FastEncoder(Wrong(), exact).encode("1 + 1")
