"""vLLM's reasoning parser for a policy that opens each reply with `<think>` or `<no_think>`.

  vllm serve FOLDER --reasoning-parser hybrid \\
      --reasoning-parser-plugin FOLDER/hybrid_reasoning_parser.py

The mode is read from the request where it forces one, and from the reply's first token where the
model has chosen it: a prompt may hold older tags.
"""

from collections.abc import Iterable, Sequence

from vllm.reasoning import ReasoningParser, ReasoningParserManager

try:
  from vllm.entrypoints.generate.base.protocol import DeltaMessage
except ImportError:  # before vLLM 0.30
  from vllm.entrypoints.openai.protocol import DeltaMessage

THINK, NO_THINK = "<think>", "<no_think>"
END_THINK, END_NO_THINK = "</think>", "</no_think>"


@ReasoningParserManager.register_module("hybrid")
class HybridReasoningParser(ReasoningParser):
  """Tells a reply's thought from its answer, and drops the tags."""

  reasoning_start_str, reasoning_end_str = THINK, END_THINK

  def __init__(self, tokenizer, *args, chat_template_kwargs=None, **kwargs):
    super().__init__(tokenizer, *args, **kwargs)
    forced = (chat_template_kwargs or {}).get("enable_thinking")
    self._forced = forced if isinstance(forced, bool) else None
    self._think, self._end, self._no_think, self._end_no_think = (
      self.vocab[tag] for tag in (THINK, END_THINK, NO_THINK, END_NO_THINK)
    )
    self._streamed_end: bool | None = None

  def adjust_request(self, request):
    """Ends direct answers with their closing tag."""
    if self._forced is not True:
      request.stop_token_ids = [*(request.stop_token_ids or ()), self._end_no_think]
    return request

  def _thinks(self, ids: Sequence[int]) -> bool:
    """Whether the reply `ids` has a thought; an empty one may still get one."""
    return (not ids or ids[0] == self._think) if self._forced is None else self._forced

  def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
    return bool(input_ids) and input_ids[-1] in (self._no_think, self._end)

  def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:
    if self._streamed_end is not None:  # text may come later than its ids
      return self._streamed_end
    new = list(delta_ids)
    if self._end in new:
      return True
    # `input_ids` are the reply, or the prompt and the reply: only the former begin with the mode.
    return self._forced is False or (bool(new) and new[0] == self._no_think)

  def extract_content_ids(self, input_ids: list[int]) -> list[int]:
    for mark in (self._end, self._no_think):
      if mark in input_ids:
        return input_ids[input_ids.index(mark) + 1 :]
    return [] if self._thinks(input_ids) else input_ids

  def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
    ids = list(token_ids)
    if not ids or not self._thinks(ids):
      return 0
    ended = ids[-1] == getattr(self.model_tokenizer, "eos_token_id", None)
    thought = ids[ids[0] == self._think : len(ids) - ended]
    return thought.index(self._end) if self._end in thought else len(thought)

  def extract_reasoning(self, model_output: str, request=None) -> tuple[str | None, str | None]:
    thought, answer, _ = self._parts(model_output)
    return thought or None, answer or None

  def extract_reasoning_streaming(
    self, previous_text, current_text, delta_text,
    previous_token_ids, current_token_ids, delta_token_ids,
  ) -> DeltaMessage | None:  # fmt: skip
    before, (thought, answer, ended) = self._parts(previous_text), self._parts(current_text)
    self._streamed_end = ended
    if self._forced is None and not _is_mode(current_text):
      return None
    thought = _without_beginning_of(END_THINK, thought) if not ended else thought
    shown = _without_beginning_of(END_THINK, before[0]) if not before[2] else before[0]
    thought, answer = thought[len(shown) :], answer[len(before[1]) :]
    if not thought and not answer:
      return None
    return DeltaMessage(reasoning=thought or None, content=answer or None)

  def _parts(self, text: str) -> tuple[str, str, bool]:
    """Thought and answer of a reply, and whether the thought, if any, is over."""
    if self._forced is None and text.startswith(THINK):
      text, thinks = text[len(THINK) :], True
    elif self._forced is None and not _is_mode(text):
      return "", "", False
    else:
      text, thinks = text.removeprefix(NO_THINK), self._forced is True
    if not thinks:
      return "", text.removesuffix(END_NO_THINK), True
    thought, end, answer = text.partition(END_THINK)
    return thought, answer, bool(end)


def _is_mode(text: str) -> bool:
  """Whether the beginning of a reply tells its mode: a tag that is whole, or none."""
  return not any(tag.startswith(text) and tag != text for tag in (THINK, NO_THINK))


def _without_beginning_of(tag: str, text: str) -> str:
  """The text but for an end that the tag may begin with."""
  kept = next(n for n in range(len(tag) - 1, -1, -1) if text.endswith(tag[:n]))
  return text[: len(text) - kept]
