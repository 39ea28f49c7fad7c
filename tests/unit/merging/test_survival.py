"""What survives of a change, against closed forms in double precision."""

import math

import pytest
import torch
from rich.console import Console

from peft_unlearn.merging.survival import Survival, as_json, kind, measure, median_alpha, table, total


@pytest.mark.parametrize("seed", range(3))
def test_measure_is_the_formula_over_all_blocks(seed: int) -> None:
    torch.manual_seed(seed)
    before, after, held_before, held_after = torch.randn(4, 12, 7)
    found = measure((before[i : i + 5], after[i : i + 5], held_before[i : i + 5], held_after[i : i + 5]) for i in range(0, 12, 5))
    w, change, kept = before.double(), (after - before).double(), (held_after - held_before).double()
    assert found.relative == pytest.approx((change.norm() / w.norm()).item(), rel=1e-5)
    assert found.alpha == pytest.approx(((kept * change).sum() / change.norm() ** 2).item(), abs=1e-5)


def test_alpha_of_what_is_kept_whole_scaled_or_not_at_all() -> None:
    before, after = torch.randn(2, 8, 8)
    for share in (0.0, 0.3, 1.0):
        assert measure([(before, after, before, before + share * (after - before))]).alpha == pytest.approx(share, abs=1e-6)


def test_no_change_has_no_alpha_and_a_change_of_zeros_no_ratio() -> None:
    zeros, ones = torch.zeros(2, 2), torch.ones(2, 2)
    assert measure([(ones, ones, ones, ones)]).alpha is None
    assert math.isinf(measure([(zeros, ones, zeros, ones)]).relative)
    assert as_json({"a": measure([(zeros, ones, zeros, ones)])})["weights"]["a"] == {"change": None, "alpha": 1.0}


def test_total_is_that_of_the_weights_laid_side_by_side() -> None:
    torch.manual_seed(0)
    parts = [tuple(torch.randn(4, 3, 5)) for _ in range(4)]
    whole = measure([tuple(torch.cat([part[i] for part in parts]) for i in range(4))])
    found = total(measure([part]) for part in parts)
    assert (found.relative, found.alpha) == pytest.approx((whole.relative, whole.alpha), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.31.self_attn.q_proj", "self_attn.q_proj"),
        ("transformer.h.0.mlp.c_proj", "mlp.c_proj"),
        ("model.layers.2.block_sparse_moe.experts.7.w1", "experts.w1"),
        ("lm_head", "lm_head"),
        ("model.embed_tokens", "model.embed_tokens"),
    ],
)
def test_kind_is_the_same_in_every_layer(name: str, expected: str) -> None:
    assert kind(name) == expected


def test_table_has_a_row_for_each_kind_however_many_layers() -> None:
    found = {f"model.layers.{i}.mlp.{part}": Survival(1.0, 1e-4 * (i + 1), 0.9e-4 * (i + 1)) for i in range(300) for part in ("up", "down")}
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(found))
    lines = console.export_text().splitlines()
    assert len(lines) < 10
    assert [line.split() for line in lines if "mlp.up" in line] == [
        ["mlp.up", "300", "0.0100", "0.123", "0.173", "0.900", "0.900", "0.900"]
    ]
    assert median_alpha(found) == pytest.approx(0.9)
