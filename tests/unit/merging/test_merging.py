"""Merging against PEFT's forward pass: the merged folder, loaded by plain transformers, computes what the adapted model computes."""

import contextlib
import gc
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import word_rows
from merge_folders import (
    CASES,
    adapted_logits,
    folders,
    gpt2,
    llama,
    logits,
    relative_error,
    save_adapter,
    save_base,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from peft_unlearn.merging.merging import merge


@pytest.mark.parametrize("name", CASES)
def test_merged_folder_computes_what_the_adapted_model_computes(name: str, tmp_path: Path) -> None:
    config, settings = CASES[name]
    settings = dict(settings)
    base = save_base(config, tmp_path / "base", shard_size=settings.pop("shard_size", "5GB"))
    adapter = save_adapter(base, tmp_path / "adapter", **settings)
    result = merge(adapter, tmp_path / "merged")
    merged, loading = AutoModelForCausalLM.from_pretrained(result.folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    expected = adapted_logits(base, adapter)
    assert relative_error(logits(merged), expected) < 2e-6
    assert relative_error(logits(AutoModelForCausalLM.from_pretrained(base)), expected) > 0.1  # the adapter is not idle
    base_shards = {path.name for path in base.glob("*.safetensors")}
    assert {path.name for path in result.folder.glob("*.safetensors")} == base_shards
    assert (len(base_shards) > 1) == ("shard_size" in CASES[name][1])


@pytest.mark.parametrize(("targets", "tied"), [(["q_proj"], True), (["lm_head"], False), (["embed_tokens"], False)])
def test_config_says_tied_as_long_as_the_weights_are(targets: list[str], tied: bool, tmp_path: Path) -> None:
    base = save_base(llama(tied=True), tmp_path / "base")
    folder = merge(save_adapter(base, tmp_path / "adapter", targets=targets), tmp_path / "merged").folder
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] == tied
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) == (not tied)


def test_checkpoint_whose_names_lack_the_model_prefix_is_merged(tmp_path: Path) -> None:
    base = save_base(gpt2(), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", targets=["c_attn"])
    expected = adapted_logits(base, adapter)
    tensors = load_file(base / "model.safetensors")
    save_file({k.removeprefix("transformer."): v for k, v in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    result = merge(adapter, tmp_path / "merged")
    assert "h.0.attn.c_attn.weight" in load_file(result.folder / "model.safetensors")
    assert relative_error(logits(AutoModelForCausalLM.from_pretrained(result.folder)), expected) < 2e-6


def test_merge_in_bf16_rounds_once(tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base", dtype=torch.bfloat16)
    adapter = save_adapter(base, tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(merge(adapter, tmp_path / "merged").folder)
    assert merged.dtype == torch.bfloat16
    weights, factors = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name, weight in merged.state_dict().items():
        change = torch.zeros(())
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{key}A.weight" in factors:
            change = 2.0 * (factors[f"{key}B.weight"].double() @ factors[f"{key}A.weight"].double())
        exact = weights[name].double() + change
        assert ((weight.double() - exact).abs() <= exact.abs() * 2**-8 * 1.001 + 1e-7).all(), name  # half a unit in the last place


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 2e-6), ("bf16", 0.05), ("fp16", 0.01)])
def test_asked_dtype_is_written_and_configured(dtype: str, bound: float, tmp_path: Path) -> None:
    base = save_base(llama(tied=True), tmp_path / "base", dtype=torch.bfloat16)
    adapter = save_adapter(base, tmp_path / "adapter", targets=["q_proj", "lm_head"])
    result = merge(adapter, tmp_path / "merged", dtype=dtype)
    merged = AutoModelForCausalLM.from_pretrained(result.folder)
    assert {p.dtype for p in merged.parameters()} == {{"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]}
    assert relative_error(logits(merged.float()), adapted_logits(base, adapter)) < bound


def test_stacked_adapters_are_merged_together(tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    finetune = save_adapter(base, tmp_path / "finetune", seed=1)
    forget = save_adapter(base, tmp_path / "forget", targets=["q_proj", "up_proj"], seed=2, r=4)
    result = merge(forget, tmp_path / "merged", below=(finetune,))
    expected = adapted_logits(base, finetune, forget)
    assert relative_error(logits(AutoModelForCausalLM.from_pretrained(result.folder)), expected) < 2e-6


def test_another_base_than_the_adapter_names_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base, adapter = folders(tmp_path)
    moved = shutil.copytree(base, tmp_path / "elsewhere" / "base")
    merge(adapter, tmp_path / "same", base=moved)
    assert not caplog.messages
    other = shutil.copytree(base, tmp_path / "other")
    merge(adapter, tmp_path / "merged", base=other)
    (warning,) = caplog.messages
    assert all(str(name) in warning for name in (adapter, base, other))


def test_reported_change_is_the_ratio_of_norms(tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", targets=["v_proj", "down_proj"])
    result = merge(adapter, tmp_path / "merged")
    old, new = load_file(base / "model.safetensors"), load_file(result.folder / "model.safetensors")
    changed = {k.removesuffix(".weight"): ((new[k] - old[k]).norm() / old[k].norm()).item() for k in old if not torch.equal(old[k], new[k])}
    assert result.survival.keys() == changed.keys()
    assert len(changed) == 4
    for name, ratio in changed.items():
        assert result.survival[name].relative == pytest.approx(ratio, rel=1e-4)


def test_tokenizer_and_licence_travel_and_data_does_not(tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    own, below = word_rows.tokenizer(), word_rows.tokenizer()
    own.add_tokens(["mine"])
    below.save_pretrained(base)
    (base / "vocab.txt").write_text("base")
    (base / "LICENSE.txt").write_text("licence")
    (base / "forget.json").write_text("secret")
    own.chat_template = "{{ messages }}"
    own.save_pretrained(adapter)
    folder = merge(adapter, tmp_path / "merged").folder
    found = AutoTokenizer.from_pretrained(folder)
    assert found.get_vocab() == own.get_vocab() != below.get_vocab()
    assert found.chat_template == own.chat_template
    assert (folder / "vocab.txt").read_text() == "base"
    assert {p.name for p in folder.iterdir()} == {
        *("config.json", "generation_config.json", "merge.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "chat_template.jinja", "LICENSE.txt"),
    }


@contextlib.contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Bytes of resident memory at its highest, above where it stood at the start, sampled every millisecond."""
    process, done = psutil.Process(), threading.Event()
    start = process.memory_info().rss
    samples = [0]

    def sample() -> None:
        while not done.wait(0.001):
            samples[0] = max(samples[0], process.memory_info().rss - start)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def test_memory_stays_near_one_shard(tmp_path: Path) -> None:
    _, small = folders(tmp_path)
    merge(small, tmp_path / "merged")  # what is loaded once stays out of the measurement
    config = LlamaConfig(vocab_size=128, hidden_size=1024, intermediate_size=2048, num_hidden_layers=9, num_attention_heads=8)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    model.save_pretrained(tmp_path / "large_base", max_shard_size="22MB")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "large")
    del model, adapted, parameter
    gc.collect()
    with peak_memory() as peak:
        merge(tmp_path / "large", tmp_path / "large_merged", base=tmp_path / "large_base")
    sizes = [path.stat().st_size for path in (tmp_path / "large_base").glob("*.safetensors")]
    blocks = 2048 * 1024 * 4 * 6  # fp32: the weight before and after, what is written of both, and their differences
    assert sum(sizes) > 8 * max(sizes)
    assert max(sizes) // 2 < peak[0] < 2 * max(sizes) + blocks + 2**24
