"""Merging into and onto quantized weights, against transformers' own loader and writer, and PEFT's own merge."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from merge_folders import CASES, adapted_logits, folders, gpt2, llama, logits, refused, relative_error, save_adapter, save_base
from peft import PeftModel
from safetensors.torch import load_file
from thinned import thinned
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from peft_unlearn.merging.merging import merge
from peft_unlearn.merging.survival import median_alpha
from peft_unlearn.model.adapters import keep_weights_unpacked

CONV1D = ["c_attn", "c_proj", "c_fc"]
CONFIGS = {
    "nf4": lambda compute: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    ),
    "nf4, once": lambda compute: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute),
    "fp4, stored as bf16": lambda compute: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=compute, bnb_4bit_quant_storage=torch.bfloat16
    ),
    "int8": lambda compute: BitsAndBytesConfig(load_in_8bit=True),
}


def load(folder: Path, config: BitsAndBytesConfig | None = None, **settings):
    quantized = {"quantization_config": config} if config else {}
    return keep_weights_unpacked(AutoModelForCausalLM.from_pretrained(folder, **quantized, **settings))


def quantization(folder: Path) -> dict | None:
    return json.loads((folder / "config.json").read_text()).get("quantization_config")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def save_quantized(base: Path, folder: Path, config: BitsAndBytesConfig, shard_size: str = "5GB") -> Path:
    load(base, config).save_pretrained(folder, max_shard_size=shard_size)
    return folder


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("config", "targets", "seed"),
    [(llama(), None, 1), (llama(tied=True), ["q_proj", "lm_head"], 2), (llama(), ["down_proj", "lm_head"], 3), (gpt2(), CONV1D, 4)],
    ids=["all linear", "tied head", "untied head", "Conv1D"],
)
def test_quantized_folder_is_what_transformers_writes(kind, dtype, config, targets, seed, tmp_path: Path) -> None:
    """Merged in 16/32 bit, loaded quantized by transformers and saved by it: the same tensors to the last bit, and the same config."""
    base = save_base(config, tmp_path / "base", dtype=dtype, shard_size="60KB")
    adapter = save_adapter(base, tmp_path / "adapter", targets=targets, seed=seed)
    folder = merge(adapter, tmp_path / "merged", quantize=kind).folder
    plain = merge(adapter, tmp_path / "plain").folder
    theirs = save_quantized(plain, tmp_path / "theirs", CONFIGS[kind](dtype))
    got, expected = tensors(folder), tensors(theirs)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name
    assert quantization(folder) == quantization(theirs)
    assert {path.name for path in folder.glob("*.safetensors")} == {path.name for path in base.glob("*.safetensors")}
    loaded, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    assert torch.equal(logits(keep_weights_unpacked(loaded)), logits(load(plain, CONFIGS[kind](dtype))))


def test_experts_stay_as_they_are_beside_quantized_attention(tmp_path: Path) -> None:
    """transformers stacks them on loading and quantizes linear layers alone."""
    config, settings = CASES["attention beside experts"]
    base = save_base(config, tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", **settings)
    plain = load(merge(adapter, tmp_path / "plain").folder, CONFIGS["nf4"](torch.float32))
    merged = load(merge(adapter, tmp_path / "merged", quantize="nf4").folder)
    assert torch.equal(logits(merged), logits(plain))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("on_disk", thinned([False, True], every=2))
@pytest.mark.parametrize(("config", "targets"), [(llama(), None), (gpt2(), CONV1D)], ids=["Linear", "Conv1D"])
def test_dequantized_base_is_the_one_that_the_adapter_was_trained_on(kind, on_disk, config, targets, tmp_path: Path) -> None:
    """transformers dequantizes the model it had quantized, PEFT merges into that: the same logits, up to fp32 rounding."""
    base = save_base(config, tmp_path / "base", shard_size="60KB")
    adapter = save_adapter(base, tmp_path / "adapter", targets=targets, seed=2)
    config_of_run = CONFIGS[kind](torch.float32)
    if on_disk:  # a shard of 40 KB ends between a weight and its scales
        source = save_quantized(base, tmp_path / "quantized", config_of_run, shard_size="40KB")
        folder = merge(adapter, tmp_path / "merged", base=source, onto="dequantized", trained=(None, None)).folder
    else:
        folder = merge(adapter, tmp_path / "merged", onto="dequantized", trained=(config_of_run, torch.float32)).folder
    twin = PeftModel.from_pretrained(load(base, config_of_run).dequantize(), adapter).merge_and_unload()
    merged, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    assert quantization(folder) is None
    assert relative_error(logits(merged), logits(twin)) < 2e-6
    original = merge(adapter, tmp_path / "original").folder
    assert relative_error(logits(AutoModelForCausalLM.from_pretrained(original)), logits(merged)) > 0.003


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_merge_onto_dequantized_nf4_computes_what_was_trained(seed: int, tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", seed=seed)
    config = CONFIGS["nf4"](torch.float32)
    trained = logits(PeftModel.from_pretrained(load(base, config), adapter))
    exact = merge(adapter, tmp_path / "exact", onto="dequantized").folder  # NF4 with double quantization where no recipe says more
    assert relative_error(logits(AutoModelForCausalLM.from_pretrained(exact)), trained) < 2e-5
    rounded = merge(adapter, tmp_path / "rounded").folder
    assert relative_error(logits(AutoModelForCausalLM.from_pretrained(rounded)), trained) > 0.02


def test_base_is_held_in_the_dtype_that_training_loaded_it_in(tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", targets=["q_proj"])
    config = CONFIGS["nf4"](torch.bfloat16)
    folder = merge(adapter, tmp_path / "merged", onto="dequantized", trained=(config, torch.bfloat16)).folder
    twin = load(base, config, dtype=torch.bfloat16).dequantize()
    got = tensors(folder)
    for name, tensor in twin.state_dict().items():
        if "q_proj" not in name:
            assert torch.equal(got[name], tensor.float()), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_forced_merge_in_place_is_that_of_peft(kind: str, tmp_path: Path) -> None:
    """PEFT dequantizes, adds and quantizes again; a weight on the border of two codes may fall to either side."""
    base = save_base(llama(), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    config = CONFIGS[kind](torch.float32)
    source = save_quantized(base, tmp_path / "quantized", config)
    folder = merge(adapter, tmp_path / "merged", base=source, force=True).folder
    assert quantization(folder) == quantization(source)
    theirs = PeftModel.from_pretrained(load(base, config), adapter).merge_and_unload().dequantize().state_dict()
    ours = load(folder).dequantize().state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ((ours[name] - tensor).abs() > 1e-6 * tensor.abs().max()).float().mean() < 2e-3, name


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("seed", [1, 2])
def test_alpha_is_the_share_of_the_change_in_the_weights_as_loaded(kind: str, seed: int, tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", seed=seed)
    result = merge(adapter, tmp_path / "merged", quantize=kind)
    config = CONFIGS[kind](torch.float32)
    exact = [AutoModelForCausalLM.from_pretrained(where).state_dict() for where in (base, merge(adapter, tmp_path / "plain").folder)]
    held = [model.dequantize().state_dict() for model in (load(base, config), load(result.folder))]
    written = json.loads((result.folder / "merge.json").read_text())
    for name, survival in result.survival.items():
        change, kept = (after[f"{name}.weight"].double() - before[f"{name}.weight"].double() for before, after in (exact, held))
        alpha = ((kept * change).sum() / (change * change).sum()).item()
        assert survival.alpha == pytest.approx(alpha, abs=1e-5)
        assert written["weights"][name]["alpha"] == survival.alpha
    assert written["written"] == kind


def test_small_change_is_lost_in_place_and_survives_onto_the_original(tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", lora_alpha=0.5)  # ‖ΔW‖/‖W‖ under 1 %
    original = merge(adapter, tmp_path / "original", quantize="nf4").survival
    in_place = merge(adapter, tmp_path / "in_place", quantize="nf4", onto="dequantized", force=True).survival
    assert all(0.005 < s.relative < 0.02 for s in original.values())
    assert median_alpha(original) > 0.8
    assert all(s.alpha < 0.2 for s in in_place.values())
    assert all(s.alpha > 0.99 for s in merge(adapter, tmp_path / "fp32").survival.values())


def test_survival_is_that_of_the_last_adapter(tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    below = save_adapter(base, tmp_path / "below", seed=1, targets=["q_proj", "up_proj"])
    forget = save_adapter(base, tmp_path / "forget", seed=2, targets=["q_proj"])
    tuned = merge(below, tmp_path / "tuned").folder
    stacked, alone = merge(forget, tmp_path / "stacked", below=(below,)), merge(forget, tmp_path / "alone", base=tuned)
    assert stacked.survival.keys() == alone.survival.keys()
    for name, survival in stacked.survival.items():
        assert survival.relative == pytest.approx(alone.survival[name].relative, rel=1e-4)
    assert relative_error(logits(AutoModelForCausalLM.from_pretrained(stacked.folder)), adapted_logits(base, below, forget)) < 2e-6


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_merge_in_place_needs_force(kind: str, tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    source = save_quantized(base, tmp_path / "quantized", CONFIGS[kind](torch.float32))
    message = refused(adapter, tmp_path / "merged", base=source)
    assert all(word in message for word in (kind, "--base ORIGINAL", "--onto dequantized", "--force"))
    assert "--force" in refused(adapter, tmp_path / "merged", base=source, onto="dequantized", quantize=kind)
    assert "--force" in refused(adapter, tmp_path / "merged", quantize="nf4", onto="dequantized")
    other = {"nf4": "int8", "int8": "nf4"}[kind]
    assert merge(adapter, tmp_path / "merged", base=source, onto="dequantized", quantize=other).folder.is_dir()


def test_weights_of_another_quantizer_are_refused(tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    assert "gptq" in refused(adapter, tmp_path / "merged", force=True)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_room_on_the_disk_is_that_of_the_quantized_weights(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_base(llama(), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    needed = sum(tensor.nbytes for tensor in tensors(merge(adapter, tmp_path / "quantized", quantize=kind).folder).values())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    assert "MB free" in refused(adapter, tmp_path / "merged", quantize=kind)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(needed * 1.1)))
    assert "MB free" in refused(adapter, tmp_path / "merged")
    assert merge(adapter, tmp_path / "merged", quantize=kind).folder.is_dir()
