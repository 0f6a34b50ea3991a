"""A policy whose seven responses can all be listed, so that expectations are sums.

The first token is `<think>`, `<no_think>` or neither. A thought has two more tokens and a direct
answer one, each `a` or `b`; a response of neither mode ends at once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lhrm_jax.objectives.policy_objective import (
  PolicyBatch,
  PolicyObjectiveConfig,
  policy_objective,
)

LENGTHS = np.array([3, 3, 3, 3, 2, 2, 1])
MODES = np.array([0, 0, 0, 0, 1, 1, -1])
MASK = np.arange(3) < LENGTHS[:, None]
THINK, DIRECT = np.arange(4), np.array([4, 5])

THETA = {
  "tag": jnp.array([0.9, 0.4, -1.0]),
  "think_1": jnp.array([0.3, -0.2]),
  "think_2": jnp.array([[0.5, 0.0], [-1.2, 0.1]]),
  "direct": jnp.array([-0.5, 0.3]),
}


@jax.jit
def logprobs(theta):
  """`[7, 3]`, 0 where a response has no token."""
  p = {name: jax.nn.log_softmax(logits) for name, logits in theta.items()}
  second = jnp.concatenate([jnp.repeat(p["think_1"], 2), p["direct"], jnp.zeros(1)])
  third = jnp.concatenate([p["think_2"].reshape(-1), jnp.zeros(3)])
  return jnp.stack([p["tag"][MODES], second, third], axis=1)  # mode -1 is the last logit


@jax.jit
def probabilities(theta):
  """`[7]`."""
  return jnp.exp(jnp.sum(logprobs(theta), axis=1))


def gradient(value, theta=THETA):
  """Of a scalar function of the parameters, by parameter."""
  return jax.jit(jax.grad(value))(theta)


@jax.jit
@jax.grad
def _reward_gradient(theta, rewards):
  return probabilities(theta) @ rewards


def reward_gradient(rewards, theta=THETA):
  """The exact gradient of the expected reward `[7]`."""
  return _reward_gradient(theta, jnp.asarray(rewards, jnp.float32))


def groups(size, theta=THETA):
  """All groups of `size` independent responses, `[P, size]`, and their probabilities `[P]`."""
  index = np.indices([7] * size).reshape(size, -1).T
  return index, np.prod(np.asarray(probabilities(theta))[index], axis=1)


def paired_groups(size, theta=THETA):
  """All groups of `size` thoughts, then `size` direct answers, with forced tags."""
  grid = np.indices([4] * size + [2] * size).reshape(2 * size, -1).T
  index = np.concatenate([THINK[grid[:, :size]], DIRECT[grid[:, size:]]], axis=1)
  given_tag = np.exp(np.asarray(logprobs(theta))[:, 1:].sum(axis=1))
  return index, np.prod(given_tag[index], axis=1)


def expected_gradient(index, weights, advantages, theta=THETA, old=None, **knobs):
  """What an update does on average: minus the loss's gradient over groups by their probability.

  Args:
    index: `[P, n]`, the responses of each group.
    weights: `[P]` probabilities.
    advantages: `[P, n]`.
    theta: parameters.
    old: `[7, 3]` old log-probabilities; the policy's own by default.
    **knobs: of `PolicyObjectiveConfig`, without a KL penalty by default.
  """
  config = PolicyObjectiveConfig(**{"beta": 0.0, **knobs})
  own = logprobs(theta)
  old = own if old is None else old
  weights, advantages = (jnp.asarray(x, jnp.float32) for x in (weights, advantages))
  return _expected_gradient(theta, config, index, weights, advantages, old, own)


@functools.partial(jax.jit, static_argnums=1)
@jax.grad
def _expected_gradient(theta, config, index, weights, advantages, old, ref):
  def of_group(new, index, advantages):
    batch = PolicyBatch(
      new[index], old[index], ref[index],
      jnp.broadcast_to(advantages[:, None], (len(index), 3)), jnp.asarray(MASK)[index],
    )  # fmt: skip
    return policy_objective(config, batch)[0].mean()

  losses = jax.vmap(of_group, (None, 0, 0))(logprobs(theta), index, advantages)
  return -weights @ losses


def scaled(tree, factor):
  """A gradient times a number."""
  return jax.tree.map(lambda x: factor * x, tree)


def assert_same(found, expected, tolerance=2e-6):
  """Two gradients, all parameters."""
  np.testing.assert_allclose(ravel_pytree(found)[0], ravel_pytree(expected)[0], atol=tolerance)
