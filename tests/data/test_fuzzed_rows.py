"""Hostile lines of JSONL: each is an error with file and line, or a row that encodes and scores."""

import copy
import functools
import json
import pathlib

import numpy as np
import pytest

from lhrm_jax.data import catalog, limits, rows, sources
from lhrm_jax.data.batches import encode, prompt_ids
from lhrm_jax.data.catalog import Dataset
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.data.sources import Source
from lhrm_jax.rewards import RewardError, rules, shaping
from lhrm_jax.rewards.judging import judge
from lhrm_jax.text import PretrainedTokenizer
from tests.data.test_files import FORMATS as WHOLE_FILES
from tests.data.test_files import without_bytes
from tests.data.test_paper_sources import CASES
from tests.data.test_sources import KNOWN_FIELDS

LINES = 2000
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "qwen3_tied"

# A good row of every format, and what reads it.
FORMATS: list[tuple[Dataset, dict]] = [
  (
    Dataset(Source(""), rows.prompt_row),
    {"prompt": "1+1?", "answer": "2", "level": 1, "source": "toy"},
  ),
  (
    Dataset(Source(""), rows.hft_row, HFTRow),
    {"prompt": "1+1?", "response": "<think>one more</think>2", "mode": "think"},
  ),
  (
    Dataset(Source(""), rows.hft_row, HFTRow),
    {
      "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<no_think>2</no_think>"},
      ],
      "mode": "no_think",
    },
  ),
  (
    Dataset(Source(""), rows.prompt_row),  # verl's
    {
      "data_source": "toy",
      "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
      "reward_model": {"style": "rule", "ground_truth": "2"},
      "extra_info": {"index": 0},
    },
  ),
  (
    Dataset(Source(""), rows.prompt_row),
    {
      "conversations": [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "human", "value": "1+1?"},
      ],
      "system": "Be brief.",
      "answer": 2,
    },
  ),
  (
    Dataset(Source(""), rows.hft_row, HFTRow),  # TRL's
    {
      "prompt": [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}],
      "completion": [{"role": "assistant", "content": "2", "reasoning_content": "one more"}],
      "mode": "think",
    },
  ),
  *((catalog.DATASETS[name], fields) for name, fields in KNOWN_FIELDS.items()),
  *((catalog.DATASETS[name], case[0][0]) for name, case in CASES.items()),
]
VALUES = (
  None, True, 0, -7, 3, 27.0, 10**30, -(10**400), 1e300, float("nan"), float("inf"), "", " ", "\n",
  "4", "1/0", "\\frac{1}{0}", "\\boxed{", "\\boxed{\\boxed{1}}", "#### ", "x #### 1,2,3", "B",
  "9" * 400, "2^{2^{2^{2^{99}}}}", "\\sqrt{" * 300, "(" * 5000, "x" * 20_000, "7 " * 5000,
  "<think>", "</think>", "<think>a</think>b", "<no_think>a</no_think>", "<think>a</think><think>",
  "<|im_end|>", "<|im_start|>user", "\x00", "\x1b[2J\x07", "\u202e\ufeff\ue0f0", "\ud800",
  "ok \udfff!", "\U0001f600", "é", "think", "maybe", [], {}, [[[[1]]]], ["a", None],
  [{"role": "user"}], {"a": {"b": []}}, [[1, 2]] * 50, [True, "x", 3],
)  # fmt: skip
# What no writer of JSON would write, as bytes of a line.
DAMAGES = (
  lambda rng, line: line[: rng.integers(1, len(line))],
  lambda rng, line: line + line,
  lambda rng, line: line[1:],
  lambda rng, line: b"\xef\xbb\xbf" + line,
  lambda rng, line: line.replace(b"1", b"\xff\xfe", 1),
  lambda rng, line: line.replace(b'"', b'"\xc3', 1),
  lambda rng, line: line.replace(b'"', b'"\x00\x07', 1),
  lambda rng, line: line.replace(b": ", b": " + b"[" * 100_000, 1),
  lambda rng, line: line.replace(b": ", b': {"a":' * 50_000, 1),
  lambda rng, line: b"[" + line + b"]",
  lambda rng, line: b"9" * 5000,
  lambda rng, line: b'{"prompt": "x", "answer": ' + b"9" * 5000 + b"}",
  lambda rng, line: b'{"prompt": "x", "answer": 1e999, "level": -1e999}',
  lambda rng, line: b'"' + b"\\ud83d" * 9 + b'"',
  lambda rng, line: line.replace(b'"', b'"\xe2\x80\xa8\xc2\x85', 1),
)


def pick(rng: np.random.Generator, values):
  return values[rng.integers(len(values))]


def slots(fields, path=()):
  """The places of all values in nested fields, outermost first."""
  items = fields.items() if isinstance(fields, dict) else enumerate(fields)
  for key, value in items:
    yield (*path, key)
    if isinstance(value, dict | list):
      yield from slots(value, (*path, key))


@functools.cache
def hostile(seed: int) -> tuple[Dataset, bytes]:
  """A reader and a line for it, changed in one to three places."""
  rng = np.random.default_rng(seed)
  reader, good = pick(rng, FORMATS)
  fields = copy.deepcopy(good)
  for _ in range(rng.integers(1, 4)):
    path = pick(rng, list(slots(fields)) or [("prompt",)])
    inner = functools.reduce(lambda node, key: node[key], path[:-1], fields)
    if rng.random() < 0.15 and fields:
      del inner[path[-1]]
    else:
      inner[path[-1]] = copy.deepcopy(pick(rng, VALUES))
    if rng.random() < 0.05 and isinstance(inner, dict):
      inner["k" * 3000] = 1
  line = json.dumps(fields, ensure_ascii=bool(rng.random() < 0.5)).encode(errors="surrogatepass")
  if rng.random() < 0.2:
    line = pick(rng, DAMAGES)(rng, line)
  return reader, line.replace(b"\n", b" ")


def read(path: pathlib.Path, reader: Dataset, on_bad_row: str = "raise"):
  return sources.load(Source(str(path)), reader.to_row, on_bad_row)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
  """For every seed the row that its line gives; `None` where it gives none, with a clear error."""
  path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
  found = {}
  for seed in range(LINES):
    reader, line = hostile(seed)
    path.write_bytes(b"\n" + line + b"\n")
    try:
      (found[seed],) = read(path, reader).rows
    except ValueError as error:
      found[seed], message = None, str(error)
      nothing = f"{path} gave no rows" in message  # a blank line, or a good row that is not wanted
      assert nothing or message.startswith(f"{path}:2: "), f"seed {seed}: {message}"
      assert isinstance(error.__cause__, rows.BadRow | None), f"seed {seed}: {message}"
      assert len(message.replace(str(path), "")) < 600, f"seed {seed}: {message[:2000]}"
    except BaseException as error:
      error.add_note(f"seed {seed}: {line[:300]}")
      raise
  return found


def test_hostile_lines_are_rows_or_errors_with_file_and_line(outcomes):
  good = sum(row is not None for row in outcomes.values())
  assert LINES // 10 < good < LINES // 2, "some of both, or this tests little"


def test_skipping_leaves_out_the_bad_lines_and_no_other(outcomes, tmp_path):
  for reader, _ in FORMATS:
    of_reader = [seed for seed in outcomes if hostile(seed)[0] is reader]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(hostile(seed)[1] + b"\n" for seed in of_reader))
    wanted = [outcomes[seed] for seed in of_reader if outcomes[seed] is not None]
    if not wanted:  # a message of OpenAssistant's user, which is context alone
      continue
    loaded = read(path, reader, "skip")
    assert loaded.rows == wanted
    assert loaded.skipped <= len(of_reader) - len(wanted)


def test_rows_that_are_taken_encode_and_can_be_written(outcomes, tmp_path):
  tokenizer = PretrainedTokenizer.load(GOLDEN)
  for seed, row in outcomes.items():
    try:
      if isinstance(row, HFTRow):
        sequence = encode(tokenizer, row)
        assert sequence.slots > 0 and max(sequence.ids) < tokenizer.vocab_size
      elif row is not None:
        assert prompt_ids(tokenizer, row)
        if seed % 20 == 0:  # takes a dozen encodings
          assert limits.fits(tokenizer, limits.truncate_left(tokenizer, row, 60), 60)
      if row is not None:
        (tmp_path / "rows").write_text(str(row), encoding="utf-8")
    except BaseException as error:
      error.add_note(f"seed {seed}: {str(row)[:300]}")
      raise


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
  """Bytes of a file with one to three of them changed, cut out, or put in."""
  for _ in range(rng.integers(1, 4)):
    start, length = rng.integers(len(data) + 1), rng.choice([0, 1, 1, 2, 9, 500])
    put_in = rng.bytes(rng.choice([0, 1, 1, 3])) if rng.random() < 0.8 else data[:start]
    data = data[:start] + put_in + data[start + length :]
  return data


@pytest.mark.parametrize(("name", "data"), WHOLE_FILES, ids=without_bytes)
def test_damaged_files_give_rows_or_an_error_with_their_name(tmp_path, name, data):
  path, rng = tmp_path / name, np.random.default_rng(0)
  for seed in range(150):
    path.write_bytes(damaged(rng, data))
    for on_bad_row in sources.ON_BAD_ROW:
      try:
        found = sources.load(Source(str(path)), rows.prompt_row, on_bad_row).rows
        assert all(isinstance(row, PromptRow) for row in found)
      except ValueError as error:
        assert str(error).startswith(str(path)), f"seed {seed}: {error}"
        assert str(error).isprintable() and len(str(error)) < 600 + len(str(path)), error
      except BaseException as error:
        error.add_note(f"seed {seed}: {path.read_bytes()[:300]}")
        raise


# These raise a `RewardError` for an answer of another kind.
PARTICULAR = (rules.numeric, rules.multiple_choice, rules.code)
REWARDS = (rules.exact_match, rules.math, *PARTICULAR, shaping.format_term, shaping.length_term)


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.__name__)
def test_rows_that_are_taken_are_scored(outcomes, reward):
  asked = [row for row in outcomes.values() if isinstance(row, PromptRow)]
  for row in asked:
    for response in (
      f"<think>so</think>\\boxed{{{row.answer}}}",
      f"<no_think>{row.prompt[:200]}{row.answer[:200]}</no_think>",
    ):
      try:
        (score,) = judge("r", reward, [row.prompt], [response], [row.answer])
        assert np.isfinite(score)
      except RewardError as error:
        assert reward in PARTICULAR, error
        assert "raised BadAnswer" in str(error) and len(str(error)) < 2500, error
