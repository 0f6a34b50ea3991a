"""Replies token by token: parts, counts, text held back, ends."""

import pytest

from lhrm_jax.serving.reply import Reply, StopFinder, TextStream, TokenLogprob
from lhrm_jax.text import tags


def grown(tokenizer, text, *, end=True, **options):
  """A reply that got the tokens of a text one by one, its texts by part, tokens of the thought."""
  ids = tokenizer.encode_response(text)
  reply = Reply(tokenizer, **{"max_tokens": 99, **options})
  parts, thought = {"reasoning": "", "content": ""}, 0
  for token_id in ids if end else ids[:-1]:
    assert not reply.finish_reason
    for piece in reply.push(TokenLogprob(token_id, -1.0)):
      parts[piece.part] += piece.text
      thought += piece.thought
    if reply.finish_reason:
      break
  return reply, parts, thought


def test_a_thought_is_told_apart_from_the_answer_and_counted_without_its_tags(tokenizer):
  reply, parts, thought = grown(tokenizer, "<think>3+4=7</think>7")
  assert parts == {"reasoning": "3+4=7", "content": "7"}
  assert (reply.mode, thought, len(reply.tokens)) == (tags.THINK, 5, 9)
  assert reply.finish_reason == "stop"


def test_a_direct_answer_ends_with_its_closing_tag(tokenizer):
  reply, parts, thought = grown(tokenizer, "<no_think>7</no_think>8")
  assert parts == {"reasoning": "", "content": "7"}
  assert (reply.mode, thought, reply.finish_reason) == (tags.NO_THINK, 0, "stop")


def test_a_load_generators_replies_end_by_their_length(tokenizer):
  for text in ("<no_think>7</no_think>8", "<think>3</think>7"):
    reply, parts, _ = grown(tokenizer, text, max_tokens=20, ignore_eos=True)
    assert not reply.finish_reason and parts["content"].endswith(text[-1])


def test_a_reply_without_a_tag_is_all_answer(tokenizer):
  reply, parts, _ = grown(tokenizer, "3+4")
  assert (reply.mode, parts["content"]) == (tags.INVALID_MODE, "3+4")


def test_a_reply_cut_in_its_thought_has_no_answer(tokenizer):
  reply, parts, thought = grown(tokenizer, "<think>3+4=7</think>7", max_tokens=4)
  assert parts == {"reasoning": "3+4", "content": ""}
  assert (reply.finish_reason, thought) == ("length", 3)


def test_the_raw_text_has_its_tags(tokenizer):
  _, parts, thought = grown(tokenizer, "<think>3</think>7", raw=True)
  assert parts["reasoning"] + parts["content"] == "<think>3</think>7"
  assert thought == 1
  _, parts, _ = grown(tokenizer, "<no_think>7</no_think>8", raw=True)
  assert parts["content"] == "<no_think>7</no_think>8"


def test_stop_strings_end_the_answer_and_are_not_looked_for_in_thoughts(tokenizer):
  reply, parts, _ = grown(tokenizer, "<think>1+2=3</think>7*1+25", stops=["+2"])
  assert parts == {"reasoning": "1+2=3", "content": "7*1"}
  assert reply.finish_reason == "stop"


@pytest.mark.parametrize(
  ("stops", "texts", "told", "found"),
  [
    (["ab"], ["xa", "by"], "x", True),
    (["ab"], ["xa", "cy"], "xacy", False),
    (["aab"], ["aa", "ab"], "a", True),
    (["abc"], ["xab", "c"], "x", True),
    (["b", "ab"], ["ab"], "", True),
    (["abc"], ["ab"], "ab", False),
  ],
)
def test_a_stop_string_is_found_across_pieces_and_never_shown(stops, texts, told, found):
  finder, shown = StopFinder(stops), ""
  for text in texts:
    more, stopped = finder.push(text)
    shown += more
  assert (shown + finder.flush(), stopped) == (told, found)


def test_characters_of_several_tokens_come_whole():
  data = "né🙂.".encode()
  stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"))
  pieces = [stream.push(byte) for byte in data]
  assert pieces == ["n", "", "é", "", "", "", "🙂", "."]
  assert TextStream(lambda ids: bytes(ids).decode(errors="replace")).push(0xC3) == ""


def test_bytes_that_are_no_character_are_told_in_the_end():
  stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"))
  told = "".join(stream.push(0xC3) for _ in range(40))
  assert 16 <= len(told + stream.flush()) <= 40 and set(told) == {"\ufffd"}
