r"""One reader of `\boxed` for data sets, rules and the verifier."""

import time

import pytest

from lhrm_jax.data import catalog
from lhrm_jax.rewards import rules
from lhrm_jax.rewards.math import verify
from lhrm_jax.text import boxes


@pytest.mark.parametrize(
  ("text", "content"),
  [
    (r"\boxed{1}, no: $\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
    (r"\fbox {7}", "7"),
    (r"so $\boxed 27$", "27"),
    (r"\boxed 2.5.", "2.5"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\}}", r"\}"),
    (r"\boxed{7} and \boxed{8", None),
  ],
)
def test_the_last_box_is_read_up_to_its_own_brace(text, content):
  assert boxes.last(text).content == content


def test_boxes_inside_a_box_belong_to_it():
  text = r"\boxed{a \boxed{b}} \boxed{c}"
  assert [box.content for box in boxes.outermost(text)] == [r"a \boxed{b}", "c"]
  assert [text[box.start : box.end] for box in boxes.outermost(text)][1] == r"\boxed{c}"
  assert boxes.last(r"\boxed{a \boxed{b}}").content == "b"
  assert boxes.last("none") is None and boxes.outermost("none") == []


def test_data_rules_and_verifier_read_the_same_box():
  for boxed in (r"\boxed{27}", r"\fbox{27}", r"\boxed 27"):
    response = f"<no_think>so 27 = {boxed}</no_think>"
    assert catalog.boxed(f"so {boxed}") == "27"
    assert rules.exact_match("", response, "27") == rules.numeric("", response, "27") == 1.0
    assert verify("27", response).correct
    assert not verify("2", response).correct


@pytest.mark.parametrize("text", [r"\boxed{" * 20_000, r"\boxed" + " " * 100_000])
def test_hostile_text_takes_linear_time(text):
  start = time.thread_time()  # whatever else the machine does
  boxes.outermost(text)
  boxes.last(text)
  assert time.thread_time() - start < 1.0
