"""Chat templates: rendering, a default for models without one, and the choice of mode."""

import functools
import re
from collections.abc import Mapping, Sequence

from lhrm_jax.text import rendering, tags
from lhrm_jax.text.characters import printable

Message = Mapping[str, str]

# For a base model whose files hold no template: plain words that need no token of their own.
PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{{- message['role'] | capitalize + ': ' + message['content'] | trim -}}
{{- eos_token if message['role'] == 'assistant' else '' }}

{% endfor -%}
{{- 'Assistant: ' if add_generation_prompt -}}
"""
# For a base model whose vocabulary has ChatML's two tokens, as Qwen's do.
CHATML_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt -}}
"""
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

_MARK = "{#- lhrm: both modes, one day -#}"
# A prompt must not change from day to day, nor between training and serving: every template sees
# this date as today's.
_DAY = {"%d": "26", "%-d": "26", "%e": "26", "%a": "Fri", "%A": "Friday", "%b": "Jul", "%B": "July",
        "%h": "Jul", "%m": "07", "%-m": "7", "%y": "24", "%Y": "2024", "%j": "208", "%H": "00",
        "%-H": "0", "%I": "12", "%-I": "12", "%M": "00", "%-M": "0", "%S": "00", "%-S": "0",
        "%p": "AM", "%f": "000000", "%F": "2024-07-26", "%T": "00:00:00", "%D": "07/26/24",
        "%R": "00:00", "%x": "07/26/24", "%X": "00:00:00", "%c": "Fri Jul 26 00:00:00 2024",
        "%u": "5", "%w": "5", "%U": "29", "%W": "30", "%V": "30", "%G": "2024", "%s": "1721952000",
        "%Z": "UTC", "%z": "+0000", "%n": "\\n", "%t": "\\t"}  # fmt: skip
_FIXED_DATES = (
  "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}\n"
  "{% macro strftime_now(format) %}"
  "{{ format.split('%%') | map('replace', '%-', '%~')"
  + "".join(f" | map('replace', '{k.replace('%-', '%~')}', '{v}')" for k, v in _DAY.items())
  + " | join('%') }}{% endmacro %}\n"
)
_DATES = re.compile(r"\b(date_string|strftime_now)\b")
_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


def default_template(vocabulary: Mapping[str, int], bos_first: bool = False) -> str:
  """The template for a model without one: ChatML where its tokens exist, plain words otherwise.

  Args:
    vocabulary: token to id.
    bos_first: the model's tokenizer puts `bos_token` before every text, as its pretraining did.
  """
  known = all(token in vocabulary for token in CHATML_TOKENS)
  return ("{{- bos_token -}}" if bos_first else "") + (CHATML_TEMPLATE if known else PLAIN_TEMPLATE)


def render(
  template: str,
  messages: Sequence[Message],
  special_tokens: Mapping[str, str],
  *,
  add_generation_prompt: bool,
  **variables,
) -> str:
  """Renders a conversation with transformers' own renderer.

  Args:
    template: Jinja source.
    messages: each with `role` and `content`.
    special_tokens: tokens the template may print by name, e.g. `{"eos_token": "</s>"}`.
    add_generation_prompt: end with what opens the assistant's next turn.
    variables: further ones for the template, e.g. `enable_thinking`.

  Raises:
    ValueError: the template refuses the conversation, or is stopped (`rendering`); it says why.
  """
  variables |= {**special_tokens, "add_generation_prompt": add_generation_prompt}
  try:
    return rendering.render(template, {**variables, "messages": list(map(dict, messages))})
  except rendering.RenderError as error:
    roles = [message["role"] for message in messages]
    raise ValueError(
      f"The chat template refuses a conversation of {roles}: {printable(str(error), 500)}. Give "
      "the tokenizer another template (`chat_template=`) or drop the messages it does not take."
    ) from error


@functools.lru_cache(maxsize=16)
def hybrid_template(template: str) -> str:
  """Adds the choice of mode to a model's own template, and fixes its date.

  `enable_thinking=True` ends the prompt with `<think>`, `False` with `<no_think>`, and without it
  the model chooses. The model's own template does not see the choice, as it did not in training:
  the opening tag is all that differs. A mode that it opens at the end of the prompt is removed.
  """
  if template.startswith(_MARK):
    return template
  think, no_think = tags.OPENING_TAGS
  # Jinja drops the newline at the end of a source, and only there.
  inner = re.sub(r"(\r\n|\r|\n)\Z", "", template)
  inner = re.sub(r"\benable_thinking\b", "lhrm_not_set", inner)
  dates = _FIXED_DATES if _DATES.search(inner) else ""
  chosen = "enable_thinking is defined and enable_thinking is not none"
  mode = f"{{{{ ('{think}' if enable_thinking else '{no_think}') if {chosen} else '' }}}}"
  if "think" not in inner:
    # The template opens no mode itself: append the tag.
    return f"{_MARK}{dates}{{% set lhrm_both = true %}}\n{inner}{{{{ '' }}}}" + (
      f"{{% if add_generation_prompt %}}{mode}{{% endif %}}"
    )
  # Inside a `set` block `{% generation %}` would count from the wrong place; only a finished
  # conversation needs its marks, and that branch has no `set` block.
  caught = _GENERATION.sub(lambda m: m[1] + ("endwith" if m[2] else "with") + m[3], inner)
  return (
    f"{_MARK}{dates}{{% if add_generation_prompt %}}"
    f"{{% set lhrm_prompt %}}\n{caught}{{{{ '' }}}}{{% endset %}}"
    "{% set lhrm_end = lhrm_prompt.rstrip() %}"
    "{% if lhrm_end.endswith('</think>') %}{% set lhrm_end = lhrm_end[:-8].rstrip() %}{% endif %}"
    "{% if lhrm_end.endswith('<think>') %}{% set lhrm_prompt = lhrm_end[:-7] %}{% endif %}"
    f"{{{{ lhrm_prompt }}}}{mode}"
    f"{{% else %}}\n{inner}{{{{ '' }}}}{{% endif %}}"
  )
