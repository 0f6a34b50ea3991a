"""Engines of a small policy that several files of tests use."""

import copy

import pytest

from lhrm_jax.policy import pages
from lhrm_jax.serving import Engine, EngineConfig

# One set of programs for all of these tests. 14 pages are fewer than three replies can fill.
KNOBS = {"slots": 3, "page_tokens": 8, "quantum": 4, "waiting": 20}
PAGES = 14


@pytest.fixture(scope="module")
def endless(tokenizer):
  """The tokenizer without an end of sequence: replies have the length they are asked for."""
  other = copy.copy(tokenizer)
  other.eos_ids = ()
  return other


@pytest.fixture(scope="module")
def make(config, params, endless):
  def make_engine(drafted_by=None, **knobs):
    of_a_draft = 2 if "draft" in knobs else 1
    mib = PAGES * of_a_draft * pages.page_bytes(config, KNOBS["page_tokens"]) / 2**20
    c = EngineConfig(**{**KNOBS, "kv_mib": mib, **knobs})
    return Engine(config, params, endless, c, " so", drafted_by)

  return make_engine
