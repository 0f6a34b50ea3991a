"""What a user sees who mistypes: one line that says what, where, and the nearest right thing."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import jax
import pytest
from absl import flags

from experiments.configs import arithmetic
from lhrm_jax.errors import UserError
from lhrm_jax.parallel import platforms as jax_platforms
from lhrm_jax.runs import command_line
from lhrm_jax.runs.config import plain
from lhrm_jax.runs.json_files import write_json
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.storage.bucket import Bucket
from lhrm_jax.storage.urls import BucketError
from lhrm_jax.training import state as train_state

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "experiments/configs/arithmetic.py"


def run(module, *arguments):
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{module}", *arguments],
    cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    timeout=120, check=False,
  )  # fmt: skip


# Each starts a job, which takes seconds to import JAX; in the suite, one of every kind.
MISTAKES = [
  (["--config", CONFIG, "--config.hgpo.detla=0.4"], "Did you mean --config.hgpo.delta?"),
  (["--config", "experiments/configs/arithmetics.py"], "Did you mean experiments/configs/arith"),
  (["--config", CONFIG, "--config.init_from=/nowhere"], "neither a run folder"),
  (["--config", CONFIG, "--config.hgpo.micro_batches=5"], "hgpo.micro_batches is gone"),
]
MORE_MISTAKES = [
  (["--config", CONFIG, "--config.hpgo.delta=0.4"], "Did you mean --config.hgpo.delta?"),
  (["--config", CONFIG, "--config.hgpo.steps=many"], "hgpo.steps"),
  (["--config", CONFIG, "--config.task=aritmetic"], "did you mean 'arithmetic'"),
  (["--config", CONFIG, "--config.reward=exactmatch"], "did you mean 'exact_match'"),
  (["--config", CONFIG, "--config.mesh.data=64"], "mesh: data=64"),
  (["--config", CONFIG, "--config.data.max_prompt_tokens=60"], "max_positions=64"),
  (["--config", CONFIG, "--config.hgpo.advantage=hpgo"], "did you mean 'hgpo'"),
  (["--config", CONFIG, "--config.hgpo.pairing=pairs"], "hgpo.pairing='pairs'"),
]


@pytest.mark.parametrize(
  "arguments, message",
  [*MISTAKES, *(pytest.param(*mistake, marks=pytest.mark.slow) for mistake in MORE_MISTAKES)],
)
def test_mistakes_are_explained(tmp_path, arguments, message):
  result = run("hgpo", *arguments, "--workdir", str(tmp_path / "run"))
  assert result.returncode != 0
  assert message in result.stderr
  assert "Traceback" not in result.stderr
  assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_bucket_out_of_reach_is_an_error_only_at_the_end(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  url, config = f"file://{tmp_path}/bucket/run", arithmetic.get_config()
  optimizer = train_state.make_optimizer(lambda _: 0.1, weight_decay=0.0, clip_norm=1.0)
  state = train_state.from_params({"w": jax.numpy.ones(2)}, optimizer)

  def out_of_reach(_):
    raise BucketError("the bucket is out of reach.")

  with (
    pytest.raises(UserError, match=r"whole in .* run the same command to copy it"),
    monkeypatch.context() as patch,
    RunFolder(url, config, ("hft",)) as folder,
  ):
    write_json(folder.path / "config.json", plain(config))
    patch.setattr(Bucket, "upload", out_of_reach)
    folder.checkpoints["hft"].save(state, 1, lambda: {"logs": {}}, now=True)
    folder.checkpoints["hft"].wait()
    assert "warning: the bucket is out of reach" in capsys.readouterr().err

  copied = tmp_path / "bucket" / "run" / "checkpoints" / "hft" / "1" / "checksums.sha256"
  assert not copied.exists()
  with RunFolder(url, config, ("hft",)) as folder:
    assert folder.newest.step == 1
  assert copied.exists()


@pytest.fixture
def parse(monkeypatch, capsys):
  """Parses a command line as a job with `--config` and `--workdir` would.

  Returns its status, what it printed, and the positional arguments.
  """
  before = set(flags.FLAGS)
  monkeypatch.setattr(command_line, "_needed", {})
  monkeypatch.setattr(command_line, "_default_config", [])

  def forget():
    for name in set(flags.FLAGS) - before:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    sys.modules.pop("config_config", None)  # the last config file
    command_line._needed.clear()
    command_line._default_config.clear()

  def run(*argv, default=None, arguments=""):
    forget()
    monkeypatch.setattr(sys, "argv", ["job", *argv])
    command_line.define_config(default)
    command_line.define_workdir(required=not default)
    try:
      return 0, "", command_line._parse(sys.argv, arguments)[1:]
    except SystemExit as ended:
      return ended.code, "".join(capsys.readouterr()), []

  yield run
  forget()


@pytest.mark.parametrize(
  ("module", "flags"),
  [
    ("sample", ["--config", "--config.KEY=VALUE"]),
    ("plan", ["--config", "--topology", "--program", "--json", "--config.KEY=VALUE"]),
  ],
)
def test_help_lists_the_flags_and_how_keys_are_set(module, flags):
  result = run(module, "--help")
  assert (result.returncode, result.stderr) == (0, "")
  assert "python -m experiments." in result.stdout
  assert re.findall(r"^  (--\S+)$", result.stdout, re.MULTILINE) == flags
  assert ("arguments: QUESTION" in result.stdout) == (module == "sample")


def test_help_says_what_is_required_and_where_the_keys_are(parse):
  status, text, _ = parse("--help", "--workdir=x")
  assert status == 0
  assert "(required)" in text and "docs/config.md lists them all" in text
  assert parse("--", "--help", default=SAMPLE, arguments="QUESTION")[2] == ["--help"]


SAMPLE = "experiments/configs/sample.py"
NEEDED = ["--config", CONFIG, "--workdir", "w"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--config and --workdir are missing, as in: --config experiments/configs/arithmetic"),
    (["--config.seed=1", "--workdir", "w"], "--config is missing"),
    (["--config", CONFIG], "--workdir is missing, as in: --workdir runs/NAME"),
    (["--workdir", "w", "--config"], "--config is missing"),
    ([*NEEDED, "hgpo.steps=3"], "'hgpo.steps=3' is not a flag"),
    ([*NEEDED, "--workdri=x"], "Did you mean: workdir"),
    ([*NEEDED, "--config.temperature=1"], "temperature?"),
    ([*NEEDED, "--config.hgpo.steps.first=1"], "Did you mean --config.hgpo.steps?"),
    ([*NEEDED, "--config.hgpo.steps=many"], "--config.hgpo.steps=many"),
    (["--config.seed=1", *NEEDED], "--config.seed=1 in argv before a value for --config"),
    (["--config", f"{CONFIG}:fast", "--workdir", "w"], "get_config() takes 0 positional"),
    (["--config=experiments/configs/qwen2_5_math_7b_hft.py:v5p", "--workdir=w"],
     "ValueError: no layout for 'v5p'"),
  ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_is_one_line(parse, arguments, message):
  status, printed, _ = parse(*arguments)
  assert status == 2
  (line,) = printed.splitlines()
  assert line.startswith("error: ") and message in line


def test_a_default_config_is_overridden_and_its_keys_are_checked(parse):
  status, _, words = parse("--config.seed=3", "Why?", default=SAMPLE, arguments="QUESTION")
  assert (status, words) == (0, ["Why?"])
  assert flags.FLAGS.config.seed == 3
  assert command_line.given_keys() == {"seed"}
  assert command_line.config_file() == pathlib.Path(SAMPLE)


def test_a_default_config_is_found_from_any_folder(parse, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  status, _, words = parse("--config.seed=3", "Why?", default=SAMPLE, arguments="QUESTION")
  assert (status, words, flags.FLAGS.config.seed) == (0, ["Why?"], 3)


def test_a_config_of_another_job_is_an_error(parse):
  status, printed, _ = parse("--config", CONFIG, "x", default=SAMPLE, arguments="QUESTION")
  assert status == 2 and len(printed.splitlines()) == 1
  assert "the config lacks dials, " in printed
  assert "max_response_tokens, temperature, top_p; experiments/configs/sample.py" in printed


@pytest.mark.parametrize(
  ("key", "nearest"), [("evaluation.temprature", "temperature"), ("init_fro", "init_from")]
)
def test_a_key_that_the_default_config_lacks_is_an_error_with_the_nearest(parse, key, nearest):
  status, printed, _ = parse(f"--config.{key}=1", "x", default=SAMPLE, arguments="QUESTION")
  assert status == 2
  assert printed == (
    f"error: --config.{key}: {SAMPLE} has no such key. Did you mean --config.{nearest}?\n"
  )


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("import nothing_of_this_name", ":1: ModuleNotFoundError"),
    ("def get_config():\n  return {}['a']", ":2: KeyError: 'a'"),
    ("def get_config():\n  raise ValueError('none')", ":2: ValueError: none"),
    ("def get_config(\n", "SyntaxError"),
    ("def get_confg(): pass", "no attribute 'get_config'"),
    ("def get_config(): pass", "get_config() returned a NoneType, not a ConfigDict"),
    ("def get_config(): open('/nowhere/x')", "/nowhere/x"),
  ],
)
def test_a_config_file_with_a_fault_is_one_line(parse, tmp_path, source, message):
  file = tmp_path / "config.py"
  file.write_text(source)
  status, printed, _ = parse("--config", str(file), "--workdir", str(tmp_path / "run"))
  assert status == 2
  (line,) = printed.splitlines()
  assert line.startswith("error: --config: ") and message in line


@pytest.mark.parametrize(
  ("chosen", "environment", "installed", "platforms"),
  [
    ("", {}, ["libtpu"], "cpu"),
    ("", {}, [], ""),  # nothing to keep JAX from
    ("", {}, ["libtpu", "jax_plugins"], ""),  # a GPU's: JAX chooses
    ("", {"JAX_FORCE_TPU_INIT": "1"}, ["libtpu"], ""),
    ("tpu,cpu", {}, ["libtpu"], "tpu,cpu"),  # as JAX sets them where it sees chips
  ],
)
def test_libtpu_is_left_alone_where_there_is_no_tpu(
  monkeypatch, chosen, environment, installed, platforms
):
  class Settings:
    jax_platforms = chosen

    def update(self, name, value):
      setattr(self, name, value)

  settings = Settings()
  monkeypatch.setattr(jax_platforms.jax, "config", settings)
  monkeypatch.setattr(jax_platforms, "find_spec", lambda name: name in installed or None)
  jax_platforms.settle_platform(environment)
  assert settings.jax_platforms == platforms


@pytest.mark.parametrize(
  ("chosen", "installed", "cores", "before", "after"),
  [
    ("", [], 2, "", "--xla_cpu_parallel_codegen_split_count=1"),
    ("cpu", ["libtpu"], 2, "--xla_a=1", "--xla_a=1 --xla_cpu_parallel_codegen_split_count=1"),
    ("cpu", [], 2, *["--xla_cpu_parallel_codegen_split_count=8"] * 2),
    ("cpu", [], 64, "", ""),
    ("tpu,cpu", ["libtpu"], 2, "", ""),
    ("", ["jax_plugins"], 2, "--xla_a=1", "--xla_a=1 --xla_gpu_dot_merger_threshold_mb=0"),
    ("", ["jax_plugins"], 2, *["--xla_gpu_dot_merger_threshold_mb=64"] * 2),
    ("", ["jax_plugins"], 2, *["/etc/xla_flags"] * 2),  # a file that holds them
  ],
)
def test_few_cores_compile_in_one_part_and_gpus_merge_no_products(
  monkeypatch, chosen, installed, cores, before, after
):
  settings = types.SimpleNamespace(jax_platforms=chosen, update=lambda name, value: None)
  monkeypatch.setattr(jax_platforms.jax, "config", settings)
  monkeypatch.setattr(jax_platforms, "find_spec", lambda name: name in installed or None)
  monkeypatch.setattr(jax_platforms.importlib.metadata, "entry_points", lambda group: ())
  monkeypatch.setattr(jax_platforms.os, "sched_getaffinity", lambda _: set(range(cores)))
  environment = {"XLA_FLAGS": before}
  jax_platforms.settle_platform(environment)
  assert environment["XLA_FLAGS"] == after


ENDING = """
import atexit, sys, time
from lhrm_jax.runs import command_line

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
