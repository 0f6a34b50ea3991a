"""Hybrid Accuracy, evaluation of a policy, figures and the report."""

from lhrm_jax.evaluation.config import EvaluationConfig
from lhrm_jax.evaluation.evaluate import Evaluator
from lhrm_jax.evaluation.hybrid_accuracy import HybridAccuracy, hybrid_accuracy
from lhrm_jax.evaluation.replies import Measured, Replies

__all__ = [
  "EvaluationConfig",
  "Evaluator",
  "HybridAccuracy",
  "Measured",
  "Replies",
  "hybrid_accuracy",
]
