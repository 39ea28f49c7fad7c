"""A tiny random model of each family of bases, whole or quantized, and where its parts are. Sizes are multiples of 64, as bitsandbytes needs them."""

import copy
import tempfile
from functools import cache
from typing import NamedTuple

import torch
from bitsandbytes.nn import Linear4bit
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen3Config,
)

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = SIZES | {"intermediate_size": 128, "num_key_value_heads": 2}


class Family(NamedTuple):
    """Names of modules in the model: the attention's projections that get an adapter, embeddings, and the final norm."""

    config: object
    attention: list[str]
    embeddings: str
    norm: str


FAMILIES = {
    "Llama": Family(LlamaConfig(**GATED, tie_word_embeddings=False), ["q_proj", "v_proj"], "embed_tokens", "model.norm"),
    "Llama (tied)": Family(LlamaConfig(**GATED, tie_word_embeddings=True), ["q_proj", "v_proj"], "embed_tokens", "model.norm"),
    "Qwen3": Family(Qwen3Config(**GATED, head_dim=16), ["q_proj", "v_proj"], "embed_tokens", "model.norm"),
    "Gemma2": Family(
        Gemma2Config(**GATED, head_dim=16, query_pre_attn_scalar=16, attention_dropout=0.1),
        ["q_proj", "v_proj"],
        "embed_tokens",
        "model.norm",
    ),
    "GPT-2": Family(GPT2Config(**SIZES), ["c_attn"], "wte", "transformer.ln_f"),
    "OPT": Family(
        OPTConfig(**SIZES, ffn_dim=128, word_embed_proj_dim=64), ["q_proj", "v_proj"], "embed_tokens", "model.decoder.final_layer_norm"
    ),
    "Mixtral": Family(
        MixtralConfig(**GATED, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False),
        ["q_proj", "v_proj"],
        "embed_tokens",
        "model.norm",
    ),
}
QUANTIZATION = {
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
    ),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}


def tiny(family: str, seed: int = 0, **changes):
    """The model in fp32, with activations of ordinary size; `changes` of its config."""
    torch.manual_seed(seed)
    config = copy.deepcopy(FAMILIES[family].config)
    config.update(changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for p in model.parameters():
        if p.ndim >= 2:
            p.data.normal_(0, p.shape[-1] ** -0.5)
    return model.eval()


@cache
def _folder(family: str) -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory()
    tiny(family).save_pretrained(folder.name)
    return folder


def load(family: str, quantization: str = "none"):
    """The same with seed 0, quantized if asked."""
    if quantization == "none":
        return tiny(family)
    model = AutoModelForCausalLM.from_pretrained(
        _folder(family).name, dtype=torch.float32, quantization_config=QUANTIZATION[quantization], device_map={"": "cpu"}
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False  # bitsandbytes#2078
    return model.eval()
