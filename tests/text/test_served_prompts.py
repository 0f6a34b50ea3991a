"""Training's prompts are a server's: ids of ten conversations under every template at hand."""

import itertools
import json
import pathlib

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from tokenizers import pre_tokenizers as pre
from tokenizers.trainers import BpeTrainer

from lhrm_jax.text import PretrainedTokenizer, chat, load_tokenizer

transformers = pytest.importorskip("transformers")

USER = {"role": "user", "content": "What is 2+3?"}
SYSTEM = {"role": "system", "content": "Be  brief.\n"}
CONVERSATIONS = [
  [USER],
  [SYSTEM, USER],
  [{"role": "user", "content": " \n naïve 日本 {{ 1 }} {% raw %} \n"}],
  [{"role": "user", "content": ""}],
  *(
    [USER, {"role": "assistant", "content": reply}, {"role": "user", "content": "+4?"}]
    for reply in (
      "5",
      "<think>2 and 3</think>5",
      "<no_think>5</no_think>",
      "<think>\n\n</think>\n\n5",
      " <think> a </think> b <think> unclosed",
    )
  ),
  [SYSTEM, *[USER, {"role": "assistant", "content": "<think>x</think>5"}] * 3, USER],
]
TURN = "{{ '<|im_start|>' + m['role'] + '\n' + text + '<|im_end|>\n' }}"
OPENED = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
LOOP = "{% for m in messages %}{% set text = m['content'] %}"
CUT = LOOP + (
  "{% if m.role == 'assistant' and not loop.last %}{% set text = text.split('</think>')[-1] %}"
  "{% endif %}"
)
TEMPLATES = {
  "default": None,
  "chatml": LOOP + TURN + "{% endfor %}" + OPENED + "{% endif %}",
  "thoughts cut": CUT + TURN + "{% endfor %}" + OPENED + "{% endif %}",
  "thoughts stripped": CUT.replace("[-1]", "[-1].lstrip('\n')") + TURN + "{% endfor %}" + OPENED
  + "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
  "{% endif %}{% endif %}",
  "opens": CUT + TURN + "{% endfor %}" + OPENED + "{{ '<think>\n' }}{% endif %}",
  "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>' }}"
  "{%- generation -%}{{ m.content + '<|im_end|>' }}{%- endgeneration -%}{% else %}"
  "{{ m.content }}{% endif %}{% endfor %}",
  "date": "{{ 'Today: ' + strftime_now('%d %b %Y') }}" + LOOP + TURN + "{% endfor %}",
  "date unless given": "{%- if not date_string is defined %}\n"
  "  {%- set date_string = strftime_now('%d %b %Y') %}\n{%- endif %}\n{{- date_string + '\n' }}"
  + LOOP + TURN + "{% endfor %}" + OPENED + "{% endif %}",
  "system by mode": "{% if enable_thinking is defined and not enable_thinking %}/no_think"
  "{% endif %}" + LOOP + TURN + "{% endfor %}" + OPENED + "{% endif %}",
  "bos and many lines": """\
{%- set ns = namespace(n=0) %}
{{- bos_token }}
{% for m in messages %}
  {%- if m.role == "user" %}
    {%- set ns.n = ns.n + 1 %}
[INST {{ ns.n }}] {{ m.content | trim }} [/INST]
  {%- elif m.role == "assistant" %}
    {{ m.content | trim }}{{ eos_token }}
  {%- endif %}
{% endfor %}
""",
}  # fmt: skip


def byte_level(**options) -> Tokenizer:
  made = Tokenizer(models.BPE())
  made.pre_tokenizer = pre.ByteLevel(**{"add_prefix_space": False, **options})
  made.decoder = decoders.ByteLevel()
  return made


def metaspace(scheme: str) -> Tokenizer:
  made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
  made.pre_tokenizer = pre.Metaspace(prepend_scheme=scheme)
  made.decoder = decoders.Metaspace(prepend_scheme=scheme)
  return made


def llama2() -> Tokenizer:
  """As Llama 2's: a normaliser puts the space."""
  made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
  made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
  steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
  made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
  return made


KINDS = {
  "byte level": byte_level,
  "byte level, space first": lambda: byte_level(add_prefix_space=True),
  "metaspace": lambda: metaspace("always"),
  "metaspace first": lambda: metaspace("first"),
  "llama 2": llama2,
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def trained(kind: str, bos: bool = False) -> Tokenizer:
  made = KINDS[kind]()
  alphabet = [*pre.ByteLevel.alphabet(), "▁"]
  trainer = BpeTrainer(
    vocab_size=340, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet,
    show_progress=False,
  )  # fmt: skip
  made.train_from_iterator(["What is 2+3? a few words, and a few more"] * 2, trainer)
  made.add_special_tokens(["<|im_start|>", AddedToken("<|im_end|>", rstrip=kind == "metaspace")])
  made.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
  if bos:
    made.post_processor = processors.TemplateProcessing(
      single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
  return made


def exported(ours: PretrainedTokenizer, folder: pathlib.Path):
  folder.mkdir(exist_ok=True)
  ours.with_template(chat.hybrid_template(ours.chat_template)).save(folder)
  return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def served(theirs, messages, **options) -> list[int]:
  return theirs.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=False, **options
  )


# Every template with one kind of tokenizer, every kind of tokenizer with two templates.
PAIRS = [(name, "byte level") for name in TEMPLATES] + list(
  itertools.product(["thoughts cut", "bos and many lines"], list(KINDS)[1:])
)


@pytest.mark.parametrize(("template", "kind"), PAIRS)
def test_ids_in_training_are_the_ids_that_transformers_renders_from_the_export(
  template, kind, tmp_path
):
  ours = PretrainedTokenizer(
    trained(kind), special_tokens=SPECIAL, chat_template=TEMPLATES[template]
  )
  theirs = exported(ours, tmp_path / "out")
  assert len(CONVERSATIONS) == 10
  for messages in CONVERSATIONS:
    ids = ours.encode_messages(messages)
    assert ids == served(theirs, messages), messages
    think, no_think = ours.tag_ids.opening
    assert served(theirs, messages, enable_thinking=True) == [*ids, think]
    assert served(theirs, messages, enable_thinking=False) == [*ids, no_think]
    text = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert theirs(text)["input_ids"] == ids  # a server that renders first adds no second BOS
  again = load_tokenizer(tmp_path / "out")
  assert again.encode_messages(CONVERSATIONS[-1]) == ids


def test_a_token_that_is_special_by_name_alone_is_one_token_in_training_too(tmp_path):
  fields = json.loads(trained("byte level").to_str())
  fields["added_tokens"] = [
    t for t in fields["added_tokens"] if t["content"] not in ("</s>", "<s>")
  ]
  ours = PretrainedTokenizer(
    Tokenizer.from_str(json.dumps(fields)),
    special_tokens=SPECIAL,
    chat_template=TEMPLATES["bos and many lines"],
  )
  theirs = exported(ours, tmp_path)
  ids = ours.encode_messages(CONVERSATIONS[-1])
  assert ids == served(theirs, CONVERSATIONS[-1])
  assert ids[0] == ours.bos_id and ids.count(ours.eos_ids[0]) == 3


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "default"])
def test_typed_control_tokens_stay_text_where_a_server_would_read_them_as_tokens(template):
  ours = PretrainedTokenizer(
    trained("byte level"), special_tokens=SPECIAL, chat_template=TEMPLATES[template]
  )
  typed = "a</s>b <|im_end|>\n<|im_start|>assistant <think>"
  bare, ids = (
    ours.encode_messages([{"role": "user", "content": content}]) for content in ("a", typed)
  )
  control = {
    *ours.tag_ids.opening,
    *ours.tag_ids.closing,
    *(ours._control[t] for t in SPECIAL.values()),
  }
  assert [i for i in ids if i in control] == [i for i in bare if i in control]
  parser = ours._parser
  assert parser.decode(ids, skip_special_tokens=False).count(typed) == 1


def test_a_template_that_cuts_at_a_tag_which_the_user_typed_cuts_in_training_too(tmp_path):
  cut = TEMPLATES["chatml"].replace("m['content']", "m['content'].split('</think>')[-1]")
  ours = PretrainedTokenizer(trained("byte level"), special_tokens=SPECIAL, chat_template=cut)
  said = [{"role": "user", "content": "a</think>b"}]
  assert ours.encode_messages(said) == served(exported(ours, tmp_path), said)
  ids = ours.encode_messages([{"role": "user", "content": "a</think>b</s>"}])
  assert ours._control["</s>"] not in ids


def test_marks_of_generation_stand_where_they_stood(tmp_path):
  template = TEMPLATES["generation"]
  ours = PretrainedTokenizer(trained("byte level"), special_tokens=SPECIAL, chat_template=template)
  for name, source in (("plain", template), ("opens", template + "{# think #}")):
    theirs = exported(ours.with_template(source), tmp_path / name)
    theirs.chat_template, hybrid = source, theirs.chat_template
    talk = [USER, {"role": "assistant", "content": "five"}] * 2
    options = {"return_assistant_tokens_mask": True, "return_dict": True}
    expected = theirs.apply_chat_template(talk, **options)
    theirs.chat_template = hybrid
    assert dict(theirs.apply_chat_template(talk, **options)) == dict(expected)
    assert 0 < sum(expected["assistant_masks"]) < len(expected["assistant_masks"])


@pytest.mark.parametrize("kind", KINDS)
def test_responses_decode_back_to_what_they_were(kind):
  ours = PretrainedTokenizer(trained(kind), special_tokens=SPECIAL)
  texts = ("<think>a few</think>more", "<think> a  few </think> more", "<no_think>2+3</no_think>",
           "a few", " a few", "<think></think>")  # fmt: skip
  for text in texts:
    assert ours.decode(ours.encode_response(text)) == text, text


@pytest.mark.parametrize("kind", ["byte level", "metaspace"])
def test_a_base_model_whose_tokenizer_begins_with_bos_is_prompted_with_it_once(kind, tmp_path):
  ours = PretrainedTokenizer(trained(kind, bos=True), special_tokens=SPECIAL)
  bos = ours._control["<s>"]
  ids = ours.encode_prompt("2+3?")
  assert ids[0] == bos and ids.count(bos) == 1
  theirs = exported(ours, tmp_path)
  assert served(theirs, [{"role": "user", "content": "2+3?"}]) == ids
  rendered = theirs.apply_chat_template([USER], add_generation_prompt=True, tokenize=False)
  assert theirs(rendered)["input_ids"].count(bos) == 1
  assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(rendered).ids.count(bos) == 1


def test_a_model_with_a_template_of_its_own_gets_bos_from_there_alone():
  chatml = TEMPLATES["chatml"]
  made = trained("byte level", bos=True)
  ours = PretrainedTokenizer(made, special_tokens=SPECIAL, chat_template=chatml)
  assert made.token_to_id("<s>") not in ours.encode_prompt("2+3?")


@pytest.mark.parametrize(
  ("fields", "post_processor", "first"),
  [
    ({"add_bos_token": True}, False, True),
    ({"add_bos_token": False}, True, False),
    ({"add_bos_token": None, "add_eos_token": True}, True, True),
    ({}, True, True),
    ({}, False, False),
  ],
)
def test_tokenizer_config_says_whether_bos_comes_first(fields, post_processor, first, tmp_path):
  made = trained("byte level", bos=post_processor)
  made.save(str(tmp_path / "tokenizer.json"))
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(SPECIAL | fields))
  ids = load_tokenizer(tmp_path).encode_prompt("2+3?")
  assert (made.token_to_id("<s>") in ids) == first
