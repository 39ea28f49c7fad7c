"""What happens to an adapter after training: merged into its base, described by a card, uploaded."""

from peft_unlearn.deploy.card import write_card
from peft_unlearn.deploy.hub import push
from peft_unlearn.deploy.merging import REPORT as MERGE_REPORT
from peft_unlearn.deploy.merging import MergeResult, merge

__all__ = ["MERGE_REPORT", "MergeResult", "merge", "push", "write_card"]
