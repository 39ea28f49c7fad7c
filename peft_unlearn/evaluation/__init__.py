"""Evaluation: what a model still knows of a set of rows, as numbers before, after and of a model that never saw them.

evaluation = evaluate(model, tokenizer, rows)      # whatever adapters are active; adapters.view switches them
report.write(report.build({"forget": {"before": ..., "after": ...}}, run=settings), "report.json")
"""

from peft_unlearn.evaluation import report
from peft_unlearn.evaluation.generation import generate
from peft_unlearn.evaluation.rows import answer_texts
from peft_unlearn.evaluation.scoring import RowScore, score
from peft_unlearn.evaluation.suite import Evaluation, evaluate

__all__ = ["Evaluation", "RowScore", "answer_texts", "evaluate", "generate", "report", "score"]
