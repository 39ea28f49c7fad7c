"""The head by itself, and losses by chunks, against whole logits and autograd."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_llama
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.losses import ceu, ihl, logit_margin, undial
from peft_unlearn.model import lm_head
from peft_unlearn.model.lm_head import forward
from peft_unlearn.model.logprobs import kl, qkl, score

V = 128
COMMON = {
    "vocab_size": V,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": {},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 16, "final_logit_softcapping": 2.0, "attn_logit_softcapping": None},
    "gemma3_text": {"head_dim": 16, "final_logit_softcapping": 2.0},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "mixtral": {"num_local_experts": 2},
    "phi": {},
    "gpt_neox": {},
    "gpt2": {"n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
}


def made(family, **changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(COMMON | FAMILIES[family] | changes))).eval()
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))  # biases and norms too, and logits that are not all alike
    return model


def batch(rows=3, width=9):
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, V, (rows, width), generator=g)
    known = torch.arange(width) < torch.randint(4, width + 1, (rows, 1), generator=g)
    return {
        "input_ids": ids,
        "attention_mask": known.long(),
        "labels": ids.masked_fill(~known | (torch.arange(width) < 2), IGNORE),
    }


def whole(model, b):
    """(N, V) logits of a plain forward, and the N labels."""
    targets = b["labels"][:, 1:]
    logits = model(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits[:, :-1]
    return logits[targets != IGNORE].float(), targets[targets != IGNORE]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapted", [False, True])
def test_the_head_by_itself_gives_the_logits_of_the_model(family, adapted):
    model, b = made(family), batch()
    for p in model.parameters():
        p.requires_grad_(False)
    if adapted:
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    with torch.no_grad():
        found = forward(model, input_ids=b["input_ids"], attention_mask=b["attention_mask"])
        expected = model(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits
        logits = found.head.logits(found.states.flatten(0, 1)).unflatten(0, expected.shape[:2])
    assert not found.head.trained
    assert found.head.vocabulary == V
    assert found.states.shape == (3, 9, 64)
    assert found.output.logits.shape[:2] == (3, 1)
    assert torch.allclose(logits, expected, atol=1e-5)
    with torch.no_grad():  # and the model is as it was
        assert torch.equal(model(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits, expected)


ASKED = {
    "kl": lambda z, y, z0: kl(z, z0),
    "qkl": lambda z, y, z0: qkl(z, z0),
    "ihl": lambda z, y, z0: ihl(z, y),
    "ceu": lambda z, y, z0: ceu(z, y),
    "undial": lambda z, y, z0: undial(z, y, z0),
    "logit_margin": lambda z, y, z0: logit_margin(z),
}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("tokens", [1, 4, 1000])
def test_values_and_gradients_by_chunks_are_those_of_whole_logits(family, tokens, monkeypatch):
    monkeypatch.setattr(lm_head, "ELEMENTS", tokens * V + 1)
    b, base = batch(), made(family)
    base.requires_grad_(False)
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad(), model.disable_adapter():
        anchor, z0 = score(model, b, logps=False), whole(model, b)[0]
    found = score(model, b, asked={name: (function, anchor) for name, function in ASKED.items()})
    z, y = whole(model, b)
    expected = {"": -F.cross_entropy(z, y, reduction="none")} | {name: function(z, y, z0) for name, function in ASKED.items()}
    given = found.of_logits | {"": found.logps[found.mask]}
    g = torch.Generator().manual_seed(2)
    for name, values in expected.items():
        assert torch.allclose(given[name], values, rtol=1e-4, atol=1e-5)
        weights = torch.randn(len(y), generator=g)  # each token its own
        mine, theirs = (
            torch.cat([x.flatten() for x in torch.autograd.grad((v * weights).sum(), parameters, retain_graph=True)])
            for v in (given[name], values)
        )
        assert (mine - theirs).norm() < 2e-5 * theirs.norm()
        assert theirs.norm() > 0


class Largest(TorchDispatchMode):
    """The largest memory that any operation's output lies in."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.elements = max(
            [self.elements, *(t.untyped_storage().nbytes() // 4 for t in tree_leaves(output) if isinstance(t, torch.Tensor))]
        )
        return output


@pytest.mark.parametrize("differentiable", [True, False])
def test_no_more_logits_exist_at_a_time_than_a_chunk_has(differentiable, monkeypatch):
    vocabulary = 8192
    monkeypatch.setattr(lm_head, "ELEMENTS", 4 * vocabulary)
    model, b = tiny_llama(vocab=vocabulary), batch(12, 16)
    model.lm_head.requires_grad_(False)
    model.model.embed_tokens.requires_grad_(False)
    with Largest() as largest, torch.set_grad_enabled(differentiable):
        anchor = score(model, b)
        found = score(model, b, asked={"kl": (ASKED["kl"], anchor)})
        if differentiable:
            (found.logps.sum() + found.of_logits["kl"].sum()).backward()
    assert len(found.targets) > 70
    assert largest.elements <= max(4 * vocabulary, vocabulary * 64)  # a chunk, or the head's own weight as it is turned
    assert largest.elements < len(found.targets) * vocabulary


def test_a_head_that_is_trained_gets_its_gradients():
    b = batch()
    model = made("qwen3")  # tied
    plain = copy.deepcopy(model)
    score(model, b).logps.sum().backward()
    z, y = whole(plain, b)
    (-F.cross_entropy(z, y, reduction="sum")).backward()
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
    model = get_peft_model(made("llama").requires_grad_(False), LoraConfig(target_modules=["lm_head", "q_proj"], init_lora_weights=False))
    found = score(model, b)
    assert found.head.trained
    found.logps.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)


def test_a_head_with_an_adapter_is_read_under_the_adapters_of_its_forward():
    b, kl_of = batch(), ASKED["kl"]
    model = get_peft_model(made("llama").requires_grad_(False), LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    with torch.no_grad(), model.disable_adapter():
        anchor, z0 = score(model, b), whole(model, b)[0]
    found = score(model, b, asked={"kl": (kl_of, anchor)})
    assert torch.allclose(found.of_logits["kl"], kl_of(whole(model, b)[0], None, z0), atol=1e-5)
    assert found.of_logits["kl"].mean() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_head_computes_as_the_forward_did_under_autocast(dtype):
    model, b = made("llama").requires_grad_(False), batch()
    inputs = {"input_ids": b["input_ids"], "attention_mask": b["attention_mask"]}
    with torch.autocast("cpu", dtype=dtype):
        found = forward(model, **inputs)
        expected = model(**inputs).logits.float()
    logits = found.head.logits(found.states.flatten(0, 1)).unflatten(0, expected.shape[:2])  # outside autocast
    assert torch.equal(logits, expected)
    assert not torch.equal(logits, model(**inputs).logits)


def test_small_gradients_do_not_vanish_where_the_head_computes_in_fp16():
    model, b = made("llama").requires_grad_(False), batch()
    with torch.no_grad():
        anchor = score(model, b)
    exact = copy.deepcopy(model)
    for m in (model, exact):
        m.model.embed_tokens.weight.requires_grad_(True)
        m.model.norm.weight.data += 1e-3  # a student that is nearly its anchor
    half = model.half()
    with torch.no_grad():
        anchor16 = score(copy.deepcopy(half), b)
        anchor16 = anchor16._replace(states=anchor16.states * 1.002)
        anchor = score(exact, b)
        anchor = anchor._replace(states=anchor.states * 1.002)
    found = []
    for m, a in ((half, anchor16), (exact, anchor)):
        scores = score(m, b, asked={"kl": (ASKED["kl"], a)})
        (slope,) = torch.autograd.grad(scores.of_logits["kl"].sum() * 2**10, m.model.embed_tokens.weight)
        found.append(slope.float())
    assert F.cosine_similarity(found[0].flatten(), found[1].flatten(), dim=0) > 0.9


def test_log_probabilities_that_nobody_trains_have_values_and_no_gradient():
    model, b = made("llama").requires_grad_(False), batch()
    model.model.norm.weight.requires_grad_(True)
    with torch.no_grad():
        anchor = score(model, b)
    found = score(model, b, asked={"kl": (ASKED["kl"], anchor)}, trained=False)
    assert torch.equal(found.logps, anchor.logps)
    assert not found.logps.requires_grad
    assert found.of_logits["kl"].requires_grad


def test_a_model_whose_body_is_not_found_gives_whole_logits(monkeypatch):
    model, b = made("llama").requires_grad_(False), batch()
    monkeypatch.setattr(model, "get_decoder", lambda: torch.nn.Identity())
    assert torch.allclose(score(model, b).logps[score(model, b).mask], -F.cross_entropy(*whole(model, b), reduction="none"), atol=1e-5)


def test_a_models_own_forward_makes_no_logits_from_its_second_on():
    """Those of one position a row would read all of the head's weights for each row."""
    model, seen = tiny_llama().requires_grad_(False), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[:2])))
    ids = torch.arange(12).view(3, 4)
    first = lm_head.forward(model, input_ids=ids)
    seen.clear()
    second = lm_head.forward(model, input_ids=ids)
    assert seen == [(3, 0)]
    assert torch.equal(first.states, second.states)
    assert torch.equal(second.head.logits(second.states[0]), model(input_ids=ids).logits[0].float())
