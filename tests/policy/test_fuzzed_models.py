"""Random damage to model folders, tokenizers and GGUF files: a model, or one clear error, soon."""

import copy
import json
import pathlib
import random
import resource
import shutil
import time

import pytest

from lhrm_jax import policy, text
from tests.policy.test_gguf import random_params, tiny, write_gguf
from tests.text.test_served_prompts import KINDS, TEMPLATES, trained

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FOLDERS = ("qwen3_sharded", "llama_scaled", "qwen2_tied")
VALUES = (None, True, False, -1, 0, 1, 3, 2**31, 2**32 - 1, 2**63, 10**400, 1e308, float("nan"),
          "", "x" * 5000, "\ud800", "../../x", "{{ 1 / 0 }}", "<think>", [], {}, [[[]]],
          {"a": {"b": []}}, list(range(50)))  # fmt: skip
SECONDS_EACH = 30.0  # on a busy machine; most take milliseconds
GROWTH_MIB = 1024


def paths_in(node, path=()):
  yield path
  entries = dict(enumerate(node)) if isinstance(node, list) else node
  for key, child in entries.items() if isinstance(entries, dict) else ():
    yield from paths_in(child, (*path, key))


def damaged_json(rng: random.Random, fields):
  """A copy with up to three entries removed, doubled, or of another type or size."""
  fields = copy.deepcopy(fields)
  for _ in range(rng.randint(1, 3)):
    # Top-level entries as often as all those further down.
    places = [path for path in paths_in(fields) if path]
    shallow = [path for path in places if len(path) <= 2]
    if not places:
      break
    *parents, key = rng.choice(rng.choice((places, shallow)))
    node = fields
    for parent in parents:
      node = node[parent]
    match rng.randrange(4):
      case 0:
        del node[key]
      case 1 if isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
      case 2 if isinstance(node, dict):
        node[rng.choice(("", "a", "content", "id"))] = copy.deepcopy(node[key])
      case _:
        node[key] = copy.deepcopy(rng.choice(VALUES))
  return fields


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
  """A copy with bytes changed, cut, doubled or replaced by others; more often near the start."""
  data = bytearray(data)
  for _ in range(rng.randint(1, 4)):
    at = int(len(data) * rng.random() ** 4)
    match rng.randrange(6):
      case 0:
        data[at : at + 1] = bytes([rng.randrange(256)])
      case 1:
        data[at:] = b""
      case 2:
        data[at:at] = data[at : at + rng.randrange(64)]
      case 3:
        data[at : at + 8] = rng.choice((2**31, 2**40, 2**63, 2**64 - 1, 0)).to_bytes(8, "little")
      case 4:
        data[at : at + rng.randrange(16)] = b""
      case 5:
        data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if at < len(data) else b""
  return bytes(data)


def damage(rng: random.Random, place: pathlib.Path) -> str:
  """Damages one file of a model, and says which."""
  if place.suffix == ".gguf":
    place.write_bytes(damaged_bytes(rng, place.read_bytes()))
    return place.name
  kinds = (".json", ".safetensors", ".jinja")
  path = rng.choice(sorted(path for path in place.iterdir() if path.suffix in kinds))
  if path.suffix == ".json" and rng.random() < 0.8:
    path.write_text(json.dumps(damaged_json(rng, json.loads(path.read_text()))))
  else:
    path.write_bytes(damaged_bytes(rng, path.read_bytes()))
  return path.name


def outcome(load, place: pathlib.Path) -> str:
  try:
    loaded = load(place)
  except (ValueError, OSError) as error:
    assert len(str(error)) > 20, f"{error!r} says too little"
    return "refused"
  tokenizer = loaded[2] if isinstance(loaded, tuple) else loaded
  prompt = [
    *tokenizer.encode_prompt("What is 2+3? </think><|end|>"),
    *tokenizer.encode_response("5"),
  ]
  assert all(isinstance(i, int) and 0 <= i < tokenizer.vocab_size for i in prompt)
  tokenizer.decode(prompt)
  return "loaded"


def peak_mib() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(count: int, seed: int, tmp_path: pathlib.Path) -> dict[str, float]:
  rng = random.Random(seed)
  source = tmp_path / "m.gguf"
  write_gguf(source, tiny(num_layers=1), random_params(tiny(num_layers=1)), "llama")
  policy.load_pretrained(source)  # what every load needs is in memory from here on
  tokenizers = [trained(kind, bos=True) for kind in KINDS]
  counts = {"loaded": 0, "refused": 0, "slowest": 0.0}
  wrong = []
  before = peak_mib()
  for i in range(count):
    whole = source if rng.random() < 0.3 else GOLDEN / rng.choice(FOLDERS)
    place = tmp_path / f"{i}{whole.suffix}"
    shutil.copy(whole, place) if whole.is_file() else shutil.copytree(whole, place)
    if place.is_dir() and rng.random() < 0.5:
      rng.choice(tokenizers).save(str(place / "tokenizer.json"))
      template = rng.choice(list(TEMPLATES.values())[1:])
      (place / "chat_template.jinja").write_text(template)
    name = damage(rng, place)
    load = text.load_tokenizer if rng.random() < 0.5 and "token" in name else policy.load_pretrained
    start = time.perf_counter()
    try:
      counts[outcome(load, place)] += 1
    except BaseException as error:  # a library's panic is not an Exception
      wrong.append(f"seed {seed}, input {i}, {name}: {type(error).__name__}: {str(error)[:200]}")
    seconds = time.perf_counter() - start
    if seconds > SECONDS_EACH:
      wrong.append(f"seed {seed}, input {i}, {name}: {seconds:.1f} s")
    counts["slowest"] = max(counts["slowest"], seconds)
    place.unlink() if place.is_file() else shutil.rmtree(place)
  counts["growth_mib"] = peak_mib() - before
  print(f"{count} inputs: {counts}")
  assert not wrong, "\n".join(wrong)
  assert counts["growth_mib"] < GROWTH_MIB
  return counts


def test_damaged_models_load_or_are_one_clear_error(tmp_path):
  counts = fuzz(60, 0, tmp_path)
  assert counts["loaded"] > 5 and counts["refused"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_thousand_damaged_models_each_load_or_are_one_clear_error(seed, tmp_path):
  fuzz(1000, seed, tmp_path)
