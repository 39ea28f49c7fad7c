"""Pruning and truncation against PEFT's merge with numpy's sort and full SVD, FRAG against whole matrices side by side."""

import numpy as np
import pytest
import torch
from attack_bed import adapted, by_name, context, strengths
from peft import PeftModel
from tiny_models import tiny_llama
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from peft_unlearn import attacks
from peft_unlearn.attacks import compression, frag
from peft_unlearn.attacks.scale import lora_layers
from peft_unlearn.model import adapters


def smallest_gone(matrix: np.ndarray, share: float) -> np.ndarray:
    matrix = matrix.copy()
    order = np.argsort(np.abs(matrix).ravel())
    matrix.ravel()[order[: int(share * matrix.size)]] = 0
    return matrix


def change_of(module) -> np.ndarray:
    b, a = (getattr(module, name)[adapters.STUDENT].weight.detach().double().numpy() for name in ("lora_B", "lora_A"))
    return module.scaling[adapters.STUDENT] * b @ a


def rewritten(base, model, change=lambda d: d, whole=lambda w: w):
    """The base with changed weights, computed in numpy."""
    for name, module in lora_layers(model).items():
        weight = base.get_submodule(name.removeprefix("base_model.model.")).weight
        merged = weight.detach().double().numpy() + change(change_of(module))
        weight.data = torch.from_numpy(whole(merged)).float()
    return base


@pytest.mark.parametrize("tie", [False, True])
def test_pruned_by_magnitude(tie):
    ours = context(adapted(tiny_llama(tie=tie)))
    seen, rows = by_name(compression.pruning(ours)), ours.probes["forget"].rows
    for share in (0.1, 0.3):
        whole = rewritten(tiny_llama(tie=tie), ours.model, whole=lambda w, share=share: smallest_gone(w, share))
        found = seen[f"{share:.0%} of the weights pruned", "extraction_strength"]["rows"]
        assert found == pytest.approx(strengths(whole, rows))
        part = rewritten(tiny_llama(tie=tie), ours.model, change=lambda d, share=share: smallest_gone(d, share))
        assert seen[f"{share:.0%} of the change pruned", "extraction_strength"]["rows"] == pytest.approx(strengths(part, rows))
    assert {entry.get("threshold") for entry in seen.values()} == {"compression"}


def test_a_model_without_an_adapter_is_pruned_as_it_is():
    ours = context(tiny_llama(), view="never_seen")
    seen = by_name(compression.pruning(ours))
    assert {what for what, _ in seen} == {"10% of the weights pruned", "30% of the weights pruned"}
    bare = tiny_llama()
    for layer in bare.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = torch.from_numpy(smallest_gone(layer.weight.detach().numpy(), 0.3))
    found = seen["30% of the weights pruned", "extraction_strength"]["rows"]
    assert found == pytest.approx(strengths(bare, ours.probes["forget"].rows))


def test_a_quantized_base_is_pruned_in_its_16_bit_weights(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "base")
    adapted().save_pretrained(tmp_path / "adapter")
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = adapters.load_base(tmp_path / "base", dtype=torch.float32, quantization_config=nf4)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.arange(3, 30)[None]
    before = model(input_ids=ids).logits
    dense = context(adapted())
    ours = context(model, load_dense=lambda: AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32))
    expected = by_name(compression.pruning(dense))
    for key, entry in by_name(compression.pruning(ours)).items():
        assert entry["mean"] == pytest.approx(expected[key]["mean"], abs=1e-6)
    assert compression.svd(ours)
    assert frag.frag(ours)
    assert torch.equal(model(input_ids=ids).logits, before)
    with pytest.raises(attacks.Skipped, match="not at hand"):
        compression.pruning(context(model))


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"bias": "all"}])
def test_what_is_no_plain_sum_is_neither_pruned_nor_foretold(settings):
    ours = context(adapted(**settings))
    for attack in (compression.pruning, frag.frag):
        with pytest.raises(attacks.Skipped, match="not merged"):
            attack(ours)


@pytest.mark.parametrize("rank", [1, 4, 7])
def test_truncated_to_a_part_of_the_rank(rank):
    ours = context(adapted(r=rank))
    seen = by_name(compression.svd(ours))
    for part in (2, 4):
        count = max(1, rank // part)

        def largest(change, count=count):
            left, values, right = np.linalg.svd(change)
            return (left[:, :count] * values[:count]) @ right[:count]

        expected = strengths(rewritten(tiny_llama(), ours.model, change=largest), ours.probes["forget"].rows)
        assert seen[f"1/{part} of the rank of each change", "extraction_strength"]["rows"] == pytest.approx(expected)


def seen_inputs(model, rows, name: str) -> np.ndarray:
    """(tokens, columns) of what goes into a module of the base, row by row without padding."""
    found = []
    hook = model.get_submodule(name).register_forward_hook(lambda _, inputs, __: found.append(inputs[0][0].detach().double().numpy()))
    with torch.no_grad(), model.disable_adapter():
        for row in rows:
            model(input_ids=torch.tensor([row["input_ids"]]))
    hook.remove()
    return np.concatenate(found)


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "down_proj"]])
def test_frag_from_whole_matrices(modules):
    ours = context(adapted(target_modules=modules))
    seen = {metric: entry["mean"] for (_, metric), entry in by_name(frag.frag(ours)).items()}
    changes = {name: change_of(module) ** 2 for name, module in lora_layers(ours.model).items()}
    cosines = {}
    for name in ("forget", "retain"):
        columns = {module: (seen_inputs(ours.model, ours.probes[name].rows, module) ** 2).mean(0) for module in changes}
        importance = np.concatenate([np.tile(columns[module], (len(change), 1)).ravel() for module, change in changes.items()])
        squared = np.concatenate([change.ravel() for change in changes.values()])
        cosines[name] = importance @ squared / np.linalg.norm(importance) / np.linalg.norm(squared)
        assert seen[f"cosine_{name}"] == pytest.approx(cosines[name], rel=1e-4)
    assert seen["frag"] == pytest.approx(cosines["forget"] - cosines["retain"], abs=1e-5)


def test_frag_of_no_change_is_not_known_and_without_a_retain_set_not_made():
    ours = context(adapted(size=0.0))
    assert all(entry["mean"] is None for entry in frag.frag(ours))
    with pytest.raises(attacks.Skipped, match="retain"):
        frag.frag(context(adapted(), probes={"forget": ours.probes["forget"]}))
