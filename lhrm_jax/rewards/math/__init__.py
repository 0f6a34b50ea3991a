"""A verifier for mathematical answers: equality of value, safe against the text it judges."""

from lhrm_jax.rewards.math.verdicts import Verdict, verify

__all__ = ["Verdict", "verify"]
