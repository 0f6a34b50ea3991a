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
  opens = chat.hybrid_template(PLAIN.replace("[assistant]", "[assistant]" + ending))
  assert rendered(opens) == "[user]1+1?<eos>\n[assistant]"
  said = [{"role": "user", "content": "a <think> b</think>"}]
  assert rendered(opens, said) == "[user]a <think> b</think><eos>\n[assistant]"


@pytest.mark.parametrize("name", ALL)
def test_the_hybrid_template_offers_both_modes_and_the_free_choice(name):
  hybrid = chat.hybrid_template(ALL[name])
  free = rendered(ALL[name]).removesuffix("<think>\n")
  assert rendered(hybrid) == free
  assert rendered(hybrid, enable_thinking=None) == free
  assert rendered(hybrid, enable_thinking=True) == free + "<think>"
  assert rendered(hybrid, enable_thinking=False) == free + "<no_think>"


def test_a_forced_mode_differs_from_the_free_prompt_in_the_opening_tag_alone():
  system = "{% if enable_thinking is defined and not enable_thinking %}/no_think\n{% endif %}"
  hybrid = chat.hybrid_template(system + PLAIN)
  assert rendered(hybrid, enable_thinking=False) == rendered(hybrid) + "<no_think>"


@pytest.mark.parametrize("name", ALL)
def test_the_hybrid_template_leaves_past_turns_as_they_were(name):
  hybrid = chat.hybrid_template(ALL[name])
  assert rendered(hybrid, TURN, generate=False) == rendered(ALL[name], TURN, generate=False)


def test_making_a_template_hybrid_twice_changes_nothing():
  hybrid = chat.hybrid_template(OPENS)
  assert chat.hybrid_template(hybrid) == hybrid


@pytest.mark.parametrize(
  ("template", "prompt"),
  [
    ("{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}", "26 Jul 2024"),
    ("{{ strftime_now('%Y-%m-%d %H:%M') }}", "2024-07-26 00:00"),
    ("{{ strftime_now('%A, %-d %B %Y, 100%%') }}", "Friday, 26 July 2024, 100%"),
    ("{% macro day() %}{{ strftime_now('%F') }}{% endmacro %}{{ day() }} <think>", "2024-07-26 "),
    ("{% set date_string = strftime_now('%y') %}{{ date_string }}", "24"),
  ],
)
def test_prompts_do_not_change_with_the_day(template, prompt):
  assert rendered(chat.hybrid_template(template)) == prompt


def test_a_template_that_an_older_export_wrote_takes_a_mode_and_a_day_too():
  old = (
    "{#- lhrm: both modes -#}{% set lhrm_prompt %}{{ strftime_now('%Y') }}{% endset %}"
    "{% if add_generation_prompt %}{{ lhrm_prompt }}"
    "{% if enable_thinking is defined and enable_thinking is not none %}"
    "{{ '<think>' if enable_thinking else '<no_think>' }}{% endif %}"
    "{% else %}{{ lhrm_prompt }}{% endif %}"
  )
  hybrid = chat.hybrid_template(old)
  assert rendered(hybrid) == "2024"
  assert rendered(hybrid, enable_thinking=False) == "2024<no_think>"


def test_a_server_may_still_give_a_date():
  hybrid = chat.hybrid_template("{{ date_string }}")
  assert rendered(hybrid, date_string="1 Jan 2030") == "1 Jan 2030"


LAYOUTS = {
  "a first line of spaces": "  {% if true %}\n  x\n  {% endif %}\ny",
  "a first empty line": "\n\n{{ 'x' }}\n",
  "spaces at the end": "{% if true %}\nx\n   ",
  "a block at the end": "{% for m in messages %}\n  {{ m.content }}\n  {% endfor %}\n\n",
  "trimmed": "{%- for m in messages -%}\n  {{- m.content }}\n{%- endfor -%}\n \n",
  "carriage returns": "{% if true %}\r\nx\r\n{% endif %}\r\n",
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("opens", ["", "{# think #}"])
def test_the_hybrid_template_keeps_every_blank_of_the_models_own(name, opens):
  template = LAYOUTS[name].replace("   ", "   {% endif %}   ") + opens
  for generate in (True, False):
    expected = rendered(template, generate=generate)
    assert rendered(chat.hybrid_template(template), generate=generate) == expected


def test_a_template_that_refuses_a_conversation_says_why():
  template = "{{ raise_exception('no system message, please') }}"
  with pytest.raises(ValueError, match=r"\['user'\]: no system message, please"):
    rendered(template)


@pytest.mark.parametrize(
  ("template", "message"),
  [
    ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "stopped"),
    ("{{ 7 ** (10 ** 9) }}", "stopped"),
    ("{{ 'a' * 10 ** 10 }}", "MemoryError"),
    ("{{ 'a' * 2 ** 25 }}", "printed 33554432 characters"),
    ("{{ 1 / 0 }}", "division by zero"),
    ("{% if %}", "line 1 is not Jinja"),
    ("{{ messages | random }}", "it uses random"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
  ],
)
def test_a_hostile_template_is_one_error_and_the_next_render_works(template, message):
  with pytest.raises(ValueError, match=message):
    rendered(template)
  assert rendered("{{ messages[0].content }}") == "1+1?"
