"""What leaves this machine: cards, an upload to the Hub, and names without local paths."""

from peft_unlearn.publish.hub import check, push
from peft_unlearn.publish.merged_card import write_merged_card
from peft_unlearn.publish.model_card import write_card

__all__ = ["check", "push", "write_card", "write_merged_card"]
