"""An adapter merged into its base, shard by shard, and how much of it survives there."""

from peft_unlearn.merging.merging import REPORT, MergeResult, merge

__all__ = ["REPORT", "MergeResult", "merge"]
