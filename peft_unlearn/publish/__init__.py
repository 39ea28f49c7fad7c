"""What leaves this machine: the model card, an upload to the Hub, and names without local paths."""

from peft_unlearn.publish.hub import check, push
from peft_unlearn.publish.model_card import write_card

__all__ = ["check", "push", "write_card"]
