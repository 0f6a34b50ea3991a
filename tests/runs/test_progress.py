"""What a terminal and a log are told while a stage trains, and where it ends early."""

import pytest

from experiments.configs import arithmetic
from lhrm_jax.runs import early_stop, progress


@pytest.fixture
def clock(monkeypatch):
  """Eleven seconds from each look to the next."""
  now = iter(range(0, 10_000, 11))
  monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))


def test_a_log_has_a_line_now_and_then_with_the_time_left(clock, capsys):
  with progress.ProgressBar("HGPO", 10) as bar:
    bar.update(1, {"loss": 0.5})
    bar.update(2, {"loss": 0.25})
  assert capsys.readouterr().out.splitlines() == [
    "HGPO 1/10  loss 0.500  99 s left",
    "HGPO 2/10  loss 0.250  88 s left",
  ]


def test_time_left_counts_the_steps_of_this_process_alone(clock, capsys):
  with progress.ProgressBar("HGPO", 1000) as bar:
    bar.update(901, {})
  assert capsys.readouterr().out.endswith(f"{11 * 99} s left\n")


def test_a_stage_that_may_end_early_says_at_most_and_why_it_ended(clock, capsys):
  c = arithmetic.get_config().hft
  accuracy = {"eval/think": 0.9967, "eval/no_think": 1.0}
  with progress.ProgressBar("HFT", c.steps, at_most=True) as bar:
    bar.update(1600, {})
    bar.say(early_stop.stopped_early(1600, c, accuracy))
  line, why = capsys.readouterr().out.splitlines()
  assert line == "HFT 1600/3000  at most 15400 s left"
  assert why == (
    "HFT ends at step 1600 of 3000: the accuracies of hft.until are reached (think 0.997 of 0.99 "
    "and no_think 1.000 of 0.99)."
  )
