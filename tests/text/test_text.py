"""Tags, parsing, and the character tokenizer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lhrm_jax.text import (
  CharacterTokenizer,
  form,
  load_tokenizer,
  parse_response,
  printable,
  tags,
)


@pytest.mark.parametrize(
  "response, mode, reasoning, answer",
  [
    ("<think>3+4=7</think>7", tags.THINK, "3+4=7", "7"),
    ("<think>a</think>b</think>c", tags.THINK, "a</think>b", None),
    ("<think>a</think><think>b</think>c", tags.THINK, "a</think><think>b", None),
    ("<think>a</think>b<no_think>", tags.THINK, "a", None),
    ("<think><no_think>a</think>b", tags.THINK, "<no_think>a", None),
    ("<think>a</think>", tags.THINK, "a", ""),
    ("<think>never closed", tags.THINK, "never closed", None),
    ("<think></think>", tags.THINK, "", ""),
    ("<no_think>7</no_think>", tags.NO_THINK, "", "7"),
    ("<no_think>7</no_think> \n", tags.NO_THINK, "", "7"),
    ("<no_think>7</no_think> and 8", tags.NO_THINK, "", None),
    ("<no_think>7</no_think></no_think>", tags.NO_THINK, "", None),
    ("<no_think><think>6*7</think>42</no_think>", tags.NO_THINK, "", None),
    ("<no_think><think>7</no_think>", tags.NO_THINK, "", None),
    ("<no_think>7</no_think><think>8</think>", tags.NO_THINK, "", None),
    ("", tags.INVALID_MODE, "", None),
    (" <think>3</think>7", tags.INVALID_MODE, "", None),
    ("</think>7", tags.INVALID_MODE, "", None),
    ("<no_think>7", tags.NO_THINK, "", None),
    ("<no_think>7</think>", tags.NO_THINK, "", None),
    ("7", tags.INVALID_MODE, "", None),
    ("so <think>3</think>7", tags.INVALID_MODE, "", None),
  ],
)
def test_responses_are_taken_apart(response, mode, reasoning, answer):
  parsed = parse_response(response)
  assert (parsed.mode, parsed.reasoning, parsed.answer) == (mode, reasoning, answer)
  assert parsed.well_formed == (answer is not None)


@pytest.mark.parametrize(
  "response, problem",
  [
    ("7", "opens with no tag"),
    ("<think>7", "lacks </think>"),
    ("<no_think>7</think>", "lacks </no_think>"),
    ("<think>a</think>7</think>", "holds further tags inside"),
    ("<no_think>7</no_think>8", "continues after </no_think>"),
  ],
)
def test_a_malformed_response_says_why(response, problem):
  assert parse_response(response).problem == problem


def test_the_first_token_decides_the_mode_and_not_the_text():
  """A character tokenizer can spell `<think>` without the tag's own token."""
  tokenizer = CharacterTokenizer("<>/_thinko7 ")
  spelled = tokenizer.encode_prompt("<think>") + tokenizer.encode_response("7</think>7")
  true = tokenizer.encode_response("<think>7</think>7")
  nested = tokenizer.encode_response("<no_think>7") + tokenizer.encode_prompt("<think>")
  texts = [tokenizer.decode(ids) for ids in (spelled, true, nested)]
  assert texts[0] == texts[1] and parse_response(texts[0]).well_formed
  first = np.array([ids[0] for ids in (spelled, true, nested)])
  assert form.well_formed(texts, first, tokenizer.tag_ids).tolist() == [False, True, False]
  assert form.well_formed(texts, first).tolist() == [True, True, False]


def test_rates_of_form_by_hand():
  texts = [
    "<think> </think>7", "<think>a</think>7", "<think>", "<think>a</think>7</think>",
    "<no_think>Wait, 7</no_think>", "<no_think>waiter: stepping</no_think>",
    "<no_think>7</no_think>8", "7 therefore",
  ]  # fmt: skip
  modes = np.array([0, 0, 0, 0, 1, 1, 1, -1])
  good = np.array([parse_response(text).well_formed for text in texts])
  assert form.form_rates(modes, good, texts) == {
    "think/malformed_rate": 0.5, "think/empty_rate": 0.25,
    "no_think/malformed_rate": 1 / 3, "no_think/leak_rate": 1 / 3,
  }  # fmt: skip
  assert form.form_rates(modes[-1:], good[-1:], texts[-1:]) == {}


def test_tags_are_single_tokens(tokenizer):
  ids = tokenizer.encode_response("<think>7</think>7")
  assert len(ids) == 5 + 0 and ids[-1] == tokenizer.eos_ids[0]
  assert [tokenizer.tag_ids.mode_of(i) for i in ids] == [0, -1, -1, -1, -1]
  assert tokenizer.tag_ids.closing[0] == ids[2]


def test_a_prompt_cannot_smuggle_a_tag():
  tokenizer = CharacterTokenizer("<>/_thinko ")
  ids = tokenizer.encode_prompt("<think>")
  assert len(ids) == len("<think>")
  assert not set(ids) & {*tokenizer.tag_ids.opening, *tokenizer.tag_ids.closing}


def test_words_are_single_tokens_and_the_longest_wins():
  tokenizer = CharacterTokenizer("abc", words=("ab", "abc"))
  assert [len(tokenizer.encode_prompt(t)) for t in ("abc", "ab", "aabc")] == [1, 1, 2]


@given(st.text(alphabet="0123456789+*= ", max_size=40))
def test_text_survives(text):
  tokenizer = CharacterTokenizer("0123456789+*= ", words=("+1", "=="))
  assert tokenizer.decode(tokenizer.encode_response(text)) == text
  assert tokenizer.decode(tokenizer.encode_prompt(text)) == text


def test_unknown_characters_are_named(tokenizer):
  with pytest.raises(ValueError, match=r"\['ö', '€'\]"):
    tokenizer.encode_prompt("1€ö")


def test_double_characters_are_refused():
  with pytest.raises(ValueError, match="'a'"):
    CharacterTokenizer("aba")


def test_saving_and_loading(tmp_path, tokenizer):
  tokenizer.save(tmp_path)
  again = load_tokenizer(tmp_path)
  text = "Left to right, last digit: what is 3+4?"
  assert again.encode_prompt(text) == tokenizer.encode_prompt(text)
  with pytest.raises(FileNotFoundError, match="no tokenizer"):
    load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("plain é 中 🙂 a\\b", "plain é 中 🙂 a\\b"),
    ("\x1b]52;c;YQ==\x07", "\\x1b]52;c;YQ==\\x07"),
    ("a\nb\tc\r\x00\x7f\x9b2J", "a\\nb\\tc\\r\\x00\\x7f\\x9b2J"),
    ("\u202eevil\u2066\u200f\u2028", "\\u202eevil\\u2066\\u200f\\u2028"),
    ("half \ud83d, tag \U000e0041", "half \\ud83d, tag \\U000e0041"),
    ("a\u200db", "a\u200db"),  # the joiner of emoji
  ],
)
def test_text_for_a_terminal_holds_nothing_that_steers_it(text, shown):
  assert printable(text) == shown
  printable(text).encode()


def test_text_for_a_terminal_is_cut_and_may_keep_its_lines():
  assert printable("\x1babcdef", 3) == "\\x1bab..."
  assert printable("abc", 3) == "abc"
  assert printable("a\n\x1bb", keep="\n") == "a\n\\x1bb"
