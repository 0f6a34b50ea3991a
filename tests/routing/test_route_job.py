"""`experiments.route`: what it prints, and what it says of a wrong router."""

import json
import types

import numpy as np
import pytest

from experiments import route
from lhrm_jax import routing
from lhrm_jax.errors import UserError


@pytest.fixture
def ask(monkeypatch, capsys):
  def run(*questions, router="keywords", think_rate=None):
    for flag, value in (("_ROUTER", router), ("_THINK_RATE", think_rate)):
      monkeypatch.setattr(route, flag, types.SimpleNamespace(value=value), raising=False)
    route.main(["route", *questions])
    return capsys.readouterr().out.splitlines()

  return run


def test_it_prints_decision_probability_and_what_an_untrained_model_is_sent(ask):
  lines = ask("What is 17 * 23?", "Say\x1b[31m hello.")
  assert lines[0] == "think   p = 0.500, threshold 0.500, keywords"
  assert lines[1] == "  message: What is 17 * 23? /think"
  request = json.loads(lines[2].removeprefix("  request: "))
  assert request["messages"] == [{"role": "user", "content": "What is 17 * 23?"}]
  assert request["chat_template_kwargs"] == {"enable_thinking": True}
  assert lines[3].startswith("no_think   p = 0.000") and lines[4].endswith(
    "\\x1b[31m hello. /no_think"
  )
  assert json.loads(lines[5].removeprefix("  request: "))["messages"][0]["content"][3] == "\x1b"


def test_a_trained_router_is_read_and_turned_to_a_think_rate(ask, tmp_path):
  examples = routing.Examples(["a", "b?", "c+d", "2*2+2"], np.zeros(4, bool), np.zeros(4))
  routing.save(tmp_path / "r.json", routing.train("keywords", examples))
  path = str(tmp_path / "r.json")
  assert ask("2*2+2", "1+1", router=path, think_rate=0.25)[::3] == [
    "think   p = 0.667, threshold 0.583, keywords",
    "no_think   p = 0.500, threshold 0.583, keywords",
  ]


@pytest.mark.parametrize(
  "router, think_rate, why",
  [
    ("keyword", None, "did you mean 'keywords'"),
    ("logistic", None, "'logistic' must be trained"),
    ("missing.json", None, "there is no file missing.json"),
    ("keywords", 0.3, "no training prompts to calibrate"),
  ],
)
def test_a_wrong_router_is_a_users_error(ask, router, think_rate, why):
  with pytest.raises(UserError, match=why):
    ask("Hello!", router=router, think_rate=think_rate)
  with pytest.raises(UserError, match="Ask a question"):
    ask()
