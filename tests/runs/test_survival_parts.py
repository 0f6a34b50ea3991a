"""Small parts of what makes a run survive: logs, gates, signals, skipped updates."""

import os
import signal
import subprocess
import sys
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lhrm_jax import parallel
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.objectives.masked import SumCount
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.rewards.scoring import Judgements
from lhrm_jax.runs import gates, log_files, nonfinite
from lhrm_jax.runs.metric_writer import MetricWriter, read_metrics
from lhrm_jax.runs.preemption import EXIT_STATUS
from lhrm_jax.runs.rollout_log import as_markdown
from lhrm_jax.training import state as train_state
from lhrm_jax.training import update


def test_logs_end_where_the_checkpoint_saw_them(tmp_path):
  writer = MetricWriter(tmp_path)
  writer.scalars("hgpo", 1, {"reward": 0.5})
  writer.flush()
  then = log_files.sizes(tmp_path)
  writer.scalars("hgpo", 2, {"reward": 0.6})
  writer.close()
  (tmp_path / "rollouts").mkdir()
  (tmp_path / "rollouts" / "train.jsonl").write_text('{"step": 2, "half')
  log_files.cut(tmp_path, then)
  assert [row["step"] for row in read_metrics(tmp_path, "hgpo")] == [1]
  assert log_files.sizes(tmp_path) == then
  assert not (tmp_path / "rollouts" / "train.jsonl").exists()

  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  events = EventAccumulator(str(tmp_path / "tensorboard" / "hgpo"))
  events.Reload()
  assert [event.step for event in events.Scalars("reward")] == [1]


def test_a_resumed_run_is_introduced_to_tensorboard_once(tmp_path, monkeypatch):
  """Hyperparameters, config and layout are in a stage's first file and truncated with it."""
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  for step in (1, 2):
    monkeypatch.setattr(os, "getpid", lambda process=step: process)
    writer = MetricWriter(tmp_path, {"a": "*b*"}, {"seed": 3, "task": "x", "flag": True})
    writer.scalars("hgpo", step, {"mode/think_rate": 0.5, "loss": np.nan})
    writer.log("evaluation", 1, {"hacc/score": 0.5})
    writer.flush()
    old = log_files.sizes(tmp_path)
    writer.close()
  assert len([name for name in old if name.startswith("tensorboard/hgpo/events.")]) == 2
  events = EventAccumulator(str(tmp_path / "tensorboard" / "hgpo"), size_guidance={"tensors": 0})
  events.Reload()
  assert [event.step for event in events.Scalars("Mode/think_rate")] == [1, 2]
  assert events.Tags()["scalars"] == ["Mode/think_rate"]
  (config,) = events.Tensors("config/text_summary")
  assert b'    "a": "*b*"' in config.tensor_proto.string_val[0], "indented, so shown verbatim"
  assert len(events.Tensors("custom_scalars__config__")) == 1
  assert events.SummaryMetadata("_hparams_/session_start_info")
  assert read_metrics(tmp_path, "evaluation"), "in metrics.jsonl, and no run of TensorBoard's"


def test_logs_of_a_run_that_had_one_folder_of_events_are_still_cut(tmp_path):
  (tmp_path / "tensorboard").mkdir()
  old = tmp_path / "tensorboard" / "events.out.tfevents.1.host"
  old.write_bytes(b"12345")
  log_files.cut(tmp_path, {"tensorboard/events.out.tfevents.1.host": 3})
  assert old.read_bytes() == b"123"


def test_a_run_that_starts_over_keeps_the_old_logs_and_the_evaluation_of_another_policy(tmp_path):
  for _ in range(2):
    writer = MetricWriter(tmp_path)
    writer.scalars("hft", 1, {"loss": 2.0})
    writer.close()
    (tmp_path / "evaluation" / "hft").mkdir(parents=True)
    log_files.set_aside(tmp_path, evaluations=True)
    assert not list((tmp_path / "evaluation").glob("*"))
  assert not log_files.sizes(tmp_path)
  for number in (1, 2):
    assert read_metrics(tmp_path / f"abandoned-{number}", "hft")
    assert (tmp_path / f"abandoned-{number}" / "evaluation" / "hft").is_dir()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(config, where, value):
  optimizer = train_state.make_optimizer(
    optax.constant_schedule(1e-3), weight_decay=0.1, clip_norm=1.0
  )
  mesh = parallel.make_mesh()
  before = train_state.create(config, optimizer, mesh, jax.random.key(0))
  grads = jax.tree.map(jnp.ones_like, before.params)
  good = SumCount(jnp.float32(3.0), jnp.float32(2.0))
  bad = SumCount(jnp.float32(value), jnp.float32(2.0)) if where == "loss" else good
  spoilt = grads
  if where == "gradient":
    spoilt = {**grads, "embedding": grads["embedding"].at[0, 0].set(value)}
  apply = jax.jit(
    lambda state, loss, g: update.apply_gradients(
      optimizer, optax.constant_schedule(1e-3), state, loss, g, {}
    )
  )
  state = before
  for in_a_row in (1, 2):
    state, metrics = apply(state, bad, spoilt)
    assert int(metrics["skipped_in_a_row"]) == in_a_row
  jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
  jax.tree.map(np.testing.assert_array_equal, state.opt_state, before.opt_state)
  assert int(state.step) == 2
  state, metrics = apply(state, good, grads)
  assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (2, 0)
  # The update after is the one that an untouched state makes.
  untouched, _ = apply(before, good, grads)
  jax.tree.map(np.testing.assert_array_equal, state.params, untouched.params)


def test_the_guard_dumps_what_can_be_loaded_and_ends_at_its_limit(tmp_path, rollouts):
  params = {"embedding": jnp.arange(6.0).reshape(2, 3)}
  told: list[str] = []
  guard = nonfinite.NonFiniteGuard(tmp_path, "hgpo", limit=2, dumps=1, report=told.append)
  metrics = {"skipped_in_a_row": 0, "loss": 1.0, "grad_norm": 1.0}
  guard.check(1, metrics, params, rollouts)
  assert not told
  spoilt = {"skipped_in_a_row": 1, "loss": np.nan, "grad_norm": np.nan}
  guard.check(2, spoilt, params, rollouts)
  assert "hgpo step 2: loss nan" in told[0]
  with pytest.raises(nonfinite.NonFiniteError, match="2 updates in a row"):
    guard.check(3, {**spoilt, "skipped_in_a_row": 2}, params, rollouts)
  assert [p.name for p in tmp_path.iterdir()] == ["hgpo-000002"], "one dump was allowed"
  about, kept, batch = nonfinite.load_dump(tmp_path / "hgpo-000002")
  assert about == {"stage": "hgpo", "step": 2}
  np.testing.assert_array_equal(kept["embedding"], params["embedding"])
  again = nonfinite.rebuild(type(rollouts), batch)
  jax.tree.map(np.testing.assert_array_equal, again, rollouts)


def test_a_pinned_mode_warns_once_with_advice_and_counts_on_after_a_resume():
  told: list[str] = []
  (gate,) = gates.standard(gates.GatesConfig(pinned_steps=3))
  watch = gates.Gates([gate], report=told.append)
  watch.replay([{"mode/think_prob": 0.999}, {"eval/accuracy": 1.0}])  # logged before
  states = [watch.check(s, {"mode/think_prob": 0.999})["gate/mode_collapse"] for s in (2, 3, 4)]
  assert states == [0, 1, 1]
  assert len(told) == 1 and "hgpo.tag_weight" in told[0]
  assert watch.check(5, {"mode/think_prob": 0.5}) == {"gate/mode_collapse": 0}


def test_a_gate_that_stops_ends_the_run_also_on_nan():
  standing = gates.standard(gates.GatesConfig(max_logp_difference=0.1, pinned_steps=0))
  watch = gates.Gates(standing, stop=True)
  name = "sampling/sampling_logp_difference/mean"
  assert watch.check(1, {name: 0.05}) == {"gate/logp_difference": 0}
  for value in (0.2, np.nan):
    with pytest.raises(gates.GateError, match="sampler and trainer disagree"):
      watch.check(2, {name: value})


MARKUP = [
  "7*9+1*9",
  "a|b",
  "one\ntwo",
  "`code`",
  "```\nfenced\n```",
  "![x](http://evil/x.png)",
  "1. one",
  "[here](http://evil)",
  "<b>bold</b>",
  "<script>alert(1)</script>",
  "# title",
  "    indented",
  "_a_ __b__",
  "$x_1$",
  "a\\*b\\|c",
  "&lt;b&gt; &#42;",
  "http://evil.org",
  "<http://evil.org>",
  "- item\n- item",
  "> quote",
  "|---|---|",
  "---",
  "two  spaces ",
  "\ttab",
  "[ref]: http://evil",
  "~~gone~~",
  "<!-- hidden -->",
  "é 中 ✓",
  "",
  "\\begin{a} & b \\\\ \\end{a}",
  "\r\n",
  "a\u2028b",
]


def scored(rows, texts, scores):
  """Rollouts of which only rows, texts and scores mean anything."""
  texts = np.array(texts, object).reshape(scores.shape)
  return ScoredRollouts(rows, None, texts, None, None, Judgements(scores, {}, None))


@pytest.mark.parametrize("text", MARKUP)
def test_tensorboard_shows_rollouts_as_they_are(text):
  """Through the renderer that its text page uses."""
  from tensorboard.plugin_util import markdown_to_safe_html

  rows = [PromptRow(text, text, 1)] * 2
  scores = np.array([[[1.0], [0.0]]] * 2)
  html = markdown_to_safe_html(as_markdown(scored(rows, [text] * 4, scores)))
  table = ElementTree.fromstring(f"<all>{html.replace('<br>', '<br/>')}</all>")
  tags = {element.tag for element in table.iter()} - {"br"}
  assert tags == {"all", "table", "thead", "tbody", "tr", "th", "td", "strong"}
  assert not any(element.attrib for element in table.iter())
  shown = [["".join(_lines(cell)) for cell in row] for row in table.iter("tr")][1:]
  as_it_is = text.replace("\t", "  ").replace("\r", "\\r").replace("\u2028", "\\u2028")
  assert shown == [["1", as_it_is, as_it_is, f"✓ {as_it_is}".rstrip(" " * (not text)),
                    f"✗ {as_it_is}".rstrip(" " * (not text))]] * 2  # fmt: skip


def test_no_text_of_special_characters_is_markup():
  from tensorboard.plugin_util import markdown_to_safe_html

  characters, rng = np.array(list("\\`*_{}[]()#+-.!|<>&;:/~ a0\n\"'")), np.random.default_rng(0)
  texts = ["".join(rng.choice(characters, rng.integers(1, 24))) for _ in range(400)]
  rows = [PromptRow(text, text) for text in texts]
  scores = np.ones((len(rows), 1, 1))
  html = markdown_to_safe_html(as_markdown(scored(rows, texts, scores), prompts=len(rows)))
  table = ElementTree.fromstring(f"<all>{html.replace('<br>', '<br/>')}</all>")
  cells = [["".join(_lines(cell)) for cell in row] for row in table.iter("tr")][1:]
  assert [row[1:3] for row in cells] == [[text, text] for text in texts]


def _lines(cell):
  """The texts of a cell, with its breaks."""
  for element in cell.iter():
    if element.tag == "br":
      yield "\n"
    yield (element.text or "").replace("\u00a0", " ")
    if element is not cell:
      yield (element.tail or "").replace("\u00a0", " ")


SIGNALLED = """
import time
from lhrm_jax.runs.preemption import Preempted, Preemption
with Preemption() as preemption:
  print("ready", flush=True)
  step = 0
  while not preemption.reached(step):
    step += 1
    time.sleep(0.01)
  print("saving", flush=True)
  time.sleep(30)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_the_step_and_a_second_ends_the_process(number):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  process = subprocess.Popen(
    [sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True, env=environment
  )
  assert process.stdout.readline() == "ready\n"
  process.send_signal(number)
  assert process.stdout.readline() == "saving\n"
  process.send_signal(number)
  assert process.wait(timeout=5) == 128 + number
  process.stdout.close()
  assert EXIT_STATUS == 75, "documented; schedulers are told to restart on it"
