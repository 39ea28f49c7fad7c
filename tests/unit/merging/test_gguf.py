"""What llama.cpp's converters expect of an adapter's folder (convert_lora_to_gguf.py) and of a merged one (convert_hf_to_gguf.py).

The names are those of llama.cpp's tensor maps, the rules those of the two scripts (docs/howto/gguf.md says which version was run by hand).
"""

import json
import re
from pathlib import Path

import pytest
import torch
from merge_folders import SIZES, llama, save_adapter, save_base
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen3Config

from peft_unlearn.merging.merging import merge
from peft_unlearn.model import adapters

# A module of transformers -> a tensor of GGUF, {} the layer.
BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
QWEN3 = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}

# The keys of config.json without which no file is written.
KEYS = [
    *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "max_position_embeddings", "rms_norm_eps", "head_dim"),
]


def qwen3() -> Qwen3Config:
    return Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)


MODELS = {"LlamaForCausalLM": (llama(), BLOCK), "Qwen3ForCausalLM": (qwen3(), BLOCK | QWEN3)}


def gguf_name(name: str, block: dict[str, str]) -> str | None:
    """The GGUF tensor that a weight becomes, or None where llama.cpp has no place for it."""
    module = name.removesuffix(".weight")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    found = block.get(layer[2]) if layer else WHOLE.get(module)
    return None if found is None else f"blk.{layer[1]}.{found}" if layer else found


def shapes(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Of each GGUF tensor of a layer, in the order of torch, from config.json alone."""
    h, ff, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return {
        "token_embd": (vocabulary, h),
        "output": (vocabulary, h),
        "output_norm": (h,),
        "attn_norm": (h,),
        "ffn_norm": (h,),
        "attn_q": (q, h),
        "attn_k": (kv, h),
        "attn_v": (kv, h),
        "attn_output": (h, q),
        "ffn_gate": (ff, h),
        "ffn_up": (ff, h),
        "ffn_down": (h, ff),
        "attn_q_norm": (config.head_dim,),
        "attn_k_norm": (config.head_dim,),
    }


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("shard_size", ["5GB", "60KB"])
def test_merged_folder_is_one_that_llama_cpp_converts(architecture: str, shard_size: str, tmp_path: Path) -> None:
    config, block = MODELS[architecture]
    base = save_base(config, tmp_path / "base", dtype=torch.bfloat16, shard_size=shard_size)
    folder = merge(save_adapter(base, tmp_path / "adapter"), tmp_path / "merged").folder
    written = json.loads((folder / "config.json").read_text())
    assert written["architectures"] == [architecture]
    assert all(isinstance(written[key], int | float) for key in KEYS)
    assert "rope_theta" in written.get("rope_parameters", written)
    assert "quantization_config" not in written  # "Quant method is not yet supported"
    parts = sorted(folder.glob("model*.safetensors"))
    assert len(parts) == len(list(folder.glob("*.safetensors")))  # parts are found by their prefix
    held = {name: tensor for part in parts for name, tensor in load_file(part).items()}
    if len(parts) > 1:  # the index must list every tensor of the parts and no other
        assert json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].keys() == held.keys()
    expected = shapes(config)
    for name, tensor in held.items():
        place = gguf_name(name, block)
        assert place is not None, name
        assert tuple(tensor.shape) == expected[place.rpartition(".")[2]], name
        assert tensor.dtype == torch.bfloat16, name
    places = {gguf_name(name, block) for name in held}
    assert places >= {f"blk.{i}.{name}" for i in range(config.num_hidden_layers) for name in block.values()} | {"token_embd", "output_norm"}


@pytest.mark.parametrize("architecture", MODELS)
def test_adapter_folder_is_one_that_llama_cpp_converts(architecture: str, tmp_path: Path) -> None:
    """Pairs of factors by their names in the base, nothing else, and the scale lora_alpha / rank."""
    config, block = MODELS[architecture]
    model = adapters.attach(
        AutoModelForCausalLM.from_pretrained(save_base(config, tmp_path / "base")),
        LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        teacher=True,
    )
    for parameter in adapters.adapter_parameters(model):
        torch.nn.init.normal_(parameter, std=0.1)
    adapters.export(model, tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["lora_alpha"] == 16
    assert not settings["use_rslora"]  # neither of these two is read by the converter
    assert not settings["alpha_pattern"]
    assert settings["base_model_name_or_path"]
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    names = {re.fullmatch(r"base_model\.model\.(.+)\.lora_[AB]\.weight", key)[1] for key in factors}
    assert len(factors) == 2 * len(names)
    places = {gguf_name(name, block) for name in names}
    assert places == {f"blk.{i}.{place}" for i in range(config.num_hidden_layers) for place in BLOCK.values() if "norm" not in place}
    modules = dict(model.get_base_model().named_modules())
    for name in names:
        a, b = (factors[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
        assert a.shape[0] == b.shape[1]
        assert (b.shape[0], a.shape[1]) == shapes(config)[gguf_name(name, block).rpartition(".")[2]]
        change = settings["lora_alpha"] / b.shape[1] * (b @ a)
        torch.testing.assert_close(change, modules[name].get_delta_weight("default"))


def test_head_of_a_tied_base_has_a_place_only_when_merged(tmp_path: Path) -> None:
    """The GGUF of a tied base has no tensor "output" for an adapter to change; merging unties the two, and both are written."""
    base = save_base(llama(tied=True), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", targets=["q_proj", "lm_head"])
    folder = merge(adapter, tmp_path / "merged").folder
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    held = load_file(folder / "model.safetensors")
    assert not torch.equal(held["lm_head.weight"], held["model.embed_tokens.weight"])
