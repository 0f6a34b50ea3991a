"""Training of low-rank adapters: their gradient, and what an update leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs import arithmetic
from lhrm_jax import parallel, policy
from lhrm_jax.data.arithmetic import Arithmetic
from lhrm_jax.data.batches import encode_demonstrations
from lhrm_jax.planning.chips import Topology
from lhrm_jax.planning.programs import Programs
from lhrm_jax.policy import lora
from lhrm_jax.runs.config import from_config_dict
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hft import hft_loss, make_hft_step
from lhrm_jax.training.update import gradients
from tests.policy.test_lora import BASE, base, moved, with_adapters


@pytest.fixture(scope="module")
def adapted(tokenizer):
  tags, size = tokenizer.tag_ids, tokenizer.vocab_size
  start = base(vocab_size=size, num_layers=1)
  return with_adapters(*start, tokens=(*tags.opening, *tags.closing))


@pytest.fixture(scope="module")
def batch(tokenizer):
  return encode_demonstrations(tokenizer, Arithmetic().demonstrations(0, 0, 4, 4)[0], 50)


def test_the_gradient_of_adapters_follows_from_that_of_their_kernels(adapted, batch):
  """Of K + s A B: A has the gradient s G B', and B has s A' G."""
  config, params = adapted[0], moved(adapted[1])
  plain, merged = lora.merge(config, params)

  def found(config, params):
    return jax.jit(lambda p: gradients(lambda p, b: hft_loss(config, p, b), p, batch))(params)

  loss, grads, _ = found(config, params)
  whole_loss, whole, _ = found(plain, merged)
  np.testing.assert_allclose(loss.mean(), whole_loss.mean(), rtol=1e-5)
  assert jax.tree.structure(grads) == jax.tree.structure(lora.split(params)[0])
  tags = jnp.array(config.lora_tokens)
  np.testing.assert_allclose(
    grads["embedding_rows"], whole["embedding"][tags], atol=1e-4, rtol=1e-4
  )
  layer = "layers" if config.scan_layers else "layer_0"
  scale = config.lora_alpha / config.lora_rank
  for block, name in (("mlp", "down"), ("mlp", "up")):
    mine, own = grads[layer][block][name], params[layer][block][name]
    g = whole[layer][block][name]["kernel"]
    a = scale * jnp.einsum("...io,...ro->...ir", g, own["lora_b"])
    b = scale * jnp.einsum("...ir,...io->...ro", own["lora_a"], g)
    np.testing.assert_allclose(mine["lora_a"], a, atol=1e-3, rtol=1e-4)
    np.testing.assert_allclose(mine["lora_b"], b, atol=1e-3, rtol=1e-4)


def test_updates_share_the_frozen_policy_and_remember_adapters_alone(adapted, batch):
  (config, params), mesh = adapted, parallel.make_mesh()
  schedule = optax.constant_schedule(1e-2)
  optimizer = train_state.make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
  start = train_state.restart(config, optimizer, mesh, params)
  step = make_hft_step(config, optimizer, schedule, mesh)
  state, losses = start, []
  for _ in range(8):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < losses[0] - 0.1
  assert step._cache_size() == 1

  (trained, frozen), (first, shared) = lora.split(state.params), lora.split(params)
  pairs = zip(jax.tree.leaves(frozen), jax.tree.leaves(shared), strict=True)
  assert all(mine is given for mine, given in pairs)
  assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (trained, first)), strict=True))
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert sum(x.size for x in moments) == 2 * policy.count_params(trained)


def test_a_copy_outlives_the_update_that_its_state_is_donated_to(adapted):
  _, params = adapted
  copied = train_state.copy_of(params)
  assert copied["embedding_rows"] is not params["embedding_rows"]
  assert copied["embedding"] is params["embedding"]


def test_a_plan_counts_the_moments_of_adapters_alone():
  config = from_config_dict(arithmetic.get_config())
  policy_config = dataclasses.replace(BASE, lora_rank=2, dtype="bfloat16")
  programs = Programs(config, policy_config, Topology.parse("h100:1"))
  state = programs.make("hft").args[0]
  trained, frozen = lora.split(state.params)
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert sum(x.size for x in moments) == 2 * sum(x.size for x in jax.tree.leaves(trained))
  assert trained["embedding_rows"].shape == (4, BASE.hidden_size)
  assert frozen["embedding"].dtype == jnp.bfloat16
