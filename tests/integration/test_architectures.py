"""Bases that are not all Llama: one of each kind, tiny, through the commands as `benchmarks/architectures.py` takes them all; and what is told."""

import logging

import architectures
import pytest
import torch
from adapted import stir
from families import load
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GenerationMixin

from beds import tiny_architectures
from beds.small_configs import small_config
from peft_unlearn.merging import merge
from peft_unlearn.metrics.logit_lens import logit_lens
from peft_unlearn.model import adapters, lm_head, saved, supported
from peft_unlearn.model.generation import generate
from peft_unlearn.model.readout import find_readout
from peft_unlearn.util.errors import UserError

LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
# Name, steps, and whether inner layers can be read.
KINDS = {
    "rotary": ("qwen3", ("forward", "train", "merge"), True),
    "Conv1D": ("gpt2", ("forward", "train", "merge"), True),
    "experts": ("qwen3_moe", ("forward", "plan", "train", "merge"), True),
    "state space": ("mamba", ("forward", "train", "merge"), True),
    "hybrid": ("jamba", ("forward", "plan", "train", "merge"), True),
    "several streams": ("gemma3n_text", ("forward", "plan", "train", "evaluate", "audit", "merge"), False),
}


def test_the_page_is_that_of_the_results():
    assert architectures.PAGE.read_text(encoding="utf-8") == architectures.table()


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_each_kind_goes_through_the_commands(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, wanted, lens = KINDS[kind]
    model = tiny_architectures.build(name)
    assert (find_readout(model) is not None) == lens
    steps = tiny_architectures.steps(model)
    for step in wanted:
        steps[step]()
    if not lens:
        found = logit_lens(model, tiny_architectures.tokenizer(), [])
        assert "read" in found["reason"]


def small(name, **changes):
    torch.manual_seed(0)
    config = small_config(name)
    config.update(changes)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def test_a_head_that_reads_more_than_the_last_states_is_left_to_the_model():
    model = small("prophetnet")
    found = lm_head.forward(model, input_ids=torch.arange(4, 10)[None])
    torch.testing.assert_close(found.head.logits(found.states), model(input_ids=torch.arange(4, 10)[None]).logits)


def test_a_norm_of_a_layer_is_no_final_norm():
    assert find_readout(small("bart")) is None  # its layers end with norms of their own
    assert find_readout(small("bert")) is None  # its head is more than a matrix


@pytest.mark.parametrize(("name", "changes"), [("xlm", {}), ("bert", {"is_decoder": False}), ("roberta", {"is_decoder": False})])
def test_a_model_that_sees_later_tokens_is_refused(name, changes):
    with pytest.raises(UserError, match=r"^model_name_or_path: a \w+ configured so lets a token see those after it[^\n]*\.$"):
        adapters.attach(small(name, **changes), LoraConfig(**LORA))


def test_projections_that_fused_kernels_read_themselves_get_no_adapter():
    model = adapters.attach(small("mamba"), LoraConfig(**LORA))
    adapted = {name.partition(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {"in_proj", "x_proj", "dt_proj"}


def test_weights_that_are_taken_apart_on_loading_are_merged_as_the_base_has_them(tmp_path):
    """HRM's checkpoint has the gate, queries, keys and values of a layer in one tensor; the adapter changes each by itself."""
    small("hrm_text").save_pretrained(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), LoraConfig(**LORA | {"target_modules": ["q_proj"]}))
    stir(model, "default", 1)
    model.save_pretrained(tmp_path / "lora")
    merge(tmp_path / "lora", tmp_path / "merged", base=tmp_path / "base")
    tiny_architectures.same(
        tiny_architectures.say(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), tiny_architectures.say(model), "logits"
    )


def test_layers_that_only_descend_from_linear_get_no_adapter():
    """Llama 4's router gives two tensors; Falcon's own layer gives what a linear one gives."""
    router = small("llama4_text")
    assert any(name.endswith("router") for name in supported.not_linear(router))
    assert not any("router" in name for name, _ in adapters.attach(router, LoraConfig(**LORA)).named_parameters() if ".lora_" in name)
    assert supported.not_linear(small("falcon")) == set()


def test_what_is_trained_is_what_peft_loads_again(tmp_path):
    """Of Laguna PEFT renames "shared_experts" once more on loading, so that their adapter would be lost."""
    model = adapters.attach(small("laguna"), LoraConfig(**LORA))
    for parameter in adapters.adapter_parameters(model):
        torch.nn.init.normal_(parameter, std=0.1)
    adapters.export(model, tmp_path / "out")
    trained = tiny_architectures.say(model)
    tiny_architectures.same(tiny_architectures.say(PeftModel.from_pretrained(small("laguna"), tmp_path / "out")), trained, "logits")
    tiny_architectures.same(tiny_architectures.say(saved.put(small("laguna"), str(tmp_path / "out"), "default")), trained, "logits")
    with pytest.raises(UserError, match=r"^lora_target_modules: PEFT gives model\.layers\.1\.mlp\.shared_experts\.\w+ another name"):
        adapters.attach(small("laguna"), LoraConfig(r=4, target_modules=["up_proj"], task_type="CAUSAL_LM"))


def test_parameters_that_peft_adds_and_the_model_lacks_are_not_saved(tmp_path):
    adapters.export(adapters.attach(small("hunyuan_v1_moe"), LoraConfig(**LORA)), tmp_path / "out")
    assert set(saved.config_of(str(tmp_path / "out"), key="model").target_parameters) == {"gate_up_proj", "down_proj"}
    saved.fit(small("hunyuan_v1_moe").to("meta"), str(tmp_path / "out"), "default", key="model")


def test_what_code_of_an_architecture_raises_is_told_in_a_sentence(monkeypatch):
    def breaks(*args, **kwargs):
        raise AttributeError("no such thing\nat all")

    model = small("llama")
    monkeypatch.setattr(GenerationMixin, "generate", breaks)
    rows = [{"input_ids": [4, 5, 6, 7], "labels": [-100, -100, 6, 7]}]
    with pytest.raises(
        UserError, match=r"^model_name_or_path: a LlamaForCausalLM .*cannot write texts \(AttributeError: no such thing at all\)"
    ):
        generate(model, tiny_architectures.tokenizer(), rows)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_experts_that_stay_unquantized_are_told_and_counted(kind, caplog):
    with caplog.at_level(logging.WARNING):
        model = load("Mixtral", kind)
    assert adapters.quantization(model).endswith("; experts in float32")
    assert adapters.quantization(load("Llama", kind)).count("experts") == 0
    names = {name for name, p in model.named_parameters() if any(p is one for one in supported.unquantized(model))}
    assert names == {f"model.layers.{i}.mlp.experts.{part}" for i in range(2) for part in ("gate_up_proj", "down_proj")}
