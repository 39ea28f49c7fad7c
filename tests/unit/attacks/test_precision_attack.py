"""The precision attack against the models that a user would really get: PEFT's merge, bitsandbytes' layers, plain loops."""

import numpy as np
import pytest
import torch
from attack_bed import TOKENIZER, adapted, by_name, context, probe, strengths
from bitsandbytes.functional import int8_vectorwise_quant
from peft import PeftModel
from tiny_models import tiny_llama
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from peft_unlearn import attacks
from peft_unlearn.attacks import precision
from peft_unlearn.attacks.context import RECOVERY
from peft_unlearn.attacks.scale import lora_layers
from peft_unlearn.model import adapters

NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The base, an adapter on it, and the two merged by PEFT, on disk."""
    folder = tmp_path_factory.mktemp("precision")
    tiny_llama().save_pretrained(folder / "base")
    adapted().save_pretrained(folder / "adapter")
    adapted().merge_and_unload().save_pretrained(folder / "merged")
    return folder


@pytest.fixture(scope="module")
def found():
    ours = context(adapted())
    return ours, by_name(precision.precision(ours))


def test_merged_into_the_weights_is_pefts_merge(found):
    ours, seen = found
    own = strengths(adapted().merge_and_unload(), ours.probes["forget"].rows)
    assert seen["merged into float32", "extraction_strength"]["rows"] == pytest.approx(own)
    assert seen["merged into float32", "median_alpha"]["mean"] == pytest.approx(1, abs=1e-5)


def test_rounded_to_nf4_is_the_merged_folder_loaded_in_4_bits(found, folder):
    ours, seen = found
    quantized = adapters.load_base(folder / "merged", dtype=torch.float32, quantization_config=NF4)
    own = strengths(quantized, ours.probes["forget"].rows)
    assert seen["rounded to NF4", "extraction_strength"]["rows"] == pytest.approx(own)
    assert 0 < np.mean(own) < 1


def test_in_place_is_pefts_merge_into_4_bits(found, folder):
    ours, seen = found
    base = adapters.load_base(folder / "base", dtype=torch.float32, quantization_config=NF4)
    merged = adapters.keep_weights_unpacked(PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload())
    own = strengths(merged, ours.probes["forget"].rows)
    assert seen["merged in place into NF4", "extraction_strength"]["rows"] == pytest.approx(own)


def test_a_base_that_is_quantized_on_the_disk_has_no_weights_to_merge_into(folder):
    quantized = adapters.load_base(folder / "base", dtype=torch.float32, quantization_config=NF4)
    model = PeftModel.from_pretrained(quantized, folder / "adapter")
    with pytest.raises(attacks.Skipped, match="quantized on the disk"):
        precision.precision(context(model, load_dense=lambda: quantized))


def test_alpha_by_module_from_its_definition(found):
    ours, seen = found
    model, by_hand = ours.model, {"rounded to NF4": [], "merged in place into NF4": []}
    for name, module in lora_layers(model).items():
        weight = module.get_base_layer().weight.detach().numpy().astype(np.float64)
        change = module.get_delta_weight(adapters.STUDENT).detach().numpy().astype(np.float64)

        def rounded(matrix):
            return precision.nf4(torch.from_numpy(matrix).float()).numpy().astype(np.float64)

        for way, after in (("rounded to NF4", weight + change), ("merged in place into NF4", rounded(weight) + change)):
            left = rounded(after) - rounded(weight)
            by_hand[way].append(sum((left * change).ravel()) / sum((change * change).ravel()))
        assert name.endswith("_proj")
    for way, alphas in by_hand.items():
        assert seen[way, "median_alpha"]["mean"] == pytest.approx(np.median(alphas), abs=1e-4)
        assert seen[way, "least_alpha"]["mean"] == pytest.approx(min(alphas), abs=1e-4)


def test_alpha_of_a_change_that_rounding_swallows_is_nothing():
    """A change far smaller than a step of NF4, in place, is rounded away: the reason never to merge in place."""
    seen = by_name(precision.precision(context(adapted(size=0.03))))
    assert seen["merged in place into NF4", "median_alpha"]["mean"] < 0.1
    assert seen["merged into float32", "median_alpha"]["mean"] == pytest.approx(1, abs=1e-3)


def test_int8_is_what_bitsandbytes_makes_of_a_row():
    weight = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)).half()
    rounded, largest, _ = int8_vectorwise_quant(weight)
    expected = rounded.float() * (largest[:, None] / 127)
    assert torch.allclose(precision.int8(weight.float()), expected, atol=float(largest.max()) / 127 * 0.51)
    assert (precision.int8(weight.float()) - expected).abs().mean() < 1e-3
    assert precision.int8(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (4, 7)])
def test_a_rounded_adapter_by_a_plain_loop(found, bits, largest):
    ours, seen = found
    model = adapted()
    for parameter in adapters.adapter_parameters(model):
        for row in parameter.data:
            step = float(max(abs(row))) / largest
            row.copy_(torch.tensor([round(float(value) / step) * step for value in row]))
    own = strengths(model, ours.probes["forget"].rows)
    assert seen[f"adapter rounded to int{bits}", "extraction_strength"]["rows"] == pytest.approx(own)


def test_a_quantized_base_is_merged_into_its_16_bit_weights(found, folder):
    _, dense = found
    base = adapters.load_base(folder / "base", dtype=torch.float32, quantization_config=NF4)
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    ours = context(model, load_dense=lambda: AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32))
    seen = by_name(precision.precision(ours))
    for key, entry in dense.items():
        if "adapter" not in key[0]:
            assert seen[key]["mean"] == pytest.approx(entry["mean"], abs=1e-6), key
    with pytest.raises(attacks.Skipped, match="not at hand"):
        precision.precision(context(model))


def test_on_a_users_own_adapter_the_change_is_the_forgetting_alone():
    model = adapted(seed=5, name=adapters.FINETUNE)
    model.add_adapter(adapters.STUDENT, model.peft_config[adapters.FINETUNE])
    for parameter in adapters.adapter_parameters(model, adapters.STUDENT):
        parameter.data *= 0.35
    with adapters.view(model, "student"):
        ours = context(model)
        seen = by_name(precision.precision(ours))
    both = strengths(model.merge_and_unload(adapter_names=[adapters.FINETUNE, adapters.STUDENT]), ours.probes["forget"].rows)
    assert seen["merged into float32", "extraction_strength"]["rows"] == pytest.approx(both)
    assert seen["merged into float32", "median_alpha"]["mean"] == pytest.approx(1, abs=1e-4)


def test_a_whole_model_is_only_rounded():
    seen = by_name(precision.precision(context(tiny_llama())))
    assert {what for what, _ in seen} == {"rounded to int8", "rounded to NF4"}
    assert {metric for _, metric in seen} == set(RECOVERY)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_what_is_no_plain_sum_is_not_merged(settings):
    with pytest.raises(attacks.Skipped, match="not merged"):
        precision.precision(attacks.Context(adapted(**settings), TOKENIZER, probes={}, plain={}, view="after"))


def test_weights_that_stand_the_other_way_round_are_merged_as_pefts_are():
    def base():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=64, n_layer=1, n_head=2, n_positions=64)).eval()

    model = adapted(base(), target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    ours = context(model, probes={"forget": probe(3)})
    seen = by_name(precision.precision(ours))
    merged = adapted(base(), target_modules=["c_attn", "c_proj"], fan_in_fan_out=True).merge_and_unload()
    rows = ours.probes["forget"].rows
    assert seen["merged into float32", "extraction_strength"]["rows"] == pytest.approx(strengths(merged, rows))
    for module in merged.modules():
        if isinstance(module, Conv1D):
            module.weight.data = precision.nf4(module.weight.data.T.contiguous()).T
    assert seen["rounded to NF4", "extraction_strength"]["rows"] == pytest.approx(strengths(merged, rows))
    assert seen["merged into float32", "least_alpha"]["mean"] == pytest.approx(1, abs=1e-4)
