"""Small policies and rollouts that many tests share."""

import dataclasses
import os

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax import parallel, policy
from lhrm_jax.data import arithmetic
from lhrm_jax.data.batches import encode_prompts
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import Prompts, SamplerSpec, sample

parallel.settle_platform()  # or every process of the tests begins with libtpu's errors
# Compiling is most of what tests wait for. These change speed and no result: without
# XLA's costlier passes, in one thread, and with the kernels of before its fusion emitters where it
# still has them, the small policy's update takes 1.5 processor seconds in place of 7. The variables
# are for jobs that tests start as processes of their own.
jax.config.update("jax_disable_most_optimizations", True)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])

# The files that take longest, first: with two workers, one that came last would run alone.
_LONGEST = (
  "test_hgpo_update.py", "test_resume.py", "test_pipeline.py", "test_decoding.py",
  "test_train_on_meshes.py", "test_sampler.py", "test_plan.py", "test_library_page.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
  def place(item) -> int:
    return _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST)

  items.sort(key=place)  # stable: all others stay in order


PROMPT_TOKENS = 22
RESPONSE_TOKENS = 9
# Several ids end a response here, so that random policies give ragged lengths.
EOS_IDS = (1, 7, 8, 9, 10)


@pytest.fixture(scope="session")
def tokenizer():
  return arithmetic.Arithmetic().tokenizer()


@pytest.fixture(scope="session")
def config(tokenizer) -> PolicyConfig:
  return small_config(tokenizer)


def small_config(tokenizer) -> PolicyConfig:
  """Every switch of the family on; unrolled."""
  return PolicyConfig(
    vocab_size=tokenizer.vocab_size,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    qkv_bias=True,
    qk_norm=True,
    scan_layers=False,
    max_positions=64,
    logprob_chunk=64,
  )


@pytest.fixture(scope="session")
def params(config) -> policy.Params:
  return sharpened(jax.jit(policy.init, static_argnums=0)(config, jax.random.key(0)))


def sharpened(params: policy.Params) -> policy.Params:
  """Random parameters with a peaked output, so that a wrong token or position shows."""
  return {**params, "embedding": 1.5 * params["embedding"]}


# Compiled once per shape: op by op, every new shape would compile dozens of small programs.
policy_logits = jax.jit(policy.logits, static_argnums=0)
policy_apply = jax.jit(policy.apply, static_argnums=0)


@pytest.fixture(scope="session")
def rows():
  """Six queries whose prompts have different lengths."""
  task = arithmetic.Arithmetic(level_mix=(1, 2, 3, 4, 5, 6))
  return task.evaluation(6)


@pytest.fixture(scope="session")
def prompts(tokenizer, rows) -> Prompts:
  return make_prompts(tokenizer, rows)


def make_prompts(tokenizer, rows, width: int = PROMPT_TOKENS, first_id: int = 0) -> Prompts:
  return Prompts(*map(jnp.asarray, encode_prompts(tokenizer, rows, first_id, width)))


def make_spec(tokenizer, **fields) -> SamplerSpec:
  """A spec with the defaults of these tests."""
  options = {"samples": 3, "max_tokens": RESPONSE_TOKENS, "paired": True, **fields}
  return dataclasses.replace(SamplerSpec.of(tokenizer, **options), eos_ids=EOS_IDS)


@pytest.fixture(scope="session")
def rollouts(config, params, tokenizer, prompts):
  """Paired rollouts, `[6, 2, 3, 9]`."""
  spec = make_spec(tokenizer)
  return sample(config, spec, params, prompts, jax.random.key(7))


@pytest.fixture(scope="session")
def s3():
  """A server of S3 on this machine, with a bucket `runs`; started processes find it too."""
  from moto.server import ThreadedMotoServer  # a second to import

  server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
  server.start()
  host, port = server.get_host_and_port()
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").mkdir("runs")
    yield
  server.stop()


def take(tree, index):
  """Rows of a pytree by index on the leading axis; scalars stay."""
  return jax.tree.map(lambda x: x[np.asarray(index)] if jnp.ndim(x) else x, tree)


def replace(tree, **fields):
  return dataclasses.replace(tree, **fields)
