"""Slices of splits: the rows that `datasets` takes, except where it takes too many."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lhrm_jax.data import splits


def rows(split: str, total: int) -> list[int]:
  parts = [part.rows(lambda: total) for part in splits.parse(split)]
  return [row for part in parts for row in range(total)[slice(*part)]]


@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ("train", range(10)),
    ("train[:]", range(10)),
    ("train[:2]", [0, 1]),
    ("train[8:]", [8, 9]),
    ("train[-3:-1]", [7, 8]),
    ("train[:20%]", [0, 1]),
    ("train[-10%:]", [9]),
    ("train[12.5%:25%]", [1]),
    ("train[:1]+ train[9:]", [0, 9]),
    ("train[5:5]", []),
    ("train[1_0:]", []),
    ("train[-99:2]", [0, 1]),
    ("train[90%:](closest)", [9]),
  ],
)
def test_slices(split, expected):
  assert rows(split, 10) == list(expected)


def test_a_percentage_from_the_end_that_rounds_to_no_row_is_no_row():
  assert rows("train[-10%:]", 5) == []
  assert rows("train[:-10%]", 5) == list(range(5))


def test_multiples_of_a_whole_percent_leave_the_remainder():
  assert rows("train[:50%](pct1_dropremainder)", 250) == list(range(100))
  with pytest.raises(ValueError, match="needs 100 rows or more"):
    rows("train[:50%](pct1_dropremainder)", 99)


@pytest.mark.parametrize(
  ("split", "message"),
  [
    ("", "is not understood"),
    ("train[", "is not understood"),
    ("train[2]", "is not understood"),
    ("train[::2]", "is not understood"),
    ("train[:1shard]", "is not understood"),
    ("train[:2]+", "is not understood"),
    ("train[:101%]", "beyond 100 %"),
    ("train[:1.5]", "is not a number"),
    ("train[:__]", "is not a number"),
    ("train[:1.2.3%]", "is not a number"),
    ("train[10%:50]", "one bound in rows and one in percent"),
    ("train[:10](closest)", "after percentages"),
    ("train[:10%](up)", "must be one of closest"),
  ],
)
def test_what_is_no_slice_is_refused(split, message):
  with pytest.raises(ValueError, match=message):
    splits.parse(split)


bounds = st.none() | st.integers(-120, 120)


@settings(deadline=None)  # the first example imports the library
@given(start=bounds, stop=bounds, total=st.integers(0, 130), percent=st.booleans())
def test_slices_are_those_of_datasets(start, stop, total, percent):
  reader = pytest.importorskip("datasets.arrow_reader")
  if percent:
    start, stop = (b and max(min(b, 100), -100) for b in (start, stop))
    # There it takes a negative percentage that rounds to no row for the first row of all.
    if any(b and b < 0 and round(b * total / 100) == 0 for b in (start, stop)):
      return
  unit = "%" if percent else ""
  start, stop = ("" if b is None else f"{b}{unit}" for b in (start, stop))
  split = f"train[{start}:{stop}]"
  (theirs,) = reader.ReadInstruction.from_spec(split).to_absolute({"train": total})
  assert rows(split, total) == list(range(theirs.from_, theirs.to))


@example(percent=10, total=5)
@given(percent=st.integers(0, 100), total=st.integers(0, 1000))
def test_the_two_sides_of_a_bound_share_no_row_and_lose_none(percent, total):
  for bound, sign in itertools.product((f"{percent}%", str(percent)), ("", "-")):
    before, after = rows(f"train[:{sign}{bound}]", total), rows(f"train[{sign}{bound}:]", total)
    assert before + after == list(range(total))
