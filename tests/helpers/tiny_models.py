"""Tiny random models."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def tiny_llama(seed: int = 0, *, vocab: int = 64, tie: bool = False) -> LlamaForCausalLM:
    """A random Llama whose sizes are multiples of 64 (bitsandbytes on the CPU needs them), with activations of ordinary size."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tie,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    for p in model.parameters():
        if p.ndim == 2:
            p.data.normal_(0, p.shape[-1] ** -0.5)
    return model.eval()
