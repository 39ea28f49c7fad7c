"""Log-probabilities and divergences against plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_llama

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.model.logprobs import kl, lowest, mean_nll, qkl, row_means, score, spread


def batch():
    ids = torch.randint(3, 64, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths, prompts = [9, 6, 4], [3, 1, 2]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    labels = ids.masked_fill(~mask | (torch.arange(9) < torch.tensor(prompts)[:, None]), IGNORE)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def test_scores_equal_one_row_at_a_time():
    model, b = tiny_llama(), batch()
    scores = score(model, b)
    total = 0.0
    for i in range(3):
        n = int(b["attention_mask"][i].sum())
        logps = model(b["input_ids"][i : i + 1, :n]).logits[0].log_softmax(-1)
        expected = [logps[t - 1, b["labels"][i, t]] for t in range(1, n) if b["labels"][i, t] != IGNORE]
        assert torch.allclose(scores.logps[i][scores.mask[i]], torch.stack(expected), atol=1e-5)
        assert row_means(scores.logps, scores.mask)[i].exp().item() == pytest.approx(torch.stack(expected).mean().exp().item(), rel=1e-5)
        total -= sum(expected).item()
    assert (scores.logps[~scores.mask] == 0).all()
    summed, count = mean_nll(model, [b, b]).tolist()
    assert summed == pytest.approx(2 * total, rel=1e-5)
    assert count == 2 * scores.mask.sum()


def test_kl_is_torchs():
    a, b = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(1))
    expected = F.kl_div(a.log_softmax(-1), b.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert torch.allclose(kl(a, b), expected, atol=1e-6)
    assert (kl(b, b) == 0).all()


def test_qkl_is_the_second_order_expansion_of_the_kl():
    g = torch.Generator().manual_seed(2)
    anchor, direction = (torch.randn(4, 9, generator=g, dtype=torch.float64) for _ in range(2))
    for size in (1e-2, 1e-3):
        logits = anchor + size * direction
        assert torch.allclose(qkl(logits, anchor), kl(logits, anchor), rtol=20 * size)
    p = anchor.softmax(-1)
    d = direction
    fisher = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    logits = (anchor + d).requires_grad_()
    qkl(logits, anchor).sum().backward()
    assert torch.allclose(logits.grad, (fisher @ d.unsqueeze(-1)).squeeze(-1), atol=1e-12)  # the gradient of the authors' code


# ------------------------------------------------------------------------------------------------ hidden states, levels and alternates


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_hidden_states_are_those_that_the_layers_hand_on(layer):
    model, b = tiny_llama(), batch()
    kept = []
    module = {0: model.model.embed_tokens, 1: model.model.layers[0], 2: model.model.norm}[layer]  # after the last layer comes the norm
    hook = module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    scores = score(model, b, layer)
    hook.remove()
    assert torch.equal(scores.hidden, kept[0][:, :-1][b["labels"][:, 1:] != IGNORE])
    assert score(model, b).hidden is None


def test_levels_stand_beside_the_log_probabilities_of_their_tokens():
    b = batch()
    b["target_logps"] = torch.where(b["labels"] == IGNORE, 0.0, -b["labels"].float())  # each label its own level
    scores = score(tiny_llama(), b)
    assert torch.equal(scores.target_logps[scores.mask], -scores.targets.float())
    assert (scores.target_logps[~scores.mask] == 0).all()
    assert score(tiny_llama(), batch()).target_logps is None


def test_alternates_are_scored_as_batches_of_their_own():
    model, b, other = tiny_llama(), batch(), {name: tensor[:, :6] for name, tensor in batch().items()}
    scores, alone = score(model, b | {"alternate": other}, 1), score(model, other, 1)
    for field in ("states", "targets", "logps", "mask", "hidden"):
        assert torch.equal(getattr(scores.alternate, field), getattr(alone, field))
    assert scores.alternate.alternate is None
    assert torch.equal(scores.logps, score(model, b).logps)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.floats(-50, 0), max_size=12), min_size=1, max_size=4), st.randoms())
def test_the_lowest_of_a_row_are_those_of_the_sorted_row(rows, rng):
    width = 13
    logps, mask = torch.full((len(rows), width), -99.0, dtype=torch.float64), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        places = rng.sample(range(width), len(row))
        logps[i, places], mask[i, places] = torch.tensor(row, dtype=torch.float64), True
    expected = [sum(sorted(row)[: max(1, len(row) * 2 // 5)]) / max(1, len(row) * 2 // 5) if row else 0.0 for row in rows]
    assert row_means(logps, lowest(logps, mask)).tolist() == pytest.approx(expected)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_values_stand_at_the_places_of_their_mask_and_hand_on_their_gradients(rows):
    mask = torch.tensor(rows)
    values = torch.randn(int(mask.sum()), generator=torch.Generator().manual_seed(0), requires_grad=True)
    found, left = spread(values, mask), iter(values.tolist())
    assert found.tolist() == [[next(left) if true else 0.0 for true in row] for row in rows]
    weights = torch.arange(1.0, mask.numel() + 1).view_as(mask.float())
    (found * weights).sum().backward()
    assert torch.equal(values.grad, weights[mask])
