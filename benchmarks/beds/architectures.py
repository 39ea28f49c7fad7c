"""As yet untrained models of other architectures than a Llama's, of a Llama's sizes: what holds on one may be its own."""

import math
from typing import Any

from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from peft_unlearn.demo.model import Architecture, small_llama

# Learned positions, LayerNorm and Conv1D; parallel residuals and a head of its own; normed queries, heads shared by two; scaled embeddings, GeGLU
# and a sliding window.
OTHERS = ("gpt2", "gpt_neox", "qwen3", "gemma3")


def built(name: str | None, tokenizer: PreTrainedTokenizerBase, shape: Architecture) -> PreTrainedModel:
    """A model of one of `OTHERS`, or a Llama."""
    if name is None:
        return small_llama(tokenizer, shape)
    heads, width, layers = shape.num_attention_heads, shape.hidden_size, shape.num_hidden_layers
    common: dict[str, Any] = {
        "vocab_size": 64 * math.ceil(len(tokenizer) / 64),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "initializer_range": shape.initializer_range,
        **{f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")},
    }
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**common, n_inner=shape.intermediate_size, n_positions=shape.context))
    common |= {"intermediate_size": shape.intermediate_size, "max_position_embeddings": shape.context}
    if name == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**common, rotary_pct=0.25))
    common |= {"num_key_value_heads": heads // 2, "head_dim": width // heads, "tie_word_embeddings": True}
    if name == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**common))
    scale = {"query_pre_attn_scalar": width // heads, "sliding_window": 32}
    return Gemma3ForCausalLM(Gemma3TextConfig(**common, **scale))
