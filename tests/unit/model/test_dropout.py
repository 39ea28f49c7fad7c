"""Dropout of every kind is off in the base, LoRA's own stays, and what draws at random in another way is refused."""

import copy

import pytest
import torch
from families import FAMILIES, load, tiny
from peft import LoraConfig
from tiny_models import tiny_llama
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, GPTNeoXConfig, OPTConfig

from peft_unlearn.model import adapters
from peft_unlearn.model.dropout import trains_as_it_evaluates
from peft_unlearn.util.errors import UserError

IDS = torch.arange(3, 15).view(2, 6)
LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
SMALL = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
RATES = {  # a module, a number of a module, a number of the config, a chance to leave a layer out
    "Falcon": FalconConfig(**SMALL, attention_dropout=0.3, hidden_dropout=0.3),
    "GPT-NeoX": GPTNeoXConfig(**SMALL, intermediate_size=128, attention_dropout=0.3, hidden_dropout=0.3),
    "BLOOM": BloomConfig(vocab_size=64, hidden_size=64, n_layer=2, n_head=4, hidden_dropout=0.3, attention_dropout=0.3),
    "OPT": OPTConfig(**SMALL, ffn_dim=128, word_embed_proj_dim=64, dropout=0.3, attention_dropout=0.3, layerdrop=0.3),
}


@pytest.mark.parametrize("name", RATES)
def test_training_mode_gives_what_eval_mode_gives(name):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(RATES[name])
    assert not torch.allclose(base.train()(IDS).logits, base.eval()(IDS).logits, atol=1e-3)
    model = adapters.attach(base, copy.deepcopy(LORA))
    expected = model.eval()(IDS).logits
    model.train()
    for _ in range(3):
        assert torch.allclose(model(IDS).logits, expected, atol=1e-6)
    assert trains_as_it_evaluates(model)


def test_loras_own_dropout_stays_and_is_told():
    model = adapters.attach(tiny("OPT"), LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.25, task_type="CAUSAL_LM"))
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    assert not trains_as_it_evaluates(model)


def test_int8_layers_on_a_cpu_train_otherwise_than_they_evaluate():
    model = adapters.attach(load("Llama", "int8"), copy.deepcopy(LORA))
    trained, evaluated = (model.train(mode)(IDS).logits for mode in (True, False))
    assert not torch.equal(trained, evaluated)
    assert not trains_as_it_evaluates(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_stay_in_the_mode_that_they_were_in(family):
    base = tiny(family)
    base.train()
    base.get_submodule(FAMILIES[family].norm).eval()
    modes = {name: module.training for name, module in base.named_modules()}
    adapters.attach(base, LoraConfig(r=2, target_modules=FAMILIES[family].attention, task_type="CAUSAL_LM"))
    now = {name.replace(".base_layer", ""): m.training for name, m in base.named_modules() if "lora_" not in name}
    assert {name: now[name] for name in modes} == modes


def test_a_base_that_draws_at_random_is_refused():
    base = tiny_llama()
    base.model.norm.register_forward_hook(lambda module, _, states: states + torch.rand_like(states) if module.training else states)
    with pytest.raises(UserError, match="LlamaForCausalLM draws at random.*another base"):
        adapters.attach(base, copy.deepcopy(LORA))


def test_the_check_takes_nothing_of_the_random_state():
    base = tiny_llama()
    base.model.norm.register_forward_hook(lambda module, _, states: states + 0 * torch.rand_like(states))
    states = []
    for model in (base, tiny_llama()):
        torch.manual_seed(3)
        adapters.attach(model, copy.deepcopy(LORA))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
