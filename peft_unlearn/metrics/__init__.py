"""What a model still knows of a set of rows: `evaluate` measures it under whatever adapters are active, one file a metric."""

from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.metrics.suite import evaluate

__all__ = ["Evaluation", "evaluate"]
