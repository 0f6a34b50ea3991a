"""Chat templates: the default, the opened mode, and the template that offers both modes."""

import pytest

from lhrm_jax.text import chat

USER = [{"role": "user", "content": "1+1?"}]
TURN = [*USER, {"role": "assistant", "content": "<think>x</think>2"}]
SPECIAL = {"eos_token": "<eos>"}
PLAIN = (
  "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}"
  "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# As templates of reasoning models do: always opened, or closed when switched off.
OPENS = PLAIN.replace("[assistant]", "[assistant]<think>\n")
SWITCHES = PLAIN.replace(
  "[assistant]",
  "[assistant]{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
  "{% endif %}",
)
ALL = {"plain": PLAIN, "opens": OPENS, "switches": SWITCHES, "chatml": chat.CHATML_TEMPLATE,
       "words": chat.PLAIN_TEMPLATE, "newline at the end": PLAIN + "{{ '' }}\n"}  # fmt: skip


def rendered(template, messages=USER, generate=True, **variables) -> str:
  return chat.render(template, messages, SPECIAL, add_generation_prompt=generate, **variables)


def test_a_base_model_gets_plain_words_or_chatml_where_its_tokens_exist():
  assert chat.default_template({"<|im_start|>": 0, "<|im_end|>": 1}) == chat.CHATML_TEMPLATE
  assert chat.default_template({"a": 0}) == chat.PLAIN_TEMPLATE
  assert rendered(chat.PLAIN_TEMPLATE) == "User: 1+1?\n\nAssistant: "
  whole = rendered(chat.PLAIN_TEMPLATE, TURN, generate=False)
  assert whole == "User: 1+1?\n\nAssistant: <think>x</think>2<eos>\n\n"
  assert rendered(chat.CHATML_TEMPLATE) == (
    "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
  )


@pytest.mark.parametrize("ending", ["", "<think>", "<think>\n", "<think>\n\n</think>\n\n"])
def test_a_mode_that_the_template_opened_is_taken_out_of_the_prompt(ending):
  assert chat.without_opened_mode("[assistant]" + ending) == "[assistant]"
  assert chat.without_opened_mode("a <think> b" + ending) == "a <think> b"


@pytest.mark.parametrize("name", ALL)
def test_the_hybrid_template_offers_both_modes_and_the_free_choice(name):
  hybrid = chat.hybrid_template(ALL[name])
  free = chat.without_opened_mode(rendered(ALL[name]))
  assert rendered(hybrid) == free
  assert rendered(hybrid, enable_thinking=None) == free
  assert rendered(hybrid, enable_thinking=True) == free + "<think>"
  assert rendered(hybrid, enable_thinking=False) == free + "<no_think>"


@pytest.mark.parametrize("name", ALL)
def test_the_hybrid_template_leaves_past_turns_as_they_were(name):
  hybrid = chat.hybrid_template(ALL[name])
  assert rendered(hybrid, TURN, generate=False) == rendered(ALL[name], TURN, generate=False)


def test_making_a_template_hybrid_twice_changes_nothing():
  hybrid = chat.hybrid_template(OPENS)
  assert chat.hybrid_template(hybrid) == hybrid


def test_prompts_do_not_change_with_the_day():
  template = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
  assert rendered(template) == "26 Jul 2024"


def test_a_template_that_refuses_a_conversation_says_why():
  template = "{{ raise_exception('no system message, please') }}"
  with pytest.raises(ValueError, match=r"\['user'\]: no system message, please"):
    rendered(template)
