"""Task arithmetic (arXiv 2212.04089): an adapter that learnt the forget set is subtracted from the base in place of being added to it.

All that an adapter changes is turned round, w -> w0 - (w - w0): of a low-rank product by the sign of its second factor, of a module that is
trained as a whole (`modules_to_save`) by its weights.
"""

import torch
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from peft_unlearn.model import adapters
from peft_unlearn.util.errors import UserError

FACTORS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")


class Negation:
    """The forgetting adapter of a model, and whether it is negated now.

    Raises:
        UserError: the adapter has parameters that are no difference from the base, such as DoRA's magnitudes.
    """

    def __init__(self, model: PeftModel):
        self.negated = False
        self.products = list(adapters.lora_b(model).values())
        self.whole: list[tuple[nn.Parameter, Tensor]] = []  # with the base's own weights
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper) and adapters.STUDENT in module.modules_to_save:
                own, base = module.modules_to_save[adapters.STUDENT], module.original_module
                self.whole += zip(own.parameters(), base.parameters(), strict=True)
        known = {id(p) for p, _ in self.whole}
        for name, p in model.named_parameters():
            of_student = f".{adapters.STUDENT}." in name or name.endswith(f".{adapters.STUDENT}")
            if of_student and id(p) not in known and not any(f".{factor}." in name for factor in FACTORS):
                kind = name.split(f".{adapters.STUDENT}")[0].rpartition(".")[2]
                raise UserError(f"negate: the adapter's {kind} is no difference that could be subtracted, leave use_dora and the like out.")

    @torch.no_grad()
    def flip(self) -> None:
        """Subtract what was learnt, or add it again."""
        self.negated = not self.negated
        for p in self.products:
            p.neg_()
        for p, base in self.whole:
            p.copy_(2 * base.to(p) - p)
