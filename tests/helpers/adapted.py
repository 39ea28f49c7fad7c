"""A tiny adapted model: another start than zero, and what it says."""

import copy

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_llama

from peft_unlearn.model import adapters

IDS = torch.arange(3, 15).view(2, 6)

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def stir(model, name, seed):
    torch.manual_seed(seed)
    for p in adapters.adapter_parameters(model, name):
        p.data.add_(0.1 * torch.randn_like(p))


def finetune(folder) -> None:
    """A user's own fine-tune, saved by plain PEFT."""
    model = get_peft_model(tiny_llama(), copy.deepcopy(LORA))
    stir(model, "default", 3)
    model.save_pretrained(folder)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits
