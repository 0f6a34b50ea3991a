"""What a user sees who mistypes: one line that says what, where, and the nearest right thing."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest

from experiments import setup
from experiments.command_line import UserError
from experiments.configs import arithmetic
from experiments.run_folder import RunFolder
from lhrm_jax.data.urls import BucketError
from lhrm_jax.training import state as train_state
from lhrm_jax.training.bucket import Bucket

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "experiments/configs/arithmetic.py"


def run(module, *arguments):
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{module}", *arguments],
    cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    timeout=120, check=False,
  )  # fmt: skip


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--config", CONFIG, "--config.hgpo.detla=0.4"], 'Did you mean "delta"'),
    (["--config", CONFIG, "--config.hpgo.delta=0.4"], 'Did you mean "hgpo"'),
    (["--config", "experiments/configs/arithmetics.py"], "Did you mean experiments/configs/arith"),
    (["--config", CONFIG, "--config.hgpo.steps=many"], "hgpo.steps"),
    (["--config", CONFIG, "--config.task=aritmetic"], "did you mean 'arithmetic'"),
    (["--config", CONFIG, "--config.reward=exactmatch"], "did you mean 'exact_match'"),
    (["--config", CONFIG, "--config.mesh.data=64"], "mesh: data=64"),
    (["--config", CONFIG, "--config.init_from=/nowhere"], "is no run folder"),
    (["--config", CONFIG, "--config.data.max_prompt_tokens=60"], "max_positions=64"),
    (["--config", CONFIG, "--config.hgpo.advantage=hpgo"], "did you mean 'hgpo'"),
    (["--config", CONFIG, "--config.hgpo.micro_batches=5"], "hgpo.micro_batches=5"),
    (["--config", CONFIG, "--config.hgpo.pairing=pairs"], "hgpo.pairing='pairs'"),
  ],
)
def test_mistakes_are_explained(tmp_path, arguments, message):
  result = run("hgpo", *arguments, "--workdir", str(tmp_path / "run"))
  assert result.returncode != 0
  assert message in result.stderr
  assert "Traceback" not in result.stderr
  assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_several_processes_do_not_share_a_bucket(tmp_path, monkeypatch):
  """Each would work in a folder of its own."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  config = arithmetic.get_config()
  with pytest.raises(UserError, match="mount the bucket"), RunFolder("gs://b/run", config, ()):
    pass
  assert not list(tmp_path.iterdir())


def test_a_bucket_out_of_reach_is_an_error_only_at_the_end(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  url, config = f"file://{tmp_path}/bucket/run", arithmetic.get_config()
  optimizer = train_state.make_optimizer(lambda _: 0.1, weight_decay=0.0, clip_norm=1.0)
  state = train_state.from_params({"w": jax.numpy.ones(2)}, optimizer)

  def out_of_reach(_):
    raise BucketError("the bucket is out of reach.")

  with (
    pytest.raises(UserError, match=r"whole in .* the same command copies it"),
    monkeypatch.context() as patch,
    RunFolder(url, config, ("hft",)) as folder,
  ):
    setup.write_json(folder.path / "config.json", setup.plain(config))
    patch.setattr(Bucket, "upload", out_of_reach)
    folder.checkpoints["hft"].save(state, 1, lambda: {"logs": {}}, now=True)
    folder.checkpoints["hft"].wait()
    assert "warning: the bucket is out of reach" in capsys.readouterr().err

  copied = tmp_path / "bucket" / "run" / "checkpoints" / "hft" / "1" / "checksums.sha256"
  assert not copied.exists()
  with RunFolder(url, config, ("hft",)) as folder:
    assert folder.newest.step == 1
  assert copied.exists()


@pytest.mark.parametrize("module", ["hft", "hgpo", "evaluate", "sample"])
def test_help_explains(module):
  result = run(module, "--help")
  assert "python -m experiments." in result.stdout
  assert "--config" in result.stdout


ENDING = """
import atexit, sys, time
from experiments import command_line

def main(argv):
  atexit.register(lambda: (print("leaving", flush=True), time.sleep(1)))

command_line.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_job_that_is_done_does_not_make_it_a_failed_one(number):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  process = subprocess.Popen(
    [sys.executable, "-c", ENDING], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
  )
  assert process.stdout.readline() == "leaving\n"
  process.send_signal(number)
  assert process.wait(timeout=20) == 0
  process.stdout.close()
