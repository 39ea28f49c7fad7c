"""Final norm and head of a causal model, to read inner layers with."""

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from peft_unlearn.model.scoring import evaluating

SLACK = 0.01  # of the logits' range, by which 16 bits may put two of them out of order


def find_readout(model: PreTrainedModel) -> nn.Module | None:
    """Final norm and head of a causal model of any architecture; None where inner layers cannot be read with them.

    Their names differ from one architecture to the next, what they do does not: transformers gives the normed state as the last of
    `hidden_states`, so the final norm is the first module of a forward whose output lies in that memory, and the head makes the model's logits
    of it, but for a scale or a soft cap. Where there is more between them, where no norm stands behind the layers, or where anything but one
    vector a token goes from layer to layer (several streams in Gemma 3n), inner layers have no such reading.
    """
    head = model.get_output_embeddings()
    outputs: list[tuple[nn.Module, object]] = []  # kept until compared: memory that is given back is used again
    behind = [module for name, module in model.named_modules() if not re.search(r"\.\d+(\.|$)", name)]
    hooks = [module.register_forward_hook(lambda module, _, output: outputs.append((module, output))) for module in behind]
    try:
        with evaluating(model):
            output = _of_two_tokens(model)
            states = residual_stream(model, output)
            if head is None or states is None or getattr(head, "in_features", states[-1].shape[-1]) != states[-1].shape[-1]:
                return None
            if not _same_order(head(states[-1]), output.logits):
                return None
    finally:
        for hook in hooks:
            hook.remove()
    norms = (module for module, output in outputs if isinstance(output, Tensor) and _memory(output) == _memory(states[-1]))
    norm = next(norms, None)
    return None if norm is None else nn.Sequential(norm, head)


def has_residual_stream(model: PreTrainedModel) -> bool:
    """Whether the model gives one vector a token after each of its layers."""
    with evaluating(model):
        return residual_stream(model, _of_two_tokens(model)) is not None


def residual_stream(model: PreTrainedModel, output: Any) -> tuple[Tensor, ...] | None:
    """The hidden states of a forward, before and after each of the L layers, each (B, T, H); None where they are anything else."""
    states = getattr(output, "hidden_states", None)
    if states is None or len(states) != depth(model.config) + 1:
        return None
    return states if all(isinstance(state, Tensor) and state.dim() == 3 and state.shape == states[-1].shape for state in states) else None


def depth(config: PreTrainedConfig) -> int:
    """L, the number of layers; 0 where an architecture has no such number."""
    layers: int = getattr(config.get_text_config(), "num_hidden_layers", 0)
    return layers


def _of_two_tokens(model: PreTrainedModel) -> Any:
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    return model(input_ids=ids, output_hidden_states=True, use_cache=False)


def _same_order(found: Tensor, logits: Tensor) -> bool:
    """Whether the logits rise where what was found rises; without values, as on the meta device, that they may."""
    if found.shape != logits.shape or found.device.type == "meta":
        return found.shape == logits.shape
    sorted_logits = logits.float().gather(-1, found.float().argsort(-1).to(logits.device))
    spread = sorted_logits.amax(-1, keepdim=True) - sorted_logits.amin(-1, keepdim=True)
    return not bool((sorted_logits.diff(dim=-1) < -SLACK * spread).any())  # a model that says no numbers is broken elsewhere


def _memory(tensor: Tensor) -> int:
    """What two tensors share that are one: without values, as on the meta device, an address does not tell."""
    storage: int = tensor.untyped_storage()._cdata
    return storage
