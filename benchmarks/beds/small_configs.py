"""A small config of any causal architecture of transformers: its default, with the fields that make a model large made small by their names."""

import re
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

VOCABULARY = 128
# The first pattern that a field's name matches says what it may be at most; fields that match none stay as they are.
AT_MOST = {
    r"chunk_size_feed_forward|chunk_size_lm_head": None,
    r".*vocab_size.*|.*_byte_group_vocab|ngram_vocab_size_base|codebook_size|vocab_offset": VOCABULARY,
    r"(num_)?(n_)?(hidden_|decoder_|encoder_|conf_num_hidden_)?(layers?|blocks)|depth|n_layers?|num_(hidden|decoder|encoder|global|lstm)_layers": 2,
    r"num_(key_value|kv)_heads|kv_n_heads|num_global_key_value_heads|swa_num_key_value_heads|linear_num_key_heads|num_query_groups": 2,
    r"mamba_n_groups|n_groups|mamba_ngroups": 1,
    r".*heads.*|n_head": 4,
    r"n_group|topk_group|num_expert_group": 1,
    r"(num_|n_)?(local_|routed_|moe_num_)?experts|moe_num_experts": 4,
    r"zero_expert_num|centroid_intermediate_top_k": 2,
    r".*(per_tok|per_token|topk|top_k)|moe_k": 2,
    r"(n_|num_)?.*shared_experts": 1,
    r"mamba_headdim|mamba_head_dim|mamba_d_head": 32,
    r"head_dim|.*head_dim|d_head|d_kv|kv_channels|rotary_dim|attention_head_size|dim_head": 16,
    r".*_rank|time_step_rank": 16,
    r"(.*intermediate|ffn|.*feed_forward|.*ffn_hidden).*_?(size|dim|mlp)|.*ffn_dim|ffn_dim|d_ff|dim_ff|dff|d_inner|n_inner": 128,
    r"max_.*positions?.*|n_positions|n_ctx|max_seq_len|model_max_length|context_length|max_sequence_length": 256,
    r".*(hidden_size|embedding_size|embed_dim|embd_dim|lru_width)|d_model|n_embd|dim|.*hidden_size.*|emb_dim|embedding_dim": 64,
    r".*(out|output|proj|state|adapter|projector|mlp|input)_(hidden_)?(dim|size)|out_hidden_size|out_channels|in_channels": 64,
    r"(mamba_)?d_state|(ssm_)?state_size": 16,
    r".*window.*|.*local_attention.*|attention_chunk_size": 32,
    r".*chunk_(size|length)|chunk_size": 16,
    r"image_size|crop_size": 28,
    r".*_layer_period": 2,
    r".*_layer_offset": 1,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
OUT = {"transformers_version", "architectures", "dtype", "_name_or_path", "id2label", "label2id", "quantization_config"}
# What names do not tell: sizes that must fit each other.
FITTED: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},  # without any, which none is, transformers writes no texts
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "longcat_flash": {"head_dim": 16, "qk_head_dim": 32},
    "mamba2": {"num_heads": 8},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "reformer": {"axial_pos_embds_dim": [16, 48], "axial_pos_shape": [16, 16]},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "dots3_note_text": {"head_dim": 32},
    "dots3_note_vision_encoder": {"adapter_in_dim": 64},
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 32,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},  # of its third kind, attention
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "zamba2": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "layers_block_type": ["mamba", "hybrid"],
        "hybrid_layer_ids": [1],
        "num_mem_blocks": 1,
    },
}
DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")


def small_config(name: str) -> PreTrainedConfig:
    """The config of a model of some 100 000 parameters with as many layers as it has kinds of them, two at least."""
    kind = CONFIG_MAPPING[name]
    config = kind(**_small(kind().to_dict()) | FITTED.get(name, {}))
    for part in {id(part): part for part in (config, config.get_text_config(decoder=True))}.values():
        if hasattr(part, "is_decoder"):
            part.is_decoder = True
        for key, value in TOKENS.items():
            if hasattr(part, key):
                setattr(part, key, value)
    return config


def _small(values: dict[str, Any]) -> dict[str, Any]:
    depth = next((values[key] for key in DEPTH if isinstance(values.get(key), int)), 0)
    kept = _kept(values, depth)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in OUT or value is None:
            continue
        if isinstance(value, dict) and "model_type" in value:
            found[key] = _small(value) | FITTED.get(value["model_type"], {})
        elif key == "per_layer_config":
            found[key] = {new: value[old] for new, old in enumerate(kept) if old in value}
        elif isinstance(value, list) and depth and len(value) == depth:
            found[key] = [_number(key, value[i]) for i in kept]
        elif key in DEPTH and value == depth:
            found[key] = len(kept)
        elif key in TOKENS:
            found[key] = TOKENS[key]
        elif re.search(r"token_(id|index)$", key) and isinstance(value, int):
            found[key] = VOCABULARY - 1 - len(found) % 50
        else:
            found[key] = _number(key, value)
    if "kv_lora_rank" in found:  # of latent attention, in which every head has its own keys and values
        found["num_key_value_heads"] = found["num_attention_heads"]
    return found


def _kept(values: dict[str, Any], depth: int) -> list[int]:
    """The layers that stay: the first of each kind, by what the lists that have an entry for each layer say of it."""
    lists = [value for value in values.values() if isinstance(value, list) and depth and len(value) == depth]
    kinds = [str([one[i] for one in lists if isinstance(one[i], str)]) for i in range(depth)]
    first = sorted({kind: i for i, kind in reversed(list(enumerate(kinds)))}.values())
    return first if len(first) > 1 else [*range(min(2, depth))]


def _number(key: str, value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        return [_number(key, one) for one in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    most = next((most for pattern, most in AT_MOST.items() if re.fullmatch(pattern, key)), None)
    return value if most is None else min(value, most)
