"""Every benchmark runs at a tiny size and writes figures that are finite and of the work asked."""

import dataclasses
import json
import math
import stat
import subprocess
import sys

import pytest

from benchmarks import gpu, measuring, peers, rollout, scaling, step, update
from benchmarks.drivers.protocol import Workload

SHAPE = ["--prompts=2", "--samples=2", "--prompt-tokens=8", "--response-tokens=16", "--repeats=1"]
WORKLOAD = Workload(512, 64, 64, 1, 2, 1, prompts=2, samples=4, prompt_tokens=8, response_tokens=16)


@pytest.fixture
def small(monkeypatch):
  shape = dataclasses.replace(
    measuring.SHAPES["tiny"], hidden_size=32, intermediate_size=32, num_layers=1, vocab_size=64
  )
  monkeypatch.setitem(measuring.SHAPES, "tiny", shape)


def run(main, tmp_path, *arguments):
  """What a benchmark writes."""
  out = tmp_path / "figures.json"
  main([*arguments, f"--out={out}"])
  report = json.loads(out.read_text())
  for path, value in leaves(report):
    assert not isinstance(value, float) or math.isfinite(value), path
  for path, value in leaves(report):
    if path[-1] == "roofline_seconds":
      assert value > 0, path
  return report


def leaves(tree, path=()):
  if isinstance(tree, dict | list):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, value in items:
      yield from leaves(value, (*path, name))
  else:
    yield path, tree


def test_rollout(small, tmp_path):
  report = run(
    rollout.main,
    tmp_path,
    *SHAPE,
    "--long-prompt=16",
    "--group-sizes",
    "1",
    "2",
    "--slots",
    "0",
    "2",
  )
  hybrid, full = report["hybrid"], report["full"]
  assert full["response_tokens"] == 2 * 2 * 2 * 16
  assert hybrid["response_tokens"] == 2 * 2 * (16 + 2)
  assert full["live_slots"] == 1
  assert hybrid["live_slots"] < report["hybrid_slots_2"]["live_slots"] <= 1
  assert hybrid["decode"]["flops"] < full["decode"]["flops"]
  assert hybrid["compiles_after_warmup"] == full["compiles_after_warmup"] == 0
  by_samples = report["prefill_by_samples"]
  assert by_samples["samples_1"]["flops"] == by_samples["samples_2"]["flops"]


@pytest.mark.slow
def test_step(small, tmp_path):
  report = run(step.main, tmp_path, *SHAPE)
  for mix in ("hybrid", "full"):
    figures = report[mix]
    parts = [figures[name]["seconds"] for name in ("prefill", "decode", "logprob", "update")]
    assert sum(parts) <= figures["step"]["seconds"]
    assert figures["compiles_after_warmup"] == 0
    assert figures["grad_norm"] > 0
  assert report["full"]["padding_share"] < report["hybrid"]["padding_share"]


@pytest.mark.slow
def test_update(small, tmp_path):
  report = run(update.main, tmp_path, *SHAPE, "--mixes", "hybrid", "--rows", "1", "2")
  one, two = (report[f"hybrid_rows_{rows}"] for rows in (1, 2))
  assert one["padding_share"] <= two["padding_share"]
  assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)


@pytest.mark.slow
def test_scaling(tmp_path):
  report = run(
    scaling.main, tmp_path, "--tiny", "--points=2", "--repeats=1", "--axes", "samples", "params"
  )
  assert report["params"]["values"][0] < report["params"]["values"][1]
  exponents = report["samples"]["exponents"]
  assert 0 < exponents["update"]["roofline"] <= 1  # the prompts do not grow with G


def test_an_exponent_is_the_slope_of_the_logarithms():
  assert scaling.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)


@pytest.mark.slow
def test_gpu(tmp_path):
  report = run(gpu.main, tmp_path, "--tiny", "--repeats=1")
  assert report["check"]["ok"]
  assert report["decode_batch_16"]["live_slots"] == 1
  assert report["hgpo_step"]["hybrid"]["samples_per_second"] > 0


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on(tmp_path, monkeypatch):
  def fail():
    raise MemoryError("too large")

  parts = {"decode_batch_8": fail, "check": lambda: {"ok": True}}
  monkeypatch.setattr(gpu, "parts_of", lambda *_: parts)
  monkeypatch.setattr(measuring, "machine", lambda *_: {})
  out = tmp_path / "gpu.json"
  with pytest.raises(SystemExit, match="decode_batch_8"):
    gpu.main(["--tiny", f"--out={out}"])
  report = json.loads(out.read_text())
  assert "too large" in report["decode_batch_8"]["error"]
  assert report["check"]["ok"]


@pytest.mark.slow
def test_peers_with_ours_alone(small, tmp_path):
  report = run(peers.main, tmp_path, *SHAPE, "--libraries", "ours", "--warmup=1")
  assert report["full"]["ours"]["sampled_tokens"] == 8 * 16
  assert report["hybrid"]["ours"]["sampled_tokens"] == 4 * (16 + 2)


def stub(tmp_path, reply):
  """A driver that answers every request by a Python expression of `lengths` and `turn`."""
  path = tmp_path / "stub"
  path.write_text(
    f"#!{sys.executable}\nimport json, sys\n"
    "print(json.dumps({'ready': True}), flush=True)\n"
    "for turn, line in enumerate(sys.stdin):\n"
    "  lengths = json.loads(line)\n"
    f"  print(json.dumps({reply}), flush=True)\n"
  )
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return path


def test_peers_take_turns_and_warm_up_steps_do_not_count(tmp_path):
  reply = "{{'seconds': {}, 'rollout_seconds': {}, 'tokens': sum(lengths)}}"
  # The first step of each would spoil its median.
  ours = stub(tmp_path, reply.format("99 if turn < 1 else 2 + turn", "1"))
  drivers = [peers.Driver("ours", ours, WORKLOAD)]
  trl = stub(tmp_path, reply.format("99 if turn < 1 else 12", "2"))
  drivers.append(peers.Driver("trl", trl, WORKLOAD))
  figures = peers.compare(drivers, peers.row_lengths(WORKLOAD, "hybrid"), repeats=3, warmup=1)
  for driver in drivers:
    driver.close()
  assert figures["ours"]["seconds"] == 4  # the median of 3, 4 and 5
  assert figures["trl"]["update_seconds"] == 10
  assert figures["trl"]["step_over_ours"] == 3
  assert figures["trl"]["sampled_tokens"] == 4 * (16 + 2)


def test_a_driver_that_does_other_work_or_stops_is_an_error(tmp_path):
  short = stub(tmp_path, "{'seconds': 1, 'rollout_seconds': 1, 'tokens': sum(lengths) - 1}")
  driver = peers.Driver("trl", short, WORKLOAD)
  with pytest.raises(RuntimeError, match="sampled 63 tokens, not 64"):
    driver.step([16] * 4)
  driver.close()
  stops = stub(tmp_path, "1 / 0")
  driver = peers.Driver("trl", stops, WORKLOAD)
  with pytest.raises(RuntimeError, match="ZeroDivisionError"):
    driver.step([16] * 4)
  driver.close()


def test_a_driver_needs_nothing_of_ours_installed():
  code = "import sys; sys.modules['jax'] = None; import benchmarks.drivers.protocol"
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("mix", ["hybrid", "lognormal", "full"])
def test_all_libraries_are_given_the_lengths_of_a_mix(mix):
  expected = measuring.MIXES[mix](WORKLOAD.prompts, WORKLOAD.samples // 2, 16).ravel().tolist()
  assert peers.row_lengths(WORKLOAD, mix) == expected
