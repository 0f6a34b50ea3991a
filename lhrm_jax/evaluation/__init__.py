"""Hybrid Accuracy, evaluation of a policy, figures and the report."""

from lhrm_jax.evaluation.evaluate import EvaluationConfig, Evaluator, Measured, Replies
from lhrm_jax.evaluation.hybrid_accuracy import HybridAccuracy, hybrid_accuracy

__all__ = [
  "EvaluationConfig",
  "Evaluator",
  "HybridAccuracy",
  "Measured",
  "Replies",
  "hybrid_accuracy",
]
