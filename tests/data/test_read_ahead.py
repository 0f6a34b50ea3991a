"""Reading ahead: every item once and in order, made before it is asked for, errors passed on."""

import threading
import time

import pytest

from lhrm_jax.data.read_ahead import ReadAhead


def test_the_next_items_are_made_while_one_is_used():
  made, others = [], threading.Event()

  def make(step):
    made.append(step)
    if step == 2:
      others.set()
    return step * 10

  with ReadAhead(make, stop=5, ahead=2) as ahead:
    assert ahead.take(0) == 0
    assert others.wait(10), "steps 1 and 2 are made without being asked for"
    assert [ahead.take(step) for step in range(1, 5)] == [10, 20, 30, 40]
  assert made == [0, 1, 2, 3, 4], "each once, none beyond the last"


def test_a_step_out_of_order_is_made_on_demand():
  with ReadAhead(lambda step: step, stop=100) as ahead:
    assert [ahead.take(step) for step in (7, 3, 50)] == [7, 3, 50]


def test_an_error_is_raised_where_its_item_is_taken_and_leaving_does_not_wait_for_the_rest():
  def make(step):
    if step == 1:
      raise ValueError("a damaged shard")
    if step > 1:
      time.sleep(0.05)
    return step

  began = time.perf_counter()
  with ReadAhead(make, stop=1000, ahead=500) as ahead:
    assert ahead.take(0) == 0
    with pytest.raises(ValueError, match="a damaged shard"):
      ahead.take(1)
  assert time.perf_counter() - began < 5
