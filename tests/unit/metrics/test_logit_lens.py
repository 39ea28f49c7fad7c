"""The logit lens against a loop over layers and tokens, over architectures whose norms have different names."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig
from test_evaluation import dequantized_twin
from tiny_models import tiny_llama
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
)
from word_rows import DEGENERATE, END, ROWS, ragged, tokenizer

from peft_unlearn.metrics.logit_lens import layer_recalls, logit_lens
from peft_unlearn.model import adapters
from peft_unlearn.model.readout import find_readout

COMMON = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2}
MADE = {
    "model.norm": LlamaConfig(**COMMON, intermediate_size=96),
    "transformer.ln_f": GPT2Config(vocab_size=64, n_embd=64, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2),
    "gpt_neox.final_layer_norm": GPTNeoXConfig(**COMMON, intermediate_size=96),
    "model.decoder.final_layer_norm": OPTConfig(**COMMON, ffn_dim=96, word_embed_proj_dim=64, max_position_embeddings=64),
    "transformer.ln_f (bloom)": BloomConfig(vocab_size=64, hidden_size=64, n_layer=3, n_head=4),
    "model.norm (gemma2)": Gemma2Config(**COMMON, intermediate_size=96, num_key_value_heads=4, head_dim=16),
    "backbone.norm_f": MambaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=3),
}


def spread(model):
    """Weights wide enough that layers and positions differ, norms that are no identity."""
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            p.data.normal_(0, p.shape[-1] ** -0.5)
        elif "norm" in name or "ln_" in name:
            p.data.add_(0.3 * torch.randn_like(p))
    return model.eval()


def plain_lens(model, norm, row) -> list[float] | None:
    labels = row["labels"]
    places = [t for t in range(1, len(labels)) if labels[t] != -100]
    if places and labels[places[-1]] == END:
        places.pop()
    with torch.no_grad():
        states = model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states
        heads = [model.lm_head(norm(state[0])) for state in states[1:-1]]
    found = [[labels[t] in head[t - 1].topk(10).indices.tolist() for t in places] for head in heads]
    return [sum(hits) / len(hits) for hits in found] if places else None


def compare(found, expected) -> None:
    for value, layers in zip(found["rows"], expected, strict=True):
        assert value == (None if layers is None else max(layers))
    measured = [layers for layers in expected if layers is not None]
    assert found["layers"] == pytest.approx([sum(layer) / len(layer) for layer in zip(*measured, strict=True)])
    assert found["n"] == len(measured)
    assert 0 < found["mean"] < 1


@pytest.mark.parametrize("name", MADE)
def test_equals_a_plain_loop_whatever_the_norm_is_called(name):
    model = spread(AutoModelForCausalLM.from_config(copy.deepcopy(MADE[name])))
    norm = model.get_submodule(name.split()[0])
    compare(logit_lens(model, tokenizer(), ROWS, batch_size=4), [plain_lens(model, norm, row) for row in ROWS])


@pytest.mark.parametrize(("batch_size", "side"), [(1, "right"), (16, "left")])
def test_batches_padding_and_order_change_nothing(batch_size, side):
    model, order = tiny_llama(4), np.random.default_rng(0).permutation(len(ROWS))
    expected = [plain_lens(model, model.model.norm, ROWS[i]) for i in order]
    compare(logit_lens(model, tokenizer(side), [ROWS[i] for i in order], batch_size=batch_size), expected)


def test_follows_the_active_adapters_and_leaves_the_model_as_it_was():
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = adapters.attach(tiny_llama(), lora).train()
    torch.manual_seed(3)
    for p in adapters.adapter_parameters(model):
        p.data.add_(0.3 * torch.randn_like(p))
    merged = copy.deepcopy(model).merge_and_unload().eval()
    compare(logit_lens(model, tokenizer(), ROWS), [plain_lens(merged, merged.model.norm, row) for row in ROWS])
    with adapters.view(model, "reference"):
        base = tiny_llama()
        compare(logit_lens(model, tokenizer(), ROWS), [plain_lens(base, base.model.norm, row) for row in ROWS])
    assert all(module.training for module in model.modules())
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert not any(hook.__module__.startswith("peft_unlearn") for hook in hooks)


def test_what_the_last_layer_hides_is_found_below_it():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(MADE["model.norm"]))
    rows = ragged(6, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        for row in rows:
            model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    before = logit_lens(model, tokenizer(), rows)
    last = model.model.layers[-1]
    last.register_forward_hook(lambda module, inputs, output: -output)  # suppressed at the very end
    after = logit_lens(model, tokenizer(), rows)
    assert after == before
    assert after["mean"] > 0.9


def test_on_nf4_it_equals_that_of_the_dequantized_twin(tmp_path):
    tiny_llama(1).save_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = adapters.load_base(tmp_path, dtype=torch.float32, quantization_config=nf4)
    twin = dequantized_twin(model, tiny_llama(5))
    assert logit_lens(model, tokenizer(), ROWS) == logit_lens(twin, tokenizer(), ROWS)


def test_nan_is_no_miss():
    model = tiny_llama()
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: output * torch.nan)
    found = logit_lens(model, tokenizer(), ragged(3, 1))
    assert np.isnan([found["mean"], *found["rows"], *found["layers"]]).all()


def test_where_it_cannot_be_had_it_says_why(monkeypatch):
    one = AutoModelForCausalLM.from_config(LlamaConfig(**{**COMMON, "num_hidden_layers": 1}, intermediate_size=96))
    assert "one layer" in logit_lens(one, tokenizer(), ROWS)["reason"]
    monkeypatch.setattr(one, "get_output_embeddings", lambda: None)
    found = logit_lens(one, tokenizer(), ROWS)
    assert "norm" in found["reason"]
    assert (found["n"], found["rows"]) == (0, [None] * len(ROWS))
    nothing = logit_lens(tiny_llama(), tokenizer(), [DEGENERATE[2]])
    assert (nothing["n"], nothing["rows"]) == (0, [None])
    assert logit_lens(tiny_llama(), tokenizer(), [])["rows"] == []


def test_layers_come_in_order():
    model = spread(AutoModelForCausalLM.from_config(copy.deepcopy(MADE["model.norm"])))
    found = layer_recalls(model, tokenizer(), ROWS, find_readout(model), batch_size=2)
    assert found == [plain_lens(model, model.model.norm, row) for row in ROWS]
