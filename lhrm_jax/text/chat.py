"""Chat templates: rendering them, the default one, and the one that offers both modes."""

import re
from collections.abc import Mapping, Sequence

from lhrm_jax.text import tags

Message = Mapping[str, str]

# For a base model whose files hold no template: plain words that need no token of their own.
PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{{- message['role'] | capitalize + ': ' + message['content'] | trim -}}
{{- eos_token if message['role'] == 'assistant' else '' }}

{% endfor -%}
{{- 'Assistant: ' if add_generation_prompt -}}
"""
# For one whose vocabulary has ChatML's two tokens, as the base models of Qwen do.
CHATML_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt -}}
"""
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

# Some templates open the reasoning themselves, or close it to switch it off. Here the opening tag
# is the first token of the response, so it must not stand in the prompt.
_OPENED = re.compile(r"<think>\s*(</think>\s*)?\Z")

# Llama's templates print the day unless they are given one; a prompt must not change overnight.
_VARIABLES = {"date_string": "26 Jul 2024"}

_HYBRID_MARK = "{#- lhrm: both modes -#}"


def default_template(vocabulary: Mapping[str, int]) -> str:
  """The template of a model that has none: ChatML where its tokens exist, plain words otherwise."""
  return CHATML_TEMPLATE if all(t in vocabulary for t in CHATML_TOKENS) else PLAIN_TEMPLATE


def render(
  template: str,
  messages: Sequence[Message],
  special_tokens: Mapping[str, str],
  *,
  add_generation_prompt: bool,
  **variables,
) -> str:
  """Text of a conversation by transformers' own renderer.

  Args:
    template: Jinja source.
    messages: each with `role` and `content`.
    special_tokens: what the template may print by name, e.g. `{"eos_token": "</s>"}`.
    add_generation_prompt: end with what opens the assistant's next turn.
    variables: further ones for the template, e.g. `enable_thinking`.

  Raises:
    ValueError: the template refuses the conversation; it says why.
  """
  import jinja2
  from transformers.utils.chat_template_utils import render_jinja_template

  try:
    texts, _ = render_jinja_template(
      [[dict(message) for message in messages]],
      chat_template=template,
      add_generation_prompt=add_generation_prompt,
      **special_tokens,
      **_VARIABLES,
      **variables,
    )
  except jinja2.exceptions.TemplateError as error:
    roles = [message["role"] for message in messages]
    raise ValueError(
      f"The chat template refuses a conversation of {roles}: {error}. Give the tokenizer another "
      "template (`chat_template=`) or drop the messages it does not take."
    ) from error
  return texts[0]


def without_opened_mode(prompt: str) -> str:
  """A rendered prompt without a reasoning block that the template opened, or opened and closed."""
  return _OPENED.sub("", prompt)


def hybrid_template(template: str) -> str:
  """A template that adds the choice of mode to a model's own.

  `enable_thinking=True` ends the prompt with `<think>`, `False` with `<no_think>`, and without it
  the model chooses. Whatever the model's own template opened there is taken out.
  """
  if template.startswith(_HYBRID_MARK):
    return template
  think, no_think = tags.OPENING_TAGS
  # A template of several lines loses one newline at its end when rendered alone, but not within.
  inner = template.removesuffix("\n")
  return (
    f"{_HYBRID_MARK}{{% set lhrm_prompt %}}{inner}{{% endset %}}"
    "{% if add_generation_prompt %}"
    "{% if lhrm_prompt.rstrip().endswith('</think>') %}"
    "{% set lhrm_prompt = lhrm_prompt.rstrip()[:-8] %}{% endif %}"
    "{% if lhrm_prompt.rstrip().endswith('<think>') %}"
    "{% set lhrm_prompt = lhrm_prompt.rstrip()[:-7] %}{% endif %}"
    "{{ lhrm_prompt }}"
    "{% if enable_thinking is defined and enable_thinking is not none %}"
    f"{{{{ '{think}' if enable_thinking else '{no_think}' }}}}{{% endif %}}"
    "{% else %}{{ lhrm_prompt }}{% endif %}"
  )
