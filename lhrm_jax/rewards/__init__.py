from lhrm_jax.rewards.registry import get
