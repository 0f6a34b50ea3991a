"""Hostile configs: each is refused with its key, or runs."""

import contextlib
import math
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import hgpo
from experiments.configs import arithmetic
from lhrm_jax.config import flatten
from lhrm_jax.errors import UserError
from lhrm_jax.runs import setup
from lhrm_jax.runs.config import KNOBS, STAGES
from lhrm_jax.runs.demonstrations import demonstration_batch

CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
CONFIGS = 500
RUNS = 12  # of those accepted, by the slow test

WORDS = ("many", "", " ", "\x00", "\ud800", "x" * 5000, "~nobody/x", "package:nothing", "1,2", ".")
NUMBERS = (-1, 0, 1, 2, 3, 7, 64, 1000, 10**12, 10**400, -(2**63), 0.5, 2.0, -0.25, 1e-30, 1e30)
ODD = (None, True, False, math.nan, math.inf, -math.inf, b"2", [], {}, (1, 2), [None], 1j, object)
# Where a user fills in names.
NAMED = {
  "reward_weights": (
    {"exact_match": 1.0, "length": 0.1}, {"total": 1.0}, {"exact_match": "much"},
    {"exact_match": math.nan}, {"nothing": 1.0}, 3,
  ),
  "data.sources": (
    {"mine": 3}, {"mine": {}}, {"mine": {"path": 3}}, {"mine": {"path": "no.jsonl"}},
    {"mine": {"path": "rows.csv"}}, {"mine": {"path": "hf:x", "columns": "prompt"}},
    {"mine": {"path": "hf:x", "split": 3}}, {"mine": {"path": "hf:x", "streaming": "yes"}},
    {"mine": {"path": "~nobody/x.jsonl"}}, {"mine": {"path": "hf:x", "constants": [1]}},
    {"mine": {"path": "hf:x", "columns": {"prompt": 3}}}, {"mine": {"path": "hf:x", "format": []}},
  ),
  "task": ("rows", "reasoning", "arithmetics"),
  "hgpo.advantage": ("grpo", "rloo", "dr_grpo", "hpgo"),
  "hgpo.pairing": ("free",),
  "hgpo.estimator": ("rloo", "reinforce_pp"),
  "hgpo.aggregation": ("sequence_mean", "sequence_sum", "constant_length"),
  "policy.attention": ("cudnn", "splash", "xla"),
  "policy.remat": ("dots", "full"),
  "policy.dtype": ("bfloat16", "float64", "int8"),
  "data.long_prompts": ("skip", "truncate_left"),
  "data.long_demonstrations": ("skip",),
  "data.prompts": ("mine", "gsm9k", "no.jsonl", "mine,,mine"),
  "profile_steps": ("3:1", "-1", "1:x"),
}  # fmt: skip


def tiny() -> ConfigDict:
  """A run of both stages that takes seconds, most of them compiling."""
  config = arithmetic.get_config()
  config.compilation_cache = ""
  config.update_from_flattened_dict({
    "policy.hidden_size": 16, "policy.intermediate_size": 24, "policy.num_layers": 1,
    "policy.num_heads": 2, "policy.num_kv_heads": 2,
    "hft.steps": 1, "hft.think_per_step": 3, "hft.no_think_per_step": 4,
    "hft.until.check_every": 100, "hgpo.steps": 1, "hgpo.prompts_per_step": 4,
    "hgpo.samples_per_mode": 2, "hgpo.eval_every": 0,
    "evaluation.prompts": 4, "evaluation.batch_prompts": 4, "evaluation.samples": 1,
  })  # fmt: skip
  return config


def pick(rng: np.random.Generator, values):
  return values[rng.integers(len(values))]


def put(config: ConfigDict, key: str, value) -> None:
  """Sets a key to a value of any type, as a config file can."""
  *sections, name = key.split(".")
  for section in sections:
    config = config[section]
  with config.unlocked(), config.ignore_type():
    config[name] = value


def hostile(seed: int) -> tuple[ConfigDict, dict]:
  """The tiny config with one to three keys changed, and these."""
  rng = np.random.default_rng(seed)
  config = tiny()
  keys = [key for key, _ in flatten(config, KNOBS)]
  changed = {}
  for _ in range(rng.choice([1, 1, 2, 3])):
    key = pick(rng, list(NAMED)) if rng.random() < 0.3 else pick(rng, keys)
    if rng.random() < 0.02:
      key = key.partition(".")[0]  # a whole section
    usual = isinstance(dict(flatten(config, KNOBS)).get(key), int | float)
    values = pick(rng, (NUMBERS, NUMBERS, NUMBERS, ODD) if usual else (WORDS, WORDS, ODD, NUMBERS))
    if key in NAMED and rng.random() < 0.7:
      values = NAMED[key]
    value = pick(rng, values)
    if any(f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.") for other in changed):
      continue
    try:
      put(config, key, value)
    except OverflowError:  # ml_collections itself takes no such number
      continue
    changed[key] = value
  if "data.sources" in changed and "data.prompts" not in changed and "task" not in changed:
    changed |= {"task": "rows", "data.prompts": "mine"}  # else nothing reads them
    put(config, "task", "rows")
    put(config, "data.prompts", "mine")
  return config, changed


def prepared(config: ConfigDict) -> setup.Setup:
  """All that a job does before it compiles, and the first batch."""
  run = setup.make(config)
  setup.check_rows(run, STAGES)
  run.evaluator()
  demonstration_batch(run, 0)
  return run


def outcome(seed: int) -> tuple[setup.Setup | None, dict]:
  """The set-up run, or `None` where it was refused and a key at fault was named."""
  config, changed = hostile(seed)
  try:
    return prepared(config), changed
  except UserError as error:
    named = [
      key for key in changed if key in str(error) or f"{key.partition('.')[0]}:" in str(error)
    ]
    assert named, (changed, str(error))
    assert len(str(error)) < 3000, changed
    return None, changed
  except BaseException as error:
    error.add_note(f"seed {seed}: {changed}")
    raise


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
  """Hostile paths are relative to an empty folder, and what a config sets in JAX is undone."""
  kept = {name: getattr(jax.config, name) for name in CACHE}
  folder = tmp_path_factory.mktemp("fuzz")
  with contextlib.chdir(folder):
    yield
  for name, value in kept.items():
    jax.config.update(name, value)


@pytest.fixture(scope="module")
def accepted():
  outcomes = {seed: outcome(seed) for seed in range(CONFIGS)}
  return {seed: changed for seed, (run, changed) in outcomes.items() if run is not None}


def test_hostile_configs_are_refused_with_their_key_or_set_up(accepted):
  assert CONFIGS // 20 < len(accepted) < CONFIGS // 2, "some of both, or this tests little"


def complete(config: ConfigDict, workdir, monkeypatch) -> None:
  """`python -m experiments.hgpo`, in this process."""
  put(config, "compilation_cache", "cache")  # most of their programs are the same
  monkeypatch.setattr(hgpo, "_CONFIG", types.SimpleNamespace(value=config), raising=False)
  monkeypatch.setattr(hgpo, "_WORKDIR", types.SimpleNamespace(value=str(workdir)), raising=False)
  hgpo.main(())


@pytest.mark.slow
def test_values_at_the_edge_of_what_is_allowed_run(tmp_path, monkeypatch):
  config = tiny()
  config.update_from_flattened_dict({
    "hft.warmup_steps": 0, "hft.no_think_per_step": 0, "hft.packed_length": 49,
    "hft.learning_rate": 0.0, "hft.until.no_think_levels": (), "hft.until.check_every": 1,
    "hft.until.think": 1.0, "hgpo.clip_low": 1.0,
    "hgpo.clip_high": 0.0, "hgpo.alpha": 0.0, "hgpo.tag_weight": 0.0, "hgpo.ddof": 1,
    "hgpo.delta": 1e30, "hgpo.micro_batch_rows": 1000, "hgpo.sampling_chunks": 4,
    "hgpo.decode_slots": 3, "hgpo.packed_length": 49, "hgpo.temperature": 0.01,
    "checkpoint.every": 1, "checkpoint.keep": 1, "numerics.max_dumps": 0, "gates.pinned_steps": 0,
    "policy.num_kv_heads": 1, "policy.logprob_chunk": 1, "policy.attention_chunk": 7,
    "evaluation.prompts": 1, "evaluation.hacc_temperature": 0.0,
  })  # fmt: skip
  complete(config, tmp_path / "run", monkeypatch)
  assert (tmp_path / "run" / "report" / "index.html").exists()


def cost(config: ConfigDict) -> float:
  """Tokens times parameters of a step, roughly."""
  h, p, data = config.hgpo, config.policy, config.data
  rows = h.prompts_per_step * h.samples_per_mode * h.updates_per_rollout * h.steps
  rows += (config.hft.think_per_step + config.hft.no_think_per_step) * config.hft.steps
  rows += config.evaluation.batch_prompts + config.evaluation.prompts * config.evaluation.samples
  length = max(data.max_prompt_tokens + data.max_response_tokens, config.hft.packed_length)
  return rows * length * p.num_layers * p.hidden_size * (p.hidden_size + p.intermediate_size)


@pytest.mark.slow
def test_what_is_accepted_runs(accepted, tmp_path, monkeypatch):
  affordable = [seed for seed in accepted if cost(hostile(seed)[0]) < 1e7]
  chosen = np.random.default_rng(0).permutation(affordable)[:RUNS]
  assert len(chosen) == RUNS
  for seed in chosen:
    try:
      complete(hostile(seed)[0], tmp_path / str(seed), monkeypatch)
    except BaseException as error:
      error.add_note(f"seed {seed}: {accepted[seed]}")
      raise
