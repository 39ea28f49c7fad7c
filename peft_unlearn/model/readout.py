"""Final norm and head of a causal model, to read inner layers with."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peft_unlearn.model.scoring import evaluating


def find_readout(model: PreTrainedModel) -> nn.Module | None:
    """Final norm and head of a causal model of any architecture; None where there are none.

    Their names differ from one architecture to the next, what they do does not: transformers gives the normed state as the last of
    `hidden_states`, so the final norm is the first module of a forward whose output lies in that memory.
    """
    head = model.get_output_embeddings()
    outputs: list[tuple[nn.Module, object]] = []  # kept until compared: memory that is given back is used again
    hooks = [module.register_forward_hook(lambda module, _, output: outputs.append((module, output))) for module in model.modules()]
    try:
        with evaluating(model):
            ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
            last = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[-1]
    finally:
        for hook in hooks:
            hook.remove()
    norms = (module for module, output in outputs if isinstance(output, Tensor) and output.data_ptr() == last.data_ptr())
    norm = next(norms, None)
    return None if head is None or norm is None else nn.Sequential(norm, head)
