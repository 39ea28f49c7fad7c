"""The forward through merged and quantized weights: the model that is shipped, with the gradients of the one that is trained."""

import copy
from functools import partial

import pytest
import torch
from adapted import IDS, LORA, finetune, logits, stir
from families import tiny
from peft import LoraConfig, PeftModel
from peft.utils.integrations import dequantize_module_weight
from test_trainer import build
from tiny_models import tiny_llama
from torch.func import functional_call
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from peft_unlearn.model import adapters
from peft_unlearn.model.fake_quant import QUANTIZERS, deployed, int8, nf4
from peft_unlearn.training import passes
from peft_unlearn.util.errors import UserError

NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)


def adapted(seed: int, base=None):
    model = adapters.attach(tiny_llama(seed) if base is None else base, copy.deepcopy(LORA))
    stir(model, "default", seed + 1)
    return model


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_the_model_that_transformers_loads_after_a_merge(seed, tmp_path):
    model = adapted(seed)
    copy.deepcopy(model).merge_and_unload().save_pretrained(tmp_path)
    shipped = adapters.load_base(tmp_path, quantization_config=NF4)
    with deployed(model, "nf4"):
        assert torch.allclose(logits(model), logits(shipped), atol=1e-4)
    assert not torch.allclose(logits(model), logits(shipped), atol=1e-2)  # the grid is coarse enough to tell


LAYERS = {
    "DoRA": {"use_dora": True, "target_modules": "all-linear"},
    "some layers alone": {"target_modules": ["q_proj", "c_attn"]},
    "embeddings and head": {"target_modules": ["q_proj", "c_attn", "embed_tokens", "wte", "lm_head"]},
    "the head as a whole": {"target_modules": ["q_proj", "c_attn"], "modules_to_save": ["lm_head"]},
    "a layer as a whole": {"target_modules": ["q_proj", "c_attn"], "modules_to_save": ["up_proj", "c_fc"]},
    "rsLoRA": {"use_rslora": True, "target_modules": "all-linear"},
}


@pytest.mark.parametrize(
    ("kind", "family"),
    [(kind, family) for kind in LAYERS for family in ("Llama", "GPT-2", "Mixtral") if (kind, family) != ("DoRA", "Mixtral")],
)  # PEFT has no DoRA for experts
def test_of_every_kind_of_adapter_it_is_the_merged_model_as_transformers_quantizes_it(kind, family, tmp_path):
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **copy.deepcopy(LAYERS[kind]))
    model = adapters.attach(tiny(family, tie_word_embeddings=False), config)
    stir(model, "default", 1)
    merged = copy.deepcopy(model).merge_and_unload()
    merged.save_pretrained(tmp_path)
    shipped = adapters.load_base(tmp_path, quantization_config=NF4)
    with deployed(model, "nf4"):
        assert torch.allclose(logits(model), logits(shipped), atol=1e-4)
    assert not torch.allclose(logits(model), logits(shipped), atol=1e-2)


@pytest.mark.parametrize(
    ("extra", "said"),
    [({"lora_bias": True}, "lora_bias"), ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, "target_parameters")],
)
def test_an_adapter_whose_merged_weight_is_not_known_is_refused_before_training(extra, said, tmp_path):
    base = tiny("OPT") if said == "lora_bias" else tiny_llama()
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | extra)
    with pytest.raises(UserError, match=f"^train_quantized: .*q_proj under {said}"):
        build(tmp_path, method="mollm", model=base, train_quantized="nf4", peft_config=config)


def test_on_a_quantized_base_it_is_the_merge_in_place(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    model = adapted(0, adapters.load_base(tmp_path, quantization_config=NF4))
    merged = copy.deepcopy(model).merge_and_unload()
    adapters.keep_weights_unpacked(merged)
    with deployed(model, "nf4"):
        assert torch.allclose(logits(model), logits(merged), atol=1e-4)


def test_int8_is_what_bitsandbytes_holds(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    held = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    layer, exact = (model.model.layers[0].mlp.up_proj for model in (held, tiny_llama()))
    assert torch.equal(dequantize_module_weight(layer).float(), int8(exact.weight.data))


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_gradients_are_straight_through(kind):
    """Of a model whose weights are Δ + (Q(W + Δ) − Δ), the bracket held constant, by autograd through the whole (out, in) matrix."""
    model = adapted(0)
    with deployed(model, kind):
        model(IDS, labels=IDS).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    plain = tiny_llama(0)
    factors, weights = {}, {}
    for name, layer in model.get_base_model().named_modules():
        if hasattr(layer, "lora_A"):
            a, b = (getattr(layer, f"lora_{m}")["default"].weight.detach().clone().requires_grad_() for m in "AB")
            change = 2.0 * b @ a
            weights[f"{name}.weight"] = change + (QUANTIZERS[kind](plain.get_submodule(name).weight + change) - change).detach()
            factors |= {f"{name}.lora_A.": a, f"{name}.lora_B.": b}
    functional_call(plain, weights, (IDS,), {"labels": IDS}).loss.backward()
    for name, gradient in found.items():
        expected = next(factor.grad for part, factor in factors.items() if part in name)
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-6), name
    assert len(found) == len(factors) > 0


def test_the_users_adapter_below_is_merged_as_well(tmp_path):
    finetune(tmp_path)
    model = adapters.attach(PeftModel.from_pretrained(tiny_llama(), tmp_path, adapter_name="finetune"), copy.deepcopy(LORA))
    stir(model, "default", 1)
    merged = copy.deepcopy(model).merge_and_unload()
    for layer in merged.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = nf4(layer.weight.data)
    with deployed(model, "nf4"):
        assert torch.allclose(logits(model), logits(merged), atol=1e-4)


def test_it_leaves_everything_as_it_was_even_after_an_error():
    model = adapted(0)
    before = logits(model)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    own = layer.forward = partial(type(layer).forward, layer)  # as accelerate's hooks put it there
    with pytest.raises(RuntimeError, match="inside"), deployed(model, "int8"):
        assert layer.forward is not own
        raise RuntimeError("inside")
    assert layer.forward is own
    assert torch.equal(logits(model), before)


def test_every_second_step_computes_as_shipped(tmp_path, monkeypatch):
    steps = []
    run = build(tmp_path, method="mollm", train_quantized="nf4", max_steps=4)

    def counting(model, kind):
        steps.append((run.state.global_step, kind))
        return deployed(model, kind)

    monkeypatch.setattr(passes, "deployed", counting)
    run.train()
    assert set(steps) == {(1, "nf4"), (3, "nf4")}
