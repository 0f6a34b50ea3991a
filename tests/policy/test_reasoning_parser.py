"""The parser that an export brings for vLLM: thoughts apart from answers, whole and streamed."""

import importlib.util
import pathlib
import sys
import types

import pytest

import lhrm_jax.policy
from lhrm_jax.text import tags

FILE = pathlib.Path(lhrm_jax.policy.__file__).parent / "export_files/hybrid_reasoning_parser.py"
THINK, END, NO_THINK, END_NO_THINK, A, B = range(6)
IDS = {"<think>": THINK, "</think>": END, "<no_think>": NO_THINK, "</no_think>": END_NO_THINK,
       "7": A, "8": B}  # fmt: skip
TEXTS = {number: text for text, number in IDS.items()}


@pytest.fixture(scope="module")
def parser_class():
  """The exported class over a stand-in for what it uses of vLLM 0.32."""

  class ReasoningParser:
    def __init__(self, tokenizer, *args, **kwargs):
      self.vocab, self.model_tokenizer = IDS, tokenizer

  class Manager:
    register_module = staticmethod(lambda name: lambda cls: cls)

  modules = {
    "vllm": {}, "vllm.entrypoints": {}, "vllm.entrypoints.generate": {},
    "vllm.entrypoints.generate.base": {},
    "vllm.reasoning": {"ReasoningParser": ReasoningParser, "ReasoningParserManager": Manager},
    "vllm.entrypoints.generate.base.protocol": {"DeltaMessage": types.SimpleNamespace},
  }  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    for name, content in modules.items():
      module = types.ModuleType(name)
      module.__dict__.update(content)
      patch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("hybrid_reasoning_parser", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
  return module.HybridReasoningParser


# Mode of the request, ids of the reply, its thought, its answer, tokens of the thought.
REPLIES = [
  (None, [THINK, A, B, END, B], "78", "8", 2),
  (None, [NO_THINK, B, END_NO_THINK], None, "8", 0),
  (None, [A, B], None, "78", 0),
  (None, [THINK, A], "7", None, 1),
  (True, [A, B, END, B], "78", "8", 2),
  (True, [A, END], "7", None, 1),
  (True, [A, B], "78", None, 2),
  (False, [B, END_NO_THINK], None, "8", 0),
  (False, [B], None, "8", 0),
]


@pytest.mark.parametrize(("forced", "ids", "thought", "answer", "count"), REPLIES)
def test_a_whole_reply(parser_class, forced, ids, thought, answer, count):
  parser = parser_class(None, chat_template_kwargs={"enable_thinking": forced})
  text = "".join(TEXTS[i] for i in ids)
  assert parser.extract_reasoning(text) == (thought, answer)
  assert parser.count_reasoning_tokens(tuple(ids)) == count


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(("forced", "ids", "thought", "answer", "count"), REPLIES)
def test_a_stream_as_vllm_reads_it(parser_class, forced, ids, thought, answer, count, size, delay):
  """In pieces of one or two tokens; with stop strings, text comes later than its ids."""
  parser = parser_class(None, chat_template_kwargs={"enable_thinking": forced})
  prompt = [A, {True: THINK, False: NO_THINK, None: B}[forced]]
  ended, told = parser.is_reasoning_end(prompt), {"reasoning": "", "content": ""}
  before, before_ids = "", []
  for at in range(0, len(ids), size):
    now_ids = ids[: at + size]
    whole = "".join(TEXTS[i] for i in now_ids if i != END_NO_THINK)
    now = whole if len(now_ids) == len(ids) else whole[: len(whole) - delay]
    if ended:
      told["content"] += now[len(before) :]
    else:
      delta = parser.extract_reasoning_streaming(
        before, now, now[len(before) :], before_ids, now_ids, now_ids[at:]
      )
      for part in told:
        told[part] += (delta and getattr(delta, part)) or ""
      ended = parser.is_reasoning_end_streaming(now_ids, now_ids[at:])
    before, before_ids = now, now_ids
  assert told == {"reasoning": thought or "", "content": answer or ""}


def test_direct_answers_end_with_their_tag_and_structure_begins_after_the_mode(parser_class):
  def made(forced):
    return parser_class(None, chat_template_kwargs={"enable_thinking": forced})

  request = types.SimpleNamespace(stop_token_ids=[9])
  assert made(None).adjust_request(request).stop_token_ids == [9, END_NO_THINK]
  request = types.SimpleNamespace(stop_token_ids=None)
  assert made(True).adjust_request(request).stop_token_ids is None
  # A prompt may end an older thought; only its last token is this reply's mode.
  assert not parser_class(None).is_reasoning_end([THINK, A, END, B])
  assert parser_class(None).is_reasoning_end([A, NO_THINK])
  assert parser_class(None).is_reasoning_end_streaming([A, B, NO_THINK], [NO_THINK])
  assert parser_class(None).is_reasoning_end_streaming([A, THINK, A, END], [END])
  assert not parser_class(None).is_reasoning_end_streaming([A, THINK], [THINK])
  assert parser_class(None).extract_content_ids([THINK, A, END, B]) == [B]


def test_the_end_of_sequence_is_no_token_of_a_thought(parser_class):
  parser = parser_class(types.SimpleNamespace(eos_token_id=9))
  assert parser.count_reasoning_tokens((THINK, A, 9)) == 1
  assert parser.count_reasoning_tokens((THINK, A, END, B, 9)) == 1


def test_its_tags_are_ours():
  source = FILE.read_text()
  for tag in tags.TAGS:
    assert f'"{tag}"' in source
