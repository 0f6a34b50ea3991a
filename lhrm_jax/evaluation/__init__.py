"""Hybrid Accuracy, evaluation of a policy, figures and the report."""

from lhrm_jax.evaluation.evaluate import EvaluationSpec, Evaluator, Replies, mode_probs
from lhrm_jax.evaluation.hybrid_accuracy import HybridAccuracy, hybrid_accuracy

__all__ = [
  "EvaluationSpec",
  "Evaluator",
  "HybridAccuracy",
  "Replies",
  "hybrid_accuracy",
  "mode_probs",
]
