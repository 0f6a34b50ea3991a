"""Conversations in every form that data sets keep them: read as one, or refused."""

import dataclasses
import pathlib

import pytest

from lhrm_jax.data.batches import encode, encode_prompts, prompt_ids
from lhrm_jax.data.messages import THOUGHTS
from lhrm_jax.data.rows import BadRow, hft_row, prompt_row
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import CharacterTokenizer, PretrainedTokenizer, tags

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "qwen3_tied"
ASK = {"role": "user", "content": "2+3?"}
BRIEF = {"role": "system", "content": "Be brief."}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
CONTEXT = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))
PARTS = [{"type": "text", "text": "2+"}, {"type": "text", "text": "3?", "image_url": None}]
DIRECT = "<no_think>5</no_think>"
THOUGHT = "<think>two and three</think>5"


def by_column(messages):
  """As tensorflow_datasets and older `datasets` give a sequence of structures."""
  return {name: [message[name] for message in messages] for name in ("role", "content")}


@pytest.mark.parametrize(
  ("fields", "prompt", "earlier"),
  [
    ({"prompt": "2+3?"}, "2+3?", ()),
    ({"prompt": [ASK]}, "2+3?", ()),
    ({"prompt": [BRIEF, *TURNS, ASK]}, "2+3?", CONTEXT),
    ({"prompt": by_column([BRIEF, *TURNS, ASK])}, "2+3?", CONTEXT),
    ({"messages": [BRIEF, ASK]}, "2+3?", CONTEXT[:1]),
    ({"messages": [BRIEF, ASK, {"role": "assistant", "content": "5"}]}, "2+3?", CONTEXT[:1]),
    (
      {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"},
                         {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "2+3?"}]},
      "2+3?", CONTEXT,
    ),
    ({"prompt": "2+3?", "system": "Be brief."}, "2+3?", CONTEXT[:1]),
    ({"prompt": [BRIEF, ASK], "system": "Be brief. "}, "2+3?", CONTEXT[:1]),
    ({"prompt": [{"role": "user", "content": PARTS}]}, "2+\n3?", ()),
    ({"prompt": [{"role": "user", "content": ["2+3?"]}], "images": [], "tools": None}, "2+3?", ()),
  ],
)  # fmt: skip
def test_queries(fields, prompt, earlier):
  assert prompt_row({**fields, "answer": 5}) == PromptRow(prompt, "5", earlier=earlier)


def test_a_row_of_verl():
  fields = {
    "data_source": "openai/gsm8k",
    "prompt": [ASK],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"split": "train", "index": 0, "answer": "2+3=5", "question": "2+3?"},
  }
  assert prompt_row(fields) == PromptRow("2+3?", "5", source="openai/gsm8k")
  assert prompt_row({**fields, "answer": "five", "source": "mine"}).answer == "five"


def demonstration(mode=None, ask=(ASK,), **message):
  """Fields of a demonstration whose last message has these fields."""
  return {"messages": [*ask, {"role": "assistant", **message}], "mode": mode}


@pytest.mark.parametrize(
  ("fields", "response", "earlier"),
  [
    (demonstration("no_think", content="5"), DIRECT, ()),
    (demonstration(content=THOUGHT, ask=[BRIEF, *TURNS, ASK]), THOUGHT, CONTEXT),
    ({"prompt": "2+3?", "completion": THOUGHT}, THOUGHT, ()),
    (
      {"prompt": [BRIEF, ASK], "completion": [{"role": "assistant", "content": THOUGHT}]},
      THOUGHT, CONTEXT[:1],
    ),
    ({"prompt": "2+3?", "response": "5", "mode": "no_think", "system": "Be brief."}, DIRECT,
     CONTEXT[:1]),
    (
      {"conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": THOUGHT}]},
      THOUGHT, (),
    ),
  ],
)  # fmt: skip
def test_demonstrations_in_every_form(fields, response, earlier):
  row = hft_row(fields)
  assert (row.prompt, row.response, row.earlier) == ("2+3?", response, earlier)


@pytest.mark.parametrize("name", THOUGHTS)
def test_a_thought_of_its_own_is_put_between_its_tags(name):
  thought = "two and three"
  for mode in (None, "think"):
    row = hft_row(demonstration(mode, content="5", **{name: f"\n{thought}\n"}))
    assert (row.response, row.mode) == (THOUGHT, tags.THINK)
    apart = {"prompt": "2+3?", "response": "5", "mode": mode, name: thought}
    assert hft_row(apart).response == THOUGHT
  parts = [{"type": name, name: thought}, {"type": "text", "text": "5"}]
  assert hft_row(demonstration(content=parts)).response == THOUGHT
  assert (
    hft_row(demonstration(content="5", reasoning=thought, thinking=thought)).response == THOUGHT
  )
  assert hft_row(demonstration("no_think", content="5", **{name: " "})).response == DIRECT
  with pytest.raises(BadRow, match=r"mode='no_think', but the row holds a thought in a field"):
    hft_row(demonstration("no_think", content="5", **{name: thought}))
  with pytest.raises(BadRow, match=r"mode='no_think', but the row holds a thought in a field"):
    hft_row({"prompt": "2+3?", "response": "5", "mode": "no_think", name: thought})
  with pytest.raises(BadRow, match="a field of its own, and tags in the response"):
    hft_row(demonstration(content=THOUGHT, **{name: thought}))
  with pytest.raises(BadRow, match=rf"'{name}' is bool, not a thought"):
    hft_row(demonstration("no_think", content="5", **{name: False}))


def test_thoughts_of_earlier_turns_are_left_out_as_templates_leave_them_out():
  turns = [TURNS[0], {**TURNS[1], "reasoning_content": "they greet"}]
  assert hft_row(demonstration(content=THOUGHT, ask=[*turns, ASK])).earlier == CONTEXT[1:]


@pytest.mark.parametrize("empty", ["", "\n\n", " \t\u00a0\u200b"])
def test_an_empty_thought_is_none(empty):
  content = f"<think>{empty}</think>\n\n5"
  for mode in (None, "no_think"):
    row = hft_row(demonstration(mode, content=content))
    assert (row.response, row.mode) == (DIRECT, tags.NO_THINK)
  with pytest.raises(BadRow, match="mode='think', but the thought is empty"):
    hft_row(demonstration("think", content=content))


@pytest.mark.parametrize(
  ("fields", "reason"),
  [
    (demonstration("no_think", content="<thinking>hm</thinking>5"), "opens a thought with <think"),
    (demonstration("no_think", content="<|begin_of_thought|>hm"), "opens a thought with"),
    (demonstration("no_think", content="hm</think>5"), "further tags inside"),
    (demonstration(content="<think>hm</think> "), "holds no answer"),
    (demonstration(content="<no_think> </no_think>"), "holds no answer"),
    (demonstration(content="<think></think>"), "holds no answer"),
    (demonstration(content="5", thinking="a", reasoning="b"), "in two places, with different"),
    (demonstration("no_think", content=None, tool_calls=[{"id": 1}]), "'tool_calls' is not empty"),
    (demonstration("no_think", content=None), "holds no text"),
    (demonstration("no_think", content="5") | {"tools": [{"name": "f"}]}, "'tools' is not empty"),
    (demonstration("no_think", content="5") | {"images": [b"PNG"]}, "'images' is not empty"),
    (demonstration("no_think", content=[{"type": "image_url", "image_url": {}}]), "'image_url'"),
    (demonstration("no_think", content=[3]), "holds the part 3, not text"),
    (demonstration("no_think", content="5", ask=[]), "must end with user, assistant"),
    ({"prompt": [ASK], "completion": [ASK]}, "'completion' is a list of other messages"),
    ({"prompt": TURNS, "response": THOUGHT}, "'prompt' must end with the user's message"),
    ({"prompt": [], "response": THOUGHT}, "'prompt' is not a list of"),
    ({"prompt": [{"from": "alien", "value": "x"}], "response": "5"}, "is from 'alien', none of"),
    ({"prompt": [{"role": 3, "content": "x"}], "response": "5"}, "the role 3, not a name"),
    ({"prompt": '[{"role": "user"}]', "response": "5"}, "'prompt' is messages written as text"),
    ({"prompt": ["x"], "response": "5"}, "'prompt' is not a list of"),
    ({"prompt": [BRIEF, ASK], "system": "Be kind.", "response": "5"}, "another system prompt"),
    ({"prompt": "x", "system": 3, "response": "5"}, "'system' is int, not text"),
    ({"prompt": [{"role": "user", "content": "\ud800"}], "response": "5"}, "half of a character"),
  ],
)
def test_what_would_be_taught_as_something_else_is_refused(fields, reason):
  with pytest.raises(BadRow, match=reason):
    hft_row(fields)
  if "prompt" in fields and "holds" not in reason and "completion" not in fields:
    with pytest.raises(BadRow, match=reason):
      prompt_row({**fields, "answer": "5"})


def test_a_conversation_is_encoded_as_its_messages_are_rendered():
  tokenizer = PretrainedTokenizer.load(GOLDEN)
  messages = [BRIEF, *TURNS, ASK]
  expected = tokenizer.encode_messages(messages)
  query = prompt_row({"prompt": messages, "answer": "5"})
  shown = hft_row(demonstration("no_think", content="5", ask=messages))
  assert prompt_ids(tokenizer, query) == prompt_ids(tokenizer, shown) == expected
  tokens, lengths, _ = encode_prompts(tokenizer, [query], 0, len(expected))
  assert tokens[0].tolist() == expected and lengths == [len(expected)]
  assert list(encode(tokenizer, shown).ids[: len(expected)]) == expected
  bare = dataclasses.replace(query, earlier=())
  assert prompt_ids(tokenizer, bare) == tokenizer.encode_prompt("2+3?")


def test_a_tokenizer_of_characters_takes_no_conversations():
  for row in (PromptRow("1", "1", earlier=CONTEXT), HFTRow("1", DIRECT, 1, earlier=CONTEXT)):
    with pytest.raises(ValueError, match="earlier messages, which CharacterTokenizer cannot"):
      prompt_ids(CharacterTokenizer("1"), row)
