"""Rows that are too long: counted, and left out, cut or refused as the config says."""

import dataclasses

import pytest

from lhrm_jax import text
from lhrm_jax.data import limits
from lhrm_jax.data.batches import prompt_ids
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import CharacterTokenizer, tags
from tests.text.test_pretrained import GOLDEN

TOKENIZER = CharacterTokenizer("0123456789")


class Numbers:
  """Prompts and responses of one to nine digits, all nine lengths in any nine rows."""

  def prompts(self, seed, step, count):
    return [PromptRow(_digits(step, i), str(i)) for i in range(count)]

  def evaluation(self, count):
    return self.prompts(0, 0, count)

  def demonstrations(self, seed, step, think, no_think):
    return (
      [HFTRow("1", f"<think>{_digits(step, i)}</think>1", tags.THINK) for i in range(think)],
      [HFTRow("1", f"<no_think>{_digits(step, i)}</no_think>", 1) for i in range(no_think)],
    )


def _digits(step, i):
  return str(step % 10) * ((i + step) % 9 + 1)


def draw(step, policy, most=4):
  drawn = limits.draw_prompts(
    Numbers(), TOKENIZER, 0, step, 9, max_tokens=most, long_prompts=policy
  )
  tokens, lengths, ids = drawn.encoded
  for row, of_row, length in zip(drawn.rows, tokens.tolist(), lengths, strict=True):
    assert of_row[:length] == prompt_ids(TOKENIZER, row), "what is encoded is the row drawn"
  assert ids.tolist() == list(range(9 * step, 9 * step + 9))
  return drawn.rows, drawn.long


def test_a_long_prompt_gives_way_to_one_that_fits_and_the_others_keep_their_places():
  for step in (0, 3):
    own = Numbers().prompts(0, step, 9)
    rows, long = draw(step, "skip")
    assert long == 5 and len(rows) == 9
    assert all(len(row.prompt) <= 4 for row in rows)
    assert [r for r, o in zip(rows, own, strict=True) if len(o.prompt) <= 4] == [
      o for o in own if len(o.prompt) <= 4
    ]
    assert draw(step, "skip") == (rows, long), "a function of the step"


def test_a_long_prompt_is_cut_at_its_beginning_and_stays_itself_otherwise():
  rows, long = draw(0, "truncate_left")
  own = Numbers().prompts(0, 0, 9)
  assert long == 5
  assert [row.prompt for row in rows] == [row.prompt[-4:] for row in own]
  assert [row.answer for row in rows] == [row.answer for row in own]


def test_cutting_leaves_the_chat_template_whole():
  tokenizer = text.load_tokenizer(GOLDEN / "qwen3_tied")
  row = PromptRow("word " * 50 + "the end", "")
  bare = len(tokenizer.encode_prompt(""))
  cut = limits.truncate_left(tokenizer, row, bare + 20)
  assert row.prompt.endswith(cut.prompt) and cut.prompt.endswith("the end")
  length = len(tokenizer.encode_prompt(cut.prompt))
  assert bare + 15 < length <= bare + 20
  with pytest.raises(ValueError, match="template alone takes"):
    limits.truncate_left(tokenizer, row, bare - 1)


def test_of_a_conversation_the_oldest_turns_go_first_and_the_system_prompt_stays():
  tokenizer = text.load_tokenizer(GOLDEN / "qwen3_tied")
  turns = [("user", "one " * 30), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
  row = PromptRow("and the end", "", earlier=(("system", "Be brief."), *turns))

  def tokens(row):
    return len(prompt_ids(tokenizer, row))

  def cut(most):
    return limits.truncate_left(tokenizer, row, most)

  assert cut(tokens(row)) == row
  later = dataclasses.replace(row, earlier=(row.earlier[0], *turns[2:]))
  assert cut(tokens(row) - 20) == later
  alone = dataclasses.replace(row, earlier=row.earlier[:1])
  assert cut(tokens(alone)) == alone
  shorter = cut(tokens(alone) - 1)
  assert shorter.earlier == alone.earlier and shorter.prompt == "d the end"
  with pytest.raises(ValueError, match=r"template alone takes .* system prompt included"):
    cut(5)


def test_under_raise_the_prompt_that_is_too_long_is_named():
  with pytest.raises(ValueError, match=r"A prompt has 5 tokens.*'00000'.*data\.long_prompts"):
    draw(0, "raise")


def test_evaluation_leaves_long_prompts_out_or_cuts_them():
  def evaluation(policy):
    rows, long = limits.evaluation_prompts(
      Numbers(), TOKENIZER, 9, max_tokens=4, long_prompts=policy
    )
    return [row.prompt for row in rows], long

  every = [row.prompt for row in Numbers().evaluation(9)]
  assert evaluation("skip") == (every[:4], 5)
  assert evaluation("truncate_left") == ([prompt[-4:] for prompt in every], 5)
  assert evaluation("raise") == (every, 0)


def test_limits_that_nothing_meets_and_policies_that_do_not_exist_are_errors():
  with pytest.raises(ValueError, match=r"Hardly any prompt has at most data\.max_prompt_tokens=0"):
    draw(0, "skip", most=0)
  with pytest.raises(
    ValueError, match=r"data\.long_prompts='cut' is not one of raise, skip, trunc"
  ):
    draw(0, "cut")
  with pytest.raises(ValueError, match="Hardly any demonstration has at most 3"):
    demonstrations(0, "skip", (3, 3))


def demonstrations(step, policy, most):
  return limits.draw_demonstrations(
    Numbers(), TOKENIZER, 0, step, (9, 5), max_tokens=most, long_demonstrations=policy
  )


def test_long_demonstrations_are_replaced_whole_by_others_of_their_mode():
  drawn = demonstrations(0, "skip", (9, 7))
  # 9 tokens hold prompt, tags, answer, end and 4 digits; 7 hold 3 digits of a direct response.
  assert drawn.long == 5 + 2
  assert (len(drawn.think), len(drawn.no_think)) == (9, 5)
  for mode, sequences in enumerate((drawn.think, drawn.no_think)):
    for sequence in sequences:
      assert len(sequence.ids) <= (9, 7)[mode]
      assert sequence.ids[1] == TOKENIZER.tag_ids.opening[mode]
      assert sequence.ids[-1] == TOKENIZER.eos_ids[0]
  assert demonstrations(0, "skip", (9, 7)) == drawn
  with pytest.raises(ValueError, match=r"has 10 tokens, more than the 9 that fit.*data\.long_demo"):
    demonstrations(0, "raise", (9, 20))


@pytest.mark.parametrize(
  "response, problem",
  [
    ("<think>1</think>1</think>", "holds further tags inside"),
    ("<no_think>1</no_think>", "opens <no_think> among those of mode think"),
    ("<think>1", "lacks </think>"),
  ],
)
def test_malformed_demonstrations_of_any_task_are_refused(tokenizer, response, problem):
  class Odd:
    def demonstrations(self, seed, step, think, no_think):
      return [HFTRow("1", response, tags.THINK)] * think, []

  with pytest.raises(ValueError, match=f"demonstration {problem}"):
    limits.draw_demonstrations(Odd(), tokenizer, 0, 0, (1, 0), max_tokens=(30, 30))
