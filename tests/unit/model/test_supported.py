"""Adapters whose views would not be what they are called are refused in one sentence that names the key."""

import copy

import pytest
import torch
from families import load
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.lora.config import LoftQConfig
from test_trainer import build
from tiny_models import tiny_llama

from peft_unlearn.model import adapters
from peft_unlearn.util.errors import UserError

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize(
    ("key", "config"),
    [
        ("peft_config: a PeftType.IA3", IA3Config(target_modules=["q_proj"], feedforward_modules=[], task_type="CAUSAL_LM")),
        ("init_lora_weights: 'pissa'", LoraConfig(**LORA, init_lora_weights="pissa")),
        ("init_lora_weights: 'loftq'", LoraConfig(**LORA, init_lora_weights="loftq", loftq_config=LoftQConfig())),
        ("init_lora_weights: 'orthogonal'", LoraConfig(**LORA | {"r": 3}, init_lora_weights="orthogonal")),
        ("bias: 'all'", LoraConfig(**LORA, bias="all")),
        ("bias: 'lora_only'", LoraConfig(**LORA, bias="lora_only")),
        ("alora_invocation_tokens", LoraConfig(**LORA, alora_invocation_tokens=[3, 4])),
        ("task_type: 'SEQ_CLS'", LoraConfig(**LORA | {"task_type": "SEQ_CLS"})),
    ],
)
def test_a_new_adapter_is_refused_by_its_key(key, config):
    with pytest.raises(UserError, match=rf"^{key}[^\n]*\.$"):
        adapters.attach(tiny_llama(), config)


@pytest.mark.parametrize("name", ["default", "finetune"])
def test_so_is_one_that_the_model_brings(name):
    model = get_peft_model(tiny_llama(), LoraConfig(**LORA, init_lora_weights="olora"), adapter_name=name)
    with pytest.raises(UserError, match="init_lora_weights: 'olora'.*path_initial_model_for_weight_conversion"):
        adapters.attach(model, None if name == "default" else LoraConfig(**LORA))


@pytest.mark.parametrize(("switch", "mended"), [("merge_adapter", "unmerge_adapter"), ("disable_adapter_layers", "enable_adapter_layers")])
def test_an_adapter_that_no_view_could_switch_is_refused(switch, mended):
    """PEFT leaves out what is added to a merged adapter, and all of those that are switched off."""
    model = get_peft_model(tiny_llama(), LoraConfig(**LORA), adapter_name="finetune")
    getattr(model.base_model, switch)()
    with pytest.raises(UserError, match=rf"^model: [^\n]*{mended}"):
        adapters.attach(model, LoraConfig(**LORA))


def test_dora_on_int8_is_refused_on_a_cpu():
    with pytest.raises(UserError, match="use_dora.*int8.*load_in_4bit"):
        adapters.attach(load("Llama", "int8"), LoraConfig(**LORA, use_dora=True))


def test_a_base_that_gives_no_gradient_is_refused_before_training():
    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx, states):
            return states * 2

    model = tiny_llama()
    model.model.norm.forward = Kernel.apply
    with pytest.raises(UserError, match=r"^model_name_or_path: a LlamaForCausalLM of transformers cannot be trained through \([^\n]*\.$"):
        adapters.attach(model, LoraConfig(**LORA))


@pytest.mark.parametrize(
    "whole", [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [3, 4]}], ids=["modules_to_save", "trainable_token_indices"]
)
def test_what_both_adapters_of_a_stack_train_as_a_whole_is_refused_and_what_one_trains_is_not(whole):
    def below(**extra):
        return get_peft_model(tiny_llama(), LoraConfig(**LORA, **copy.deepcopy(extra)), adapter_name="finetune")

    with pytest.raises(UserError, match="modules_to_save"):
        adapters.attach(below(**whole), LoraConfig(**LORA, **copy.deepcopy(whole)))
    adapters.attach(below(**whole), LoraConfig(**LORA))
    adapters.attach(below(), LoraConfig(**LORA, **copy.deepcopy(whole)))


def test_a_negated_run_takes_away_what_the_same_run_would_add_embeddings_included(tmp_path):
    def change(negate):
        config = LoraConfig(**LORA | {"target_modules": ["embed_tokens", "q_proj"]})
        run = build(tmp_path, method="task_arithmetic", negate=negate, max_steps=2, peft_config=config)
        run.train()
        merged, base = run.model.merge_and_unload().state_dict(), tiny_llama().state_dict()
        return {name: merged[name] - base[name] for name in base}

    added, taken = change(False), change(True)
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"):
        assert added[name].norm() > 1e-3
        assert torch.allclose(taken[name], -added[name], atol=1e-6)
