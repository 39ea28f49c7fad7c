"""One LoRA of several: it says what PEFT's stack says, and of a smaller rank it is the nearest one."""

import json
from pathlib import Path

import pytest
import torch
from merge_folders import adapted_logits, gpt2, llama, mixtral, relative_error, save_adapter, save_base
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GptOssConfig

from peft_unlearn.merging import combining
from peft_unlearn.model import saved
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import CombineRequest, combine

EXPERTS = {"targets": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
GPT_OSS = GptOssConfig(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_local_experts=2,
    num_experts_per_tok=2,
)
# A base, the user's own adapter on it, and a second one.
PAIRS = {
    "plain": (llama(), {}, {}),
    "other modules": (llama(), {"targets": ["q_proj", "v_proj"], "r": 5}, {"targets": ["v_proj", "up_proj"], "r": 3}),
    "rsLoRA": (llama(), {"use_rslora": True}, {}),
    "ranks and alphas by pattern": (
        llama(),
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.mlp.up_proj": 5}},
        {"use_rslora": True, "rank_pattern": {"v_proj": 12}},
    ),
    "some layers": (llama(), {"layers_to_transform": [1]}, {}),
    "names by a pattern": (
        llama(),
        {"targets": r".*layers\.1\..*(q_proj|up_proj)"},
        {"targets": "all-linear", "exclude_modules": ["down_proj"]},
    ),
    "embedding and head, tied": (llama(tied=True), {"targets": ["embed_tokens", "lm_head"]}, {"targets": ["lm_head", "q_proj"]}),
    "whole modules": (
        llama(),
        {"targets": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"modules_to_save": ["input_layernorm"]},
    ),
    "rows of embeddings": (llama(), {"targets": ["q_proj"], "trainable_token_indices": [3, 4, 9]}, {}),
    "Conv1D": (gpt2(), {"targets": ["c_attn", "wte"]}, {"targets": ["c_attn", "c_fc"]}),
    "attention of a mixture": (mixtral(), {"targets": ["q_proj", "v_proj"]}, {"targets": ["q_proj"]}),
    "experts": (GPT_OSS, EXPERTS, EXPERTS),
    "experts and none": (GPT_OSS, EXPERTS, {"targets": ["q_proj"]}),
}


def pair(folder: Path, config, own, other) -> tuple[Path, Path, Path]:
    base = save_base(config, folder / "base")
    return base, save_adapter(base, folder / "own", seed=1, **own), save_adapter(base, folder / "other", seed=2, **other)


def one(folder: Path, *adapters: Path, **settings) -> Path:
    return combine(CombineRequest([str(adapter) for adapter in adapters], folder / "one", **settings)).folder


@pytest.mark.parametrize("case", PAIRS)
def test_the_one_adapter_says_what_the_stack_says(tmp_path, case):
    base, *both = pair(tmp_path, *PAIRS[case])
    made = one(tmp_path, *both)
    with saved.own_tokens_alone():  # or PEFT asks the second adapter for rows of embeddings as well
        stacked = adapted_logits(base, *both)
    assert relative_error(adapted_logits(base, made), stacked) <= 1e-5


def test_of_a_smaller_rank_it_is_the_nearest(tmp_path):
    """By torch's own SVD of the whole change, module by module; what it keeps is what the file says."""
    base, *both = pair(tmp_path, *PAIRS["ranks and alphas by pattern"])
    made = one(tmp_path, *both, rank=4)
    changes = [changes_of(base, adapter) for adapter in both]
    told = json.loads((made / "combine.json").read_text())
    kept = 0.0
    for name, found in changes_of(base, made).items():
        whole = sum(change[name] for change in changes if name in change).double()
        u, values, v = torch.linalg.svd(whole)
        best = u[:, :4] * values[:4] @ v[:4]
        assert (found - best).norm() <= 1e-5 * best.norm()
        assert told["modules"][name] == pytest.approx(values[:4].square().sum().item() / values.square().sum().item(), abs=1e-6)
        kept += values[:4].square().sum().item()
    total = sum(sum(change[name] for change in changes if name in change).square().sum().item() for name in told["modules"])
    assert told["energy"] == pytest.approx(kept / total, abs=1e-6)


def changes_of(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What PEFT adds to each weight."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).base_model.model
    return {name: module.get_delta_weight("default") for name, module in model.named_modules() if hasattr(module, "lora_A")}


def test_a_rank_that_holds_all_changes_nothing(tmp_path):
    base, *both = pair(tmp_path, *PAIRS["plain"])
    made = one(tmp_path, *both, rank=64)
    assert json.loads((made / "combine.json").read_text())["rank"] == 16
    assert relative_error(adapted_logits(base, made), adapted_logits(base, *both)) <= 1e-5


def test_a_tool_that_knows_no_patterns_reads_the_same_change(tmp_path):
    """As the factors stand in the file, each module's change is their product: alpha is the rank of every one of them."""
    base, *both = pair(tmp_path, *PAIRS["ranks and alphas by pattern"])
    made = one(tmp_path, *both)
    config, tensors = json.loads((made / "adapter_config.json").read_text()), load_file(made / "adapter_model.safetensors")
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    for name, change in changes_of(base, made).items():
        a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        assert len(a) == b.shape[1] == config["r"] == config["lora_alpha"]
        torch.testing.assert_close(b @ a, change)


REFUSED = {
    "DoRA": ({"use_dora": True}, {}, "DoRA"),
    "biases": ({"lora_bias": True}, {}, "bias"),
    "one module twice as a whole": ({"targets": ["q_proj"], "modules_to_save": ["lm_head"]}, {"targets": ["lm_head"]}, "lm_head"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_lora_together_is_refused_in_a_sentence(tmp_path, case):
    own, other, word = REFUSED[case]
    _, *both = pair(tmp_path, llama(), own, other)
    with pytest.raises(UserError, match=word):
        one(tmp_path, *both)
    assert not (tmp_path / "one").exists()


def test_adapters_of_two_shapes_are_refused(tmp_path):
    _, own, _ = pair(tmp_path, llama(), {}, {})
    small = llama()
    small.hidden_size = 32
    other = save_adapter(save_base(small, tmp_path / "small"), tmp_path / "of_small")
    with pytest.raises(UserError, match="another shape"):
        one(tmp_path, own, other)


@pytest.mark.parametrize(
    ("adapters", "how"),
    [
        (["one"], {}),
        ("one", {}),
        (["one", "two"], {"rank": 0}),
        (["one", "two"], {"energy": 1.1}),
        (["one", "two"], {"rank": 4, "energy": 0.9}),
    ],
)
def test_a_request_that_cannot_be_is_refused(adapters, how):
    with pytest.raises(UserError):
        CombineRequest(adapters, "out", **how)


def test_a_rank_that_is_chosen_by_energy_is_the_smallest_of_those_that_keep_it(tmp_path):
    _, *both = pair(tmp_path, *PAIRS["other modules"])
    made = combining.combined({str(adapter): combining.read(adapter) for adapter in both})
    for energy in (0.0, 0.5, 0.9, 0.99):
        found = json.loads((one(tmp_path / str(energy), *both, energy=energy) / "combine.json").read_text())
        assert min(found["modules"].values()) >= energy
        if found["rank"] > 1:
            _, less = combining.compressed(made, found["rank"] - 1)
            assert min(kept.share for kept in less.values()) < energy


def test_a_change_of_nothing_keeps_all_its_energy():
    _, energy = combining.truncated(combining.Factors(torch.zeros(1, 4, 8), torch.zeros(1, 8, 4)), 2)
    assert energy.share == 1.0
