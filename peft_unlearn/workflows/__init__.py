"""What the command line, a notebook or a benchmark calls: one function for each thing that the tool does, from a request to a result.

    from peft_unlearn.workflows import EvaluateRequest, evaluate
    evaluate(EvaluateRequest("runs/forgotten", retain="texts.jsonl")).report["verdict"]

They print nothing; logs and bars say how far they are. What is wrong with a request is a `UserError`, before torch is imported where it can be:
the files that are named for one import what is heavy when it runs (`loading`, `views`, `ask_run`, `train_run`, `audit_run`, `merged`, `exported`).
"""

from peft_unlearn.workflows.ask import ask
from peft_unlearn.workflows.audit import audit
from peft_unlearn.workflows.combine import combine
from peft_unlearn.workflows.demo import demo
from peft_unlearn.workflows.evaluate import evaluate
from peft_unlearn.workflows.export import export
from peft_unlearn.workflows.merge import merge
from peft_unlearn.workflows.plan import plan
from peft_unlearn.workflows.push import push
from peft_unlearn.workflows.requests import (
    AddRequest,
    AskRequest,
    AuditRequest,
    CombineRequest,
    ComposeRequest,
    DemoRequest,
    EvaluateRequest,
    ExportRequest,
    LedgerRequest,
    MergeRequest,
    PlanRequest,
    PushRequest,
    RetrainCostRequest,
    RevokeRequest,
    TrainRequest,
)
from peft_unlearn.workflows.results import (
    AskResult,
    CombineResult,
    DemoResult,
    EvaluateResult,
    ExportResult,
    MergeResult,
    PlanResult,
    PushResult,
    RetrainCost,
    ScoreResult,
    Times,
    TrainResult,
    Unfinished,
)
from peft_unlearn.workflows.retrain_cost import retrain_cost
from peft_unlearn.workflows.train import train

__all__ = [
    "AddRequest",
    "AskRequest",
    "AskResult",
    "AuditRequest",
    "CombineRequest",
    "CombineResult",
    "ComposeRequest",
    "DemoRequest",
    "DemoResult",
    "EvaluateRequest",
    "EvaluateResult",
    "ExportRequest",
    "ExportResult",
    "LedgerRequest",
    "MergeRequest",
    "MergeResult",
    "PlanRequest",
    "PlanResult",
    "PushRequest",
    "PushResult",
    "RetrainCost",
    "RetrainCostRequest",
    "RevokeRequest",
    "ScoreResult",
    "Times",
    "TrainRequest",
    "TrainResult",
    "Unfinished",
    "ask",
    "audit",
    "combine",
    "demo",
    "evaluate",
    "export",
    "merge",
    "plan",
    "push",
    "retrain_cost",
    "train",
]
