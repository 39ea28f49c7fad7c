"""Folders of adapters as the tools that people train with write them, by hand: their config's keys, their names of tensors, what lies beside.

Each is of the tiny base of `make_base`. `meant` computes, without PEFT, the model that such a folder stands for.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(61))]
CHATML = ["<|im_start|>", "<|im_end|>"]
PREFIX = "base_model.model."
LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = [name.split(".")[1] for name in LINEAR]
# What PEFT wrote into adapter_config.json, and since which of its versions.
OLDEST = {
    "auto_mapping": None,
    "base_model_name_or_path": "/root/models/base",  # which is gone
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 4,
    "revision": None,
    "target_modules": NAMES,
    "task_type": "CAUSAL_LM",
}
OF_6 = OLDEST | {"alpha_pattern": {}, "rank_pattern": {}}
OF_10 = OF_6 | {
    "layer_replication": None,
    "loftq_config": {},
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "use_dora": False,
    "use_rslora": False,
}
OF_15 = OF_10 | {"corda_config": None, "eva_config": None, "exclude_modules": None, "lora_bias": False, "trainable_token_indices": None}
OF_18 = OF_15 | {
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "ensure_weight_tying": False,
    "peft_version": "0.18.0",
    "qalora_group_size": 16,
    "target_parameters": None,
    "use_qalora": False,
}
UNSLOTH = {
    "base_model_class": "LlamaForCausalLM",
    "parent_library": "transformers.models.llama.modeling_llama",
    "unsloth_fixed": True,
}
HEADS = ["embed_tokens", "lm_head"]
# A tool's keys, entries of its vocabulary, and the files beside that have nothing to do with the adapter.
FOLDERS = {
    "PEFT 0.6": (OF_6, 64, []),
    "PEFT 0.10": (OF_10 | {"use_rslora": True}, 64, ["checkpoint-9/optimizer.pt"]),
    "TRL": (OF_18 | {"modules_to_save": ["lm_head"]}, 64, ["training_args.bin", "checkpoint-9/trainer_state.json"]),
    "TRL, another chat template": (
        OF_18 | {"modules_to_save": ["lm_head"], "trainable_token_indices": {"embed_tokens": [64, 65]}},
        128,  # resized to a multiple of 64
        ["training_args.bin"],
    ),
    "axolotl": (OF_15 | {"target_modules": sorted(NAMES)}, 64, ["config.json", "training_args.bin", "debug.log"]),
    "axolotl, added tokens": (OF_15 | {"modules_to_save": HEADS}, 66, ["config.json"]),
    "LLaMA-Factory": (OF_15, 64, ["all_results.json", "trainer_log.jsonl", "training_loss.png"]),
    "LLaMA-Factory, resized": (OF_15 | {"modules_to_save": HEADS}, 128, ["train_results.json"]),
    "unsloth": (OF_18 | {"auto_mapping": UNSLOTH, "base_model_name_or_path": "unsloth/base-bnb-4bit", "lora_dropout": 0}, 64, []),
    "unsloth, whole heads": (OF_18 | {"auto_mapping": UNSLOTH, "modules_to_save": HEADS}, 64, []),
}
# And those that are refused, by a word of the sentence.
REFUSED = {
    "PEFT 0.4, a pickle": (OLDEST, "adapter_model.bin"),
    "LLaMA-Factory, PiSSA": (OF_15 | {"init_lora_weights": "pissa_niter_16"}, "pissa"),
    "axolotl, LoftQ": (OF_15 | {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "loftq"),
    "unsloth, biases": (OF_18 | {"bias": "all"}, "bias"),
}


def tokenizer(entries: int) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.add_tokens(CHATML[: entries - len(WORDS)], special_tokens=True)
    return made


def make_base(folder: Path) -> Path:
    tiny_llama().save_pretrained(folder)
    tokenizer(len(WORDS)).save_pretrained(folder)
    return folder


def make(folder: Path, config: dict, entries: int = 64, beside=()) -> Path:
    """The tool's folder; its tensors are random."""
    folder.mkdir()
    torch.manual_seed(7)
    base, tensors = tiny_llama(), {}
    for layer in range(2):
        for name in LINEAR:
            weight = base.get_submodule(f"model.layers.{layer}.{name}").weight
            tensors[f"{PREFIX}model.layers.{layer}.{name}.lora_A.weight"] = torch.randn(4, weight.shape[1]) / 8
            tensors[f"{PREFIX}model.layers.{layer}.{name}.lora_B.weight"] = torch.randn(weight.shape[0], 4) / 8
    for name in config["modules_to_save"] or ():
        place = {"lm_head": "lm_head", "embed_tokens": "model.embed_tokens"}[name]
        tensors[f"{PREFIX}{place}.weight"] = torch.randn(entries, 64) / 8
    if rows := config.get("trainable_token_indices"):
        tensors[f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"] = torch.randn(len(rows["embed_tokens"]), 64) / 8
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    tokenizer(entries).save_pretrained(folder)
    for name in beside:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(base.config.to_json_string() if name == "config.json" else "{}")
    return folder


def meant(folder: Path, config: dict, entries: int) -> LlamaForCausalLM:
    """The base with the folder's change added to its weights, a plain loop."""
    model, tensors = tiny_llama(), load_file(folder / "adapter_model.safetensors")
    scaling = config["lora_alpha"] / (2 if config.get("use_rslora") else 4)
    for layer in model.model.layers:
        for name in LINEAR:
            index = f"{PREFIX}model.layers.{layer.self_attn.layer_idx}.{name}"
            layer.get_submodule(name).weight.data += scaling * tensors[f"{index}.lora_B.weight"] @ tensors[f"{index}.lora_A.weight"]
    if entries != 64:
        model.resize_token_embeddings(entries)
    for place in ("lm_head", "model.embed_tokens"):
        if f"{PREFIX}{place}.weight" in tensors:
            model.get_submodule(place).weight.data = tensors[f"{PREFIX}{place}.weight"]
    if rows := config.get("trainable_token_indices"):
        model.model.embed_tokens.weight.data[rows["embed_tokens"]] = tensors[
            f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"
        ]
    return model.eval()
