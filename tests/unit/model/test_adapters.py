"""One base, several adapters: every view is the model it claims to be, and nothing leaks from one to another."""

import copy
import gc
import weakref

import pytest
import torch
from adapted import LORA, finetune, logits, stir
from families import tiny
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import tiny_llama
from transformers import BitsAndBytesConfig

from peft_unlearn.model import adapters
from peft_unlearn.util.errors import UserError


def test_views_are_the_models_they_claim_to_be():
    model = adapters.attach(tiny_llama(), copy.deepcopy(LORA), teacher=True)
    stir(model, "default", 1)
    student = logits(model)
    with adapters.view(model, "teacher"):
        assert torch.equal(logits(model), logits(tiny_llama()))  # B is still 0
    stir(model, "teacher", 2)
    for name in ("reference", "never_seen"):
        with adapters.view(model, name):
            assert torch.equal(logits(model), logits(tiny_llama()))
    with adapters.view(model, "teacher"):
        assert not torch.allclose(logits(model), student)
    assert torch.equal(logits(model), student)


def test_teacher_starts_as_a_copy_of_the_student():
    model = adapters.attach(tiny_llama(), copy.deepcopy(LORA), teacher=True)
    student, teacher = (adapters.adapter_parameters(model, n) for n in ("default", "teacher"))
    assert len(student) == len(teacher) > 0
    assert all(torch.equal(a, b) and a is not b for a, b in zip(student, teacher, strict=True))


def test_modules_to_save_follow_the_view_and_only_the_students_train():
    model = adapters.attach(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]), teacher=True)
    stir(model, "default", 1)
    student, trained = logits(model), {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("modules_to_save.default" in name for name in trained)
    for view in ("reference", "teacher", "never_seen"):
        with adapters.view(model, view), adapters.view(model, "reference"):
            assert torch.equal(logits(model), logits(tiny_llama()))
    assert torch.equal(logits(model), student)
    assert not torch.equal(student, logits(tiny_llama()))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained == {n for n in trained if "default" in n}


def test_views_restore_what_is_trainable_even_after_an_error():
    model = adapters.attach(tiny_llama(), copy.deepcopy(LORA), teacher=True)
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    assert {n for n, grad in before.items() if grad} == {n for n in before if ".default." in n}
    with pytest.raises(RuntimeError, match="inside"), adapters.view(model, "teacher"):
        assert not any(p.requires_grad for p in model.parameters())
        raise RuntimeError("inside")
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before


def test_stacking_keeps_the_users_adapter_as_part_of_the_reference(tmp_path):
    finetune(tmp_path / "mine")
    mine = PeftModel.from_pretrained(tiny_llama(), tmp_path / "mine")
    model = adapters.attach(PeftModel.from_pretrained(tiny_llama(), tmp_path / "mine", adapter_name="finetune"), copy.deepcopy(LORA))
    assert torch.allclose(logits(model), logits(mine), atol=1e-6)
    stir(model, "default", 1)
    assert not torch.allclose(logits(model), logits(mine), atol=1e-2)
    with adapters.view(model, "reference"):
        assert torch.allclose(logits(model), logits(mine), atol=1e-6)
    with adapters.view(model, "never_seen"):
        assert torch.equal(logits(model), logits(tiny_llama()))
    assert not any(p.requires_grad for p in adapters.adapter_parameters(model, "finetune"))


def test_training_an_adapter_further_keeps_its_start_as_the_reference(tmp_path):
    finetune(tmp_path / "mine")
    mine = PeftModel.from_pretrained(tiny_llama(), tmp_path / "mine")
    model = adapters.attach(PeftModel.from_pretrained(tiny_llama(), tmp_path / "mine", is_trainable=True))
    stir(model, "default", 1)
    with adapters.view(model, "reference"):
        assert torch.allclose(logits(model), logits(mine), atol=1e-6)
    with pytest.raises(UserError, match="peft_config"):
        adapters.attach(PeftModel.from_pretrained(tiny_llama(), tmp_path / "mine"), copy.deepcopy(LORA))


def test_adapters_are_fp32_on_a_bf16_base():
    model = adapters.attach(tiny_llama().bfloat16(), copy.deepcopy(LORA), teacher=True)
    for name in ("default", "teacher"):
        assert {p.dtype for p in adapters.adapter_parameters(model, name)} == {torch.float32}


@pytest.mark.parametrize("teacher", [False, True])
def test_exported_folder_is_the_student_alone_and_plain_peft_loads_it(teacher, tmp_path):
    model = adapters.attach(tiny_llama(), copy.deepcopy(LORA), teacher=teacher)
    stir(model, "default", 1)
    adapters.export(model, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*teacher*"))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    fresh = PeftModel.from_pretrained(tiny_llama(), tmp_path / "out")
    assert torch.equal(logits(fresh), logits(model))


KINDS = {
    "plain": {},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "whole modules": {"modules_to_save": ["lm_head", "norm"]},
    "tokens": {"trainable_token_indices": [3, 4, 9]},
    "tokens of tied embeddings": {"trainable_token_indices": [3, 4, 9]},
    "DoRA": {"use_dora": True},
    "DoRA of embeddings": {"use_dora": True, "target_modules": ["embed_tokens", "q_proj"]},
    "rsLoRA": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}, "alpha_pattern": {"v_proj": 3}},
    "bias": {"lora_bias": True, "target_modules": ["q_proj"]},
    "experts": {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
}


def base_of(kind):
    return tiny("Mixtral") if kind == "experts" else tiny_llama(tie="tied" in kind)


def config_of(kind):
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | copy.deepcopy(KINDS[kind]))


def values(model, name):
    return {n.replace(f".{name}", ".default"): p.detach().clone() for n, p in model.named_parameters() if name in n.split(".")}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapters_parameters_are_those_that_peft_would_train(kind):
    expected = {n for n, p in get_peft_model(base_of(kind), config_of(kind)).named_parameters() if p.requires_grad}
    model = adapters.attach(base_of(kind), config_of(kind), teacher=True)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for p in adapters.adapter_parameters(model)} == expected
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
    teacher = [names[id(p)].replace(".teacher", ".default") for p in adapters.adapter_parameters(model, "teacher")]
    assert teacher == [names[id(p)] for p in adapters.adapter_parameters(model)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_view_is_the_base_under_one_adapter_by_peft_alone(kind):
    model = adapters.attach(base_of(kind), config_of(kind), teacher=True)
    base = logits(base_of(kind))
    with adapters.view(model, "teacher"):
        assert torch.allclose(logits(model), base, atol=1e-5)  # DoRA divides by a norm what it multiplied by it
    for seed, name in enumerate(("default", "teacher")):
        stir(model, name, seed)
    for view, name in (("student", "default"), ("teacher", "teacher")):
        alone = get_peft_model(base_of(kind), config_of(kind)).eval()
        own = values(model, name)
        for n, p in alone.named_parameters():
            p.data = own.get(n, p.data)
        with adapters.view(model, view):
            assert torch.allclose(logits(model), logits(alone), atol=1e-5)
            assert not torch.allclose(logits(model), base, atol=1e-3)
    for view in ("reference", "never_seen"):
        with adapters.view(model, view):
            assert torch.equal(logits(model), base)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_every_kind_is_trained_further_from_where_it_was(kind):
    mine = get_peft_model(base_of(kind), config_of(kind)).eval()
    torch.manual_seed(4)
    for p in mine.parameters():
        if p.requires_grad:
            p.data.add_(0.1 * torch.randn_like(p))
    before = logits(mine)
    model = adapters.attach(mine, teacher=True)
    stir(model, "default", 1)
    for view in ("reference", "teacher"):
        with adapters.view(model, view):
            assert torch.allclose(logits(model), before, atol=1e-5)
    with adapters.view(model, "never_seen"):
        assert torch.equal(logits(model), logits(base_of(kind)))


def test_a_module_of_the_base_may_be_called_as_an_adapter():
    base = tiny_llama()
    base.model.layers[0].default = torch.nn.Linear(2, 2)
    model = adapters.attach(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert all("lora_" in n for n, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["plain", "embeddings", "experts"])
def test_factors_that_start_at_zero_are_one_of_each_product(kind):
    model = adapters.attach(base_of(kind), config_of(kind))
    factors = adapters.lora_b(model)
    assert len(factors) == len(adapters.adapter_parameters(model)) / 2
    assert not any(p.any() for p in factors.values())


def test_missing_target_modules_are_named():
    with pytest.raises(UserError, match="lora_target_modules.*query_proj"):
        adapters.attach(tiny_llama(), LoraConfig(r=4, target_modules=["query_proj"], task_type="CAUSAL_LM"))


def test_a_base_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(UserError, match="model_name_or_path.*nowhere"):
        adapters.load_base(tmp_path / "nowhere")


def in_4_bits(folder):
    tiny_llama().save_pretrained(folder)
    return adapters.load_base(folder, dtype=torch.float32, quantization_config=BitsAndBytesConfig(load_in_4bit=True))


def test_a_4_bit_model_is_gone_when_it_is_released(tmp_path):
    model = in_4_bits(tmp_path)
    weight = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
    gc.disable()
    try:
        del model
        adapters.release()
        assert weight() is None
    finally:
        gc.enable()


def test_a_dense_model_goes_to_the_device_and_a_quantized_one_is_there(tmp_path):
    for base, device in ((tiny_llama(), "meta"), (in_4_bits(tmp_path), "cpu")):
        model = adapters.attach(base, copy.deepcopy(LORA))
        adapters.place(model, torch.device("meta"))
        assert model.get_input_embeddings().weight.device.type == device
