"""The divergence against a loop over tokens and vocabulary."""

import contextlib
import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from peft import LoraConfig
from test_evaluation import dequantized_twin
from tiny_models import tiny_llama
from transformers import BitsAndBytesConfig
from word_rows import DEGENERATE, ROWS, log_softmax, plain, ragged

from peft_unlearn.metrics.retain_kl import retain_kl
from peft_unlearn.model import adapters

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def fixed(model):
    return partial(contextlib.nullcontext, model)


def plain_kl(before, after, row) -> list[float]:
    values = []
    for (p, _), (q, _) in zip(plain(before, row), plain(after, row), strict=True):
        p, q = log_softmax(p), log_softmax(q)
        values.append(sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)))
    return values


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_equals_plain_loops_also_on_degenerate_rows(batch_size):
    before, after = tiny_llama(1), tiny_llama(2)
    order = np.random.default_rng(batch_size).permutation(len(ROWS))
    found = retain_kl([ROWS[i] for i in order], fixed(before), fixed(after), batch_size=batch_size)
    tokens = [plain_kl(before, after, ROWS[i]) for i in order]
    for value, row in zip(found["rows"], tokens, strict=True):
        assert value == (pytest.approx(sum(row) / len(row), rel=1e-5, abs=1e-6) if row else None)
    assert found["mean"] == pytest.approx(np.mean([np.mean(row) for row in tokens if row]), rel=1e-5)
    assert found["p99"] == pytest.approx(np.quantile([x for row in tokens for x in row], 0.99), rel=1e-5)
    assert found["n"] == sum(map(bool, tokens))


def test_views_of_one_model_are_told_apart_and_restored():
    model = adapters.attach(tiny_llama(), copy.deepcopy(LORA)).train()
    for p in adapters.adapter_parameters(model):
        p.data.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    merged = copy.deepcopy(model).merge_and_unload()
    reference, student = (partial(adapters.view, model, name) for name in ("reference", "student"))
    grads = [p.requires_grad for p in model.parameters()]
    found = retain_kl(ROWS, reference, student, batch_size=3)
    expected = retain_kl(ROWS, fixed(tiny_llama()), fixed(merged), batch_size=3)
    assert found["mean"] == pytest.approx(expected["mean"], rel=1e-4)
    assert found["mean"] > 0.01
    assert retain_kl(ROWS, student, student)["mean"] == pytest.approx(0, abs=1e-7)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == grads
    assert model.active_adapters == ["default"]


def test_nan_in_either_view_is_no_small_divergence():
    broken = tiny_llama(2)
    broken.lm_head.weight.data[5] = torch.nan
    for views in ((fixed(broken), fixed(tiny_llama())), (fixed(tiny_llama()), fixed(broken))):
        found = retain_kl(ragged(3, 1), *views)
        assert np.isnan([found["mean"], found["p99"], *found["rows"]]).all()


def test_without_tokens_there_is_no_number():
    for rows in ([], [DEGENERATE[2]]):
        found = retain_kl(rows, fixed(tiny_llama()), fixed(tiny_llama(1)))
        assert math.isnan(found["mean"])
        assert (found["n"], found["rows"]) == (0, [None] * len(rows))
        assert "p99" not in found


def test_on_nf4_it_equals_that_of_the_dequantized_twin(tmp_path):
    tiny_llama(1).save_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = adapters.load_base(tmp_path, dtype=torch.float32, quantization_config=nf4)
    twin, other = dequantized_twin(model, tiny_llama(5)), tiny_llama(1)
    ours, theirs = (retain_kl(ROWS, fixed(other), fixed(m), batch_size=4) for m in (model, twin))
    assert ours["mean"] == pytest.approx(theirs["mean"], rel=1e-5)
    assert ours["p99"] == pytest.approx(theirs["p99"], rel=1e-5)
    assert ours["mean"] > 1e-3
