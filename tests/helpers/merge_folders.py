"""Tiny bases and adapters on the disk, to merge, and what PEFT's unmerged model says."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GptOssConfig, LlamaConfig, MixtralConfig

from peft_unlearn.merging.merging import merge
from peft_unlearn.util.errors import UserError

TOKENS = torch.arange(24).reshape(2, 12) % 120

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def llama(tied: bool = False) -> LlamaConfig:
    return LlamaConfig(**SIZES, tie_word_embeddings=tied)


def mixtral() -> MixtralConfig:
    return MixtralConfig(**SIZES | {"intermediate_size": 64, "num_hidden_layers": 1, "num_local_experts": 2})


def gpt2() -> GPT2Config:
    return GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1, initializer_range=0.2)


def save_base(config, folder: Path, dtype=torch.float32, shard_size: str = "5GB") -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def save_adapter(base: Path, folder: Path, targets=None, seed: int = 1, **settings) -> Path:
    """An adapter whose every factor is random, so that no part of it can be left out unnoticed."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": targets or LINEAR, "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(model, LoraConfig(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


def adapted_logits(base: Path, *adapters: Path) -> torch.Tensor:
    """Logits of PEFT's unmerged model in fp32, the adapters stacked."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapters[0], adapter_name="a0")
    for i, adapter in enumerate(adapters[1:], start=1):
        model.load_adapter(adapter, adapter_name=f"a{i}")
    model.base_model.set_adapter([f"a{i}" for i in range(len(adapters))])
    return logits(model)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


def folders(tmp_path: Path, **settings) -> tuple[Path, Path]:
    base = save_base(llama(), tmp_path / "base", shard_size="60KB")
    return base, save_adapter(base, tmp_path / "adapter", **settings)


def refused(adapter: Path, output: Path, **arguments) -> str:
    """The sentence of the refusal, after which nothing may lie under the output's name or beside it."""
    there = set(output.parent.iterdir())
    with pytest.raises(UserError) as caught:
        merge(adapter, output, **arguments)
    assert set(output.parent.iterdir()) == there
    return str(caught.value)


CASES = {
    "all linear": (llama(), {}),
    "sharded": (llama(), {"shard_size": "60KB"}),
    "rslora": (llama(), {"use_rslora": True}),
    "rank and alpha patterns": (llama(), {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.mlp.up_proj": 5}}),
    "untied head": (llama(), {"targets": ["q_proj", "lm_head"]}),
    "tied head": (llama(tied=True), {"targets": ["q_proj", "lm_head"]}),
    "tied embedding": (llama(tied=True), {"targets": ["embed_tokens", "o_proj"]}),
    "tied head and embedding, sharded": (llama(tied=True), {"targets": ["embed_tokens", "lm_head"], "shard_size": "60KB"}),
    "modules to save": (llama(tied=True), {"targets": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "Conv1D": (gpt2(), {"targets": ["c_attn", "c_proj", "c_fc"]}),
    "Conv1D, tied embedding": (gpt2(), {"targets": ["c_attn", "wte"], "shard_size": "60KB"}),
    "attention beside experts": (mixtral(), {"targets": ["q_proj", "v_proj"]}),
    "all linear, with experts that the checkpoint has one by one": (mixtral(), {"targets": "all-linear", "shard_size": "100KB"}),
    "experts that the checkpoint has stacked": (
        GptOssConfig(**SIZES | {"head_dim": 16, "intermediate_size": 64, "num_local_experts": 2, "num_experts_per_tok": 2}),
        {"targets": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ),
}
