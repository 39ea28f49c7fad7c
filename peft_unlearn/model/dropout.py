"""The base's own dropout, off for good: reference and student must differ by the adapter alone."""

import torch
from bitsandbytes.nn import Linear8bitLt
from peft import PeftModel
from torch import nn
from transformers import PreTrainedConfig

from peft_unlearn.model.supported import running
from peft_unlearn.util.errors import UserError


def turn_off(model: PeftModel, *, but: str) -> None:
    """Set every dropout rate to 0 but that of the adapter `but`, which is trained: it may be asked for. Adapters below belong to the base.

    A rate is a module's in one architecture, a number of a module or of its config in the next (`attention_dropout`, `resid_pdrop`, `layerdrop`).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith(f".lora_dropout.{but}"):
            module.p = 0.0
        for owner in (module, *(value for value in vars(module).values() if isinstance(value, PreTrainedConfig))):
            for key, value in list(vars(owner).items()):
                if "drop" in key and isinstance(value, float):
                    setattr(owner, key, 0.0)


@torch.no_grad()
def check(model: PeftModel) -> None:
    """See that two forwards in training mode give the same, with the adapters off.

    Raises:
        UserError: a base that draws at random in another way, such as a router with noise.
    """
    if model.device.type == "meta":
        return
    training = {module: module.training for module in model.modules()}
    model.train()
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), running(model.get_base_model(), "be trained on rows of any length"):
        once, again = (model(input_ids=ids, use_cache=False).logits for _ in range(2))
    for module, flag in training.items():
        module.training = flag
    if not torch.allclose(once, again, rtol=1e-3, atol=1e-3):  # atomic additions on a GPU may differ in the last bits
        raise UserError(
            f"model: a {type(model.get_base_model()).__name__} draws at random in training mode, even with every dropout of its own at 0; "
            "take another base."
        )


def trains_as_it_evaluates(model: PeftModel) -> bool:
    """Whether a forward in training mode gives what it gives in eval mode.

    LoRA's own dropout changes it, and so does bitsandbytes on a CPU, which rounds the inputs of int8 layers in eval mode alone.
    """
    return not any(
        (isinstance(module, nn.Dropout) and module.p > 0) or (isinstance(module, Linear8bitLt) and module.weight.device.type == "cpu")
        for module in model.modules()
    )
