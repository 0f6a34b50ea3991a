"""Hostile model folders and GGUF files: one clear error, quickly, in little memory."""

import json
import os
import pathlib
import shutil
import struct

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lhrm_jax import policy, text
from tests.policy.test_gguf import random_params, tiny, write_gguf

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(GOLDEN / "qwen3_sharded", tmp_path / "shards"))


@pytest.fixture
def single(tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(GOLDEN / "qwen3_tied", tmp_path / "model"))


def edit(path: pathlib.Path, **fields) -> None:
  path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(place: pathlib.Path, message: str, kind: type[Exception] = ValueError) -> None:
  with pytest.raises(kind, match=message) as error:
    policy.load_pretrained(place)
  assert str(place) in str(error.value), "the error must name the file"


FILES = ("config.json", "tokenizer.json", "model.safetensors", "generation_config.json")


@pytest.mark.parametrize("name", (*FILES, "chat_template.jinja", "special_tokens_map.json"))
def test_a_git_lfs_pointer_says_what_it_is(name, single):
  (single / name).write_text(LFS)
  refused(single, f"{name} is a Git LFS pointer, .*run `git lfs pull`")


@pytest.mark.parametrize("name", (*FILES, "chat_template.jinja", "tokenizer_config.json"))
def test_devices_pipes_and_folders_are_no_files(name, single):
  for make in (os.mkfifo, pathlib.Path.mkdir):
    (single / name).unlink(missing_ok=True)
    make(single / name)
    refused(single, f"{name} is not a plain file")
    (single / name).unlink() if make is os.mkfifo else (single / name).rmdir()
  (single / name).symlink_to("/dev/zero")
  refused(single, "leads out of its folder, to /dev/zero")
  with pytest.raises(ValueError, match="leads out of its folder"):
    (single / "tokenizer.json").unlink(missing_ok=True)
    (single / "tokenizer.json").symlink_to("/dev/zero")
    text.load_tokenizer(single)


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_is_not_followed(name, single, tmp_path):
  (single / name).rename(tmp_path / name)
  (single / name).symlink_to(tmp_path / name)
  refused(single, f"{name} leads out of its folder")


def test_links_within_a_hub_cache_are_followed_and_no_further(single, tmp_path):
  repo = tmp_path / "models--someone--tiny"
  snapshot, blobs = repo / "snapshots" / "abc", repo / "blobs"
  snapshot.mkdir(parents=True)
  blobs.mkdir()
  for file in single.iterdir():
    file.rename(blobs / file.name)
    (snapshot / file.name).symlink_to(pathlib.Path("..", "..", "blobs", file.name))
  policy.load_pretrained(snapshot)
  (tmp_path / "link").symlink_to(snapshot)  # the user's own way to the folder
  policy.load_pretrained(tmp_path / "link")
  (blobs / "model.safetensors").rename(tmp_path / "elsewhere")
  (snapshot / "model.safetensors").unlink()
  (snapshot / "model.safetensors").symlink_to(tmp_path / "elsewhere")
  refused(snapshot, "leads out of its folder")


def test_an_index_of_names_that_no_file_can_have_is_refused(folder):
  index = folder / "model.safetensors.index.json"
  names = json.loads(index.read_text())["weight_map"]
  edit(index, weight_map=dict.fromkeys(names, "a" * 5000))
  refused(folder, "File name too long")


@pytest.mark.parametrize("way", ["../outside.safetensors", "/", "sub/../../outside.safetensors"])
def test_an_index_that_leaves_the_folder_is_refused(way, folder, tmp_path):
  shard = next(folder.glob("*.safetensors")).rename(tmp_path / "outside.safetensors")
  (folder / "sub").mkdir()
  index = folder / "model.safetensors.index.json"
  names = json.loads(index.read_text())["weight_map"]
  edit(index, weight_map=dict.fromkeys(names, str(shard) if way == "/" else way))
  refused(folder, "leads out of its folder")


@pytest.mark.parametrize("weight_map", [None, [], {}, "model.safetensors", {"a": 5}, {"a": None}])
def test_an_index_without_a_map_is_refused(weight_map, folder):
  edit(folder / "model.safetensors.index.json", weight_map=weight_map)
  refused(folder, "holds no weight_map from tensors to files")
  (folder / "model.safetensors.index.json").write_text("{}")
  refused(folder, "holds no weight_map from tensors to files")


@pytest.mark.parametrize("source", ["", "{", "[" * 100_000, "5", "null", '["a"]', "\xff\xfe"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_what_is_no_json_object_is_named(name, source, single):
  (single / name).write_bytes(source.encode("latin-1"))
  refused(single, f"{name} (is not JSON|holds|is not UTF-8)")


def safetensors(header: object, body: bytes = b"", length: int | None = None) -> bytes:
  raw = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def entry(start: int, end: int, shape=(2,), dtype="F32") -> dict:
  return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


LIES = {
  "empty": b"",
  "short": b"abc",
  "a header longer than the file": safetensors({}, length=2**40),
  "a header longer than a number": safetensors({}, length=2**64 - 1),
  "no JSON": safetensors(b"{,}"),
  "no UTF-8": safetensors(b'{"\xff": 5}'),
  "nested": safetensors(b'{"a":' * 5000),
  "data beyond the end": safetensors({"a": entry(0, 8)}),
  "a size that is not the shape's": safetensors({"a": entry(0, 8, (3,))}, bytes(8)),
  "a huge shape": safetensors({"a": entry(0, 8, (2**62, 2**62))}, bytes(8)),
  "a negative shape": safetensors({"a": entry(0, 8, (-2,))}, bytes(8)),
  "overlapping": safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
  "a hole": safetensors({"a": entry(0, 8), "b": entry(16, 24)}, bytes(24)),
  "backwards": safetensors({"a": entry(8, 0)}, bytes(8)),
  "a rest": safetensors({"a": entry(0, 8)}, bytes(80)),
  "an unknown type": safetensors({"a": entry(0, 8, (2,), "F33")}, bytes(8)),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_safetensors_are_damaged(lie, single):
  (single / "model.safetensors").write_bytes(LIES[lie])
  refused(single, r"model\.safetensors is damaged or no safetensors file")


def test_a_safetensors_file_cut_short_is_damaged(single):
  path = single / "model.safetensors"
  whole = path.read_bytes()
  for size in (len(whole) - 1, len(whole) // 2, 100, 8, 7):
    path.write_bytes(whole[:size])
    refused(single, "is damaged or no safetensors file")


def test_sizes_beyond_the_file_are_told_before_anything_is_made_of_them(single):
  for name, value in (("num_hidden_layers", 9_999), ("vocab_size", 2**24),
                      ("hidden_size", 2**20), ("intermediate_size", 2**20)):  # fmt: skip
    old = (single / "config.json").read_text()
    edit(single / "config.json", **{name: value})
    refused(single, "the config says 9999 layers|doesn't hold the tensors its config asks for")
    (single / "config.json").write_text(old)


def test_ids_far_beyond_the_vocabulary_are_refused(single):
  fields = json.loads((single / "tokenizer.json").read_text())
  for top in (2**31, 2**32 - 1, 5000):
    fields["model"]["vocab"]["!"] = top
    (single / "tokenizer.json").write_text(json.dumps(fields))
    refused(single, f"300 tokens, but ids up to {top}|no tokenizer that can be read")
    with pytest.raises(ValueError, match=f"ids up to {top}|no tokenizer that can be read"):
      text.load_tokenizer(single)


@pytest.mark.parametrize("top", [2**31, 2**32, 2**63, -1])
def test_ids_of_added_tokens_beyond_the_vocabulary_are_refused(top, single):
  token = {"content": "<x>", "special": True, "normalized": False, "lstrip": False,
           "rstrip": False, "single_word": False}  # fmt: skip
  edit(single / "tokenizer_config.json", added_tokens_decoder={str(top): token})
  refused(single, f"gives '<x>' the id {top}, but the next free one")
  edit(single / "tokenizer_config.json", added_tokens_decoder={})
  added = json.loads((single / "tokenizer.json").read_text())["added_tokens"]
  edit(single / "tokenizer.json", added_tokens=[*added, {**token, "id": top}])
  try:  # the library may renumber such a token
    assert text.load_tokenizer(single).vocab_size < 310
  except ValueError as error:
    assert "tokenizer" in str(error)


def replacing(times: int) -> dict:
  step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
  return {"type": "Sequence", "normalizers": [step] * times}


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"normalizer": replacing(40)}, "its normalizer can make a text 1000"),
    ({"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}}, "its normalizer can make"),
    (
      {"decoder": {**replacing(1)["normalizers"][0], "content": "a" * 5000}},
      "its decoder can make",
    ),
  ],
)
def test_a_tokenizer_that_would_blow_a_text_up_is_refused(fields, message, single):
  edit(single / "tokenizer.json", **fields)
  refused(single, message)


def test_a_tokenizer_that_draws_at_random_is_refused(single):
  model = json.loads((single / "tokenizer.json").read_text())["model"]
  edit(single / "tokenizer.json", model={**model, "dropout": 0.1})
  refused(single, "dropout draws another encoding each time")


def test_padding_and_truncation_of_the_file_do_not_count(single):
  expected = text.load_tokenizer(single).encode_prompt("2+3?")
  padding = {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None,
             "pad_id": 0, "pad_type_id": 0, "pad_token": "<|end|>"}  # fmt: skip
  truncation = {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
  edit(single / "tokenizer.json", padding=padding, truncation=truncation)
  assert text.load_tokenizer(single).encode_prompt("2+3?") == expected


def test_a_tokenizer_of_another_model_is_told_by_its_size(single):
  fields = json.loads((single / "tokenizer.json").read_text())
  fields["model"]["vocab"] |= {f"word{i}": 300 + i for i in range(2000)}
  (single / "tokenizer.json").write_text(json.dumps(fields))
  with pytest.raises(ValueError, match="tokens and the embedding table 300 rows"):
    policy.load_pretrained(single)


@pytest.mark.parametrize(
  "template", ["{{ 7 ** (10 ** 9) }}", "{% for m in messages %}{{ m.nothing.at_all }}{% endfor %}"]
)
def test_a_hostile_template_is_one_error_at_load(template, single):
  (single / "chat_template.jinja").write_text(template)
  refused(single, "The chat template refuses a conversation")


ESCAPE = "\x1b]52;c;aGk=\x07\u202e"


def test_what_files_say_reaches_no_terminal_raw(single, folder):
  (single / "chat_template.jinja").write_text(f"{{{{ raise_exception('{ESCAPE}') }}}}")
  messages = [failure(single)]
  (single / "chat_template.jinja").unlink()
  tensors = load_file(single / "model.safetensors")
  save_file({**tensors, ESCAPE: np.ones(1, np.float32)}, single / "model.safetensors")
  messages.append(failure(single))
  save_file({**tensors, ESCAPE: np.ones(1, np.int8)}, single / "model.safetensors")
  messages.append(failure(single))
  edit(folder / "model.safetensors.index.json", weight_map={"a": f"../{ESCAPE}"})
  messages.append(failure(folder))
  edit(single / "config.json", model_type=ESCAPE)
  messages.append(failure(single))
  (single / "tokenizer.json").write_text(json.dumps({ESCAPE: 5}))
  (single / "config.json").write_bytes((GOLDEN / "qwen3_tied" / "config.json").read_bytes())
  save_file(tensors, single / "model.safetensors")
  messages.append(failure(single))
  for message in messages:
    assert message.isprintable(), message


def failure(place: pathlib.Path) -> str:
  with pytest.raises((ValueError, OSError)) as error:
    policy.load_pretrained(place)
  return str(error.value)


def test_a_template_without_end_is_too_large(single):
  (single / "chat_template.jinja").write_text("a" * 2**21)
  refused(single, "is larger than 1048576 bytes")
  (single / "chat_template.jinja").unlink()
  edit(single / "tokenizer_config.json", chat_template="a" * 2**21)
  refused(single, "is larger than 1048576 characters")


@pytest.mark.parametrize(
  "template",
  [5, {"default": "x"}, [{"name": "tools", "template": "x"}], [{"name": "default", "template": 5}]],
)
def test_a_template_that_is_none_is_not_replaced_by_the_default(template, single):
  edit(single / "tokenizer_config.json", chat_template=template)
  refused(single, "tokenizer_config.json: chat_template")


# GGUF.


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory) -> bytes:
  path = tmp_path_factory.mktemp("gguf") / "m.gguf"
  config = tiny(num_layers=1)
  write_gguf(path, config, random_params(config), "llama")
  return path.read_bytes()


def string(value: str) -> bytes:
  return struct.pack("<Q", len(value)) + value.encode()


def array(kind: int, count: int) -> bytes:
  """A file with one array that says it has `count` entries."""
  head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
  return head + string("general.a") + struct.pack("<IIQ", 9, kind, count) + bytes(64)


def tensors(
  *infos: tuple[str, tuple[int, ...], int, int], version: int = 3, body: int = 256
) -> bytes:
  """A file with nothing but tensors: name, shape, type and offset of each."""
  raw = struct.pack("<4sIQQ", b"GGUF", version, len(infos), 0)
  for name, shape, kind, offset in infos:
    raw += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
  return raw + bytes(-len(raw) % 32) + bytes(256)


GGUF_LIES = {
  "empty": (b"", "has 0 bytes"),
  "another format": (b"PK\3\4" + bytes(60), "is not a GGUF file"),
  "a Git LFS pointer": (LFS.encode(), "Git LFS pointer"),
  "version 1": (tensors(version=1), "has GGUF version 1"),
  "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0) + bytes(64), "has GGUF version"),
  "2**40 numbers": (array(4, 2**40), "1099511627776 numbers follow"),
  "2**40 bytes": (array(0, 2**40), "1099511627776 numbers follow"),
  "2**62 doubles": (array(12, 2**62), "numbers follow"),
  "2**40 strings": (array(8, 2**40), "1099511627776 strings follow"),
  "arrays of arrays": (array(9, 2**40), "array of arrays"),
  "an unknown type": (array(77, 5), "an array of arrays|no metadata type"),
  "2**60 keys": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60) + bytes(64), "metadata keys follow"),
  "2**60 tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0) + bytes(64), "tensors follow"),
  "a string of 2**50": (
    struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**50) + bytes(64), "bytes should follow"
  ),
  "overlapping": (tensors(("a", (8,), 0, 0), ("b", (8,), 0, 16)), "'a' and 'b' overlap"),
  "the same bytes twice": (tensors(("a", (8,), 0, 0), ("b", (8,), 0, 0)), "overlap"),
  "a name twice": (tensors(("a", (8,), 0, 0), ("a", (8,), 0, 32)), "'a' appears in it twice"),
  "beyond the end": (tensors(("a", (8,), 0, 512)), "ends beyond the file's end"),
  "a huge shape": (tensors(("a", (2**40, 2**40), 0, 0)), "ends beyond the file's end"),
  "no values": (tensors(("a", (0,), 0, 0)), "blocks of 1 values"),
  "half a block": (tensors(("a", (33,), 8, 0)), "blocks of 32 values"),
  "five dimensions": (tensors(("a", (1,) * 5, 0, 0)), "has 5 dimensions"),
  "a type of no one": (tensors(("a", (8,), 250, 0)), "type \\(250\\) that is unknown"),
}  # fmt: skip


@pytest.mark.parametrize("lie", GGUF_LIES)
def test_lying_gguf_files_are_one_error(lie, tmp_path):
  raw, message = GGUF_LIES[lie]
  path = tmp_path / "m.gguf"
  path.write_bytes(raw)
  refused(path, message)
  with pytest.raises(ValueError, match=message):
    text.load_tokenizer(path)


def test_a_gguf_file_cut_anywhere_is_one_error(gguf_bytes, tmp_path):
  path = tmp_path / "m.gguf"
  for size in [*range(0, 600, 7), *range(600, len(gguf_bytes), len(gguf_bytes) // 40)]:
    path.write_bytes(gguf_bytes[:size])
    with pytest.raises(ValueError, match=r"m\.gguf"):
      policy.load_pretrained(path)


def test_gguf_files_that_are_pipes_are_no_files(tmp_path):
  os.mkfifo(tmp_path / "m.gguf")
  refused(tmp_path / "m.gguf", "is not a plain file")


def patched(monkeypatch, path, method: str, *arguments) -> None:
  """A good file but for one value of its metadata."""
  original = getattr(gguf.GGUFWriter, method)
  with monkeypatch.context() as patch:
    patch.setattr(gguf.GGUFWriter, method, lambda self, *_: original(self, *arguments))
    write_gguf(path, tiny(num_layers=1), random_params(tiny(num_layers=1)), "llama")


@pytest.mark.parametrize(
  ("method", "value", "message"),
  [
    ("add_layer_norm_rms_eps", float("nan"), "layer_norm_rms_epsilon=nan should be of type float"),
    ("add_rope_freq_base", 0.0, "rope_theta=0.0 must be"),
    ("add_block_count", 9_999, "says 9999 layers"),
    ("add_head_count", 0, "num_heads=0 must be a whole number from 1"),
    ("add_eos_token_id", 2**31, "eos_token_id=2147483648: there are 260 tokens"),
    ("add_token_merges", ["a b c"], "merges does not fit the tokens"),
    ("add_chat_template", "{{ 1 / 0 }}", "division by zero"),
  ],
)
def test_gguf_metadata_that_cannot_be_is_named(method, value, message, monkeypatch, tmp_path):
  path = tmp_path / "m.gguf"
  patched(monkeypatch, path, method, value)
  refused(path, message)


def test_nan_in_a_gguf_file_is_refused(tmp_path):
  config = tiny(num_layers=1)
  params = random_params(config)
  scale = np.array(params["final_norm"]["scale"])
  scale[3] = np.nan
  write_gguf(tmp_path / "m.gguf", config, {**params, "final_norm": {"scale": scale}}, "llama")
  refused(tmp_path / "m.gguf", r"model\.norm\.weight holds NaN")
