"""Packed rows against the same rows, one at a time."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM

from peft_unlearn.data import collate_rows
from peft_unlearn.data.labels import IGNORE
from peft_unlearn.model import packing
from peft_unlearn.model.logprobs import score

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PACKED = {
    "llama": {},
    "gpt2": {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "num_key_value_heads": 2},
    "gemma3_text": {"sliding_window": 32},
    "qwen3": {},
    "mixtral": {"num_local_experts": 2},
}
PADDED = {
    "bloom": {"n_layer": 2, "n_head": 2},  # ALiBi
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8, "mamba_chunk_size": 8},  # a state goes from token to token
    "lfm2": {"layer_types": ["conv", "full_attention"]},  # three tokens are read together
}


def made(family, **changes):
    torch.manual_seed(0)
    shape = {**COMMON, **(PACKED | PADDED)[family], **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    for p in model.parameters():
        if p.ndim == 2:
            p.data.normal_(0, p.shape[-1] ** -0.5)
    return model.eval()


def row(length, prompt, behind, seed):
    """A row of random tokens, whose prompt and whose last tokens carry no label."""
    ids = torch.randint(3, 64, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    labels = [IGNORE if i < prompt or i >= length - behind else token for i, token in enumerate(ids)]
    return {"input_ids": ids, "labels": labels}


ROWS = [row(12, 3, 0, 1), row(5, 2, 1, 2), row(9, 1, 3, 3), row(2, 1, 0, 4)]


def alone(model, rows):
    """The log-probabilities of each row's labels, by a plain forward on that row."""
    for one in rows:
        ids, labels = torch.tensor([one["input_ids"]]), torch.tensor(one["labels"])[1:]
        logps = model(ids).logits[0, :-1].log_softmax(-1)
        yield logps[labels != IGNORE].gather(1, labels[labels != IGNORE, None]).flatten()


def gradient(model, logps):
    model.zero_grad()
    (logps * torch.arange(1, len(logps) + 1)).sum().backward()
    return torch.cat([p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None and "lm_head" not in name])


@pytest.mark.parametrize("family", [*PACKED, *PADDED])
def test_packed_rows_have_the_scores_and_gradients_that_they_have_alone(family):
    model = made(family, tie_word_embeddings=False)
    model.requires_grad_(False).get_input_embeddings().requires_grad_(True)
    with packing.packing(model):
        assert packing.takes(model, 11) == (family in PACKED)
        scores = score(model, collate_rows(ROWS, 0))
        found = scores.logps[scores.mask]
        moved = gradient(model, found)
    expected = torch.cat(list(alone(model, ROWS)))
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(moved, gradient(model, expected), rtol=1e-4, atol=1e-5 * moved.abs().max())


def shapes_of(length):
    """Of rows of a length: how many tokens they begin with that are no labels, and how many stand behind the last one, which leave one at least."""
    return st.integers(0, length - 2).flatmap(
        lambda behind: st.tuples(st.just(length), st.integers(0, length - 1 - behind), st.just(behind))
    )


rows_of_any_length = st.lists(st.integers(2, 20).flatmap(shapes_of), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(rows_of_any_length)
def test_a_packed_forward_reads_each_row_to_its_last_prediction_and_no_padding(shapes):
    model, rows, read = MODEL, [row(*shape, seed) for seed, shape in enumerate(shapes)], []
    hook = model.model.layers[1].mlp.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[:-1].numel()))
    with packing.packing(model), torch.no_grad():
        read.clear()
        scores = score(model, collate_rows(rows, 0))
        hook.remove()
        longest, wanted = max(length for length, *_ in shapes), sum(length - behind - 1 for length, _, behind in shapes)
        assert read == [wanted if wanted < len(shapes) * (longest - 1) else len(shapes) * longest]  # with nothing to leave out, as they are
        assert torch.allclose(scores.logps[scores.mask], torch.cat(list(alone(model, rows))), atol=1e-5)


MODEL = tiny_llama()


def test_hidden_states_of_packed_rows_are_those_of_padded_ones():
    batch = collate_rows(ROWS, 0)
    padded = score(MODEL, batch, layer=1)
    with packing.packing(MODEL):
        packed = score(MODEL, batch, layer=1)
    assert torch.allclose(packed.hidden, padded.hidden, atol=1e-5)
    assert torch.allclose(packed.states, padded.states, atol=1e-5)
    assert torch.equal(packed.targets, padded.targets)


def test_what_is_forgotten_for_memory_is_made_again_packed():
    model, batch = tiny_llama(), collate_rows(ROWS, 0)
    expected = gradient(model, score(model, batch).logps.flatten())
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with packing.packing(model):
        assert torch.allclose(gradient(model, score(model, batch).logps.flatten()), expected, rtol=1e-4, atol=1e-4)


def test_rows_beyond_a_window_are_padded():
    model, long = made("gemma3_text", sliding_window=10), collate_rows([row(12, 1, 0, 0), row(4, 1, 0, 1)], 0)
    expected = score(model, long).logps
    with packing.packing(model):
        assert packing.takes(model, 10)
        assert not packing.takes(model, 11)
        assert torch.equal(score(model, long).logps, expected)


def test_rows_of_one_length_are_taken_as_they_are():
    batch = collate_rows([row(8, 1, 0, seed) for seed in range(3)], 0)
    with packing.packing(MODEL):
        packed = score(MODEL, batch).logps
    assert torch.equal(packed, score(MODEL, batch).logps)


def test_other_forwards_go_on_as_they_were_and_so_does_the_model_afterwards():
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    expected = MODEL(input_ids=ids, attention_mask=mask).logits
    with pytest.raises(KeyError), packing.packing(MODEL):
        assert torch.equal(MODEL(input_ids=ids, attention_mask=mask).logits, expected)
        raise KeyError
    assert MODEL.config._attn_implementation == "sdpa"
    assert not packing.takes(MODEL)


@pytest.mark.parametrize("own", [{"attention_mask": torch.ones(1, 1, 4, 4, dtype=torch.bool)}, {"indices": torch.zeros(1)}])
def test_rows_are_padded_where_layers_choose_their_keys(own):
    """Whether they choose by a mask or say which, it is the layer's own, and short rows do not show it."""
    model = tiny_llama()
    attention = model.model.layers[1].self_attn
    attention.forward = (
        partial(attention.forward, **own) if "indices" in own else lambda *args, **how: type(attention).forward(attention, **how | own)
    )
    with packing.packing(model):
        assert not packing.takes(model)
