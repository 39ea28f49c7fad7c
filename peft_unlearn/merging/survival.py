"""How much of an adapter's change is left in the weights that were written, weight by weight and over all."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from rich import box
from rich.table import Column, Table

from peft_unlearn.util.numbers import show

SURVIVES = 0.9  # median α below which `merge` warns: it gives away a tenth of the update, as much as the verdict's `left` lets stay


@dataclass(frozen=True)
class Survival:
    """Sums over the entries of weights, for W before, Δ the change that was meant, and Q what is written instead of a weight.

    weight: ‖W‖². change: ‖Δ‖². kept: ⟨Q(W+Δ) − Q(W), Δ⟩.
    """

    weight: float
    change: float
    kept: float

    @property
    def relative(self) -> float:
        """‖Δ‖ / ‖W‖, in Frobenius norms; infinite where W is 0 and Δ is not."""
        if self.weight == 0:
            return math.inf if self.change else 0.0
        return math.sqrt(self.change / self.weight)

    @property
    def alpha(self) -> float | None:
        """⟨Q(W+Δ) − Q(W), Δ⟩ / ‖Δ‖²: 1 where all of the change is in what was written, 0 where none is; None where there was none."""
        return self.kept / self.change if self.change else None

    def as_dict(self) -> dict[str, float | None]:
        return {"change": self.relative if math.isfinite(self.relative) else None, "alpha": self.alpha}


def measure(blocks: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]) -> Survival:
    """Over blocks of equal shapes in fp32: W, W + Δ, Q(W), Q(W + Δ)."""
    sums = [0.0, 0.0, 0.0]
    for before, after, held_before, held_after in blocks:
        change = (after - before).flatten()
        kept = (held_after - held_before).flatten()
        for i, (left, right) in enumerate(((before.flatten(), before.flatten()), (change, change), (kept, change))):
            sums[i] += torch.dot(left, right).item()
    return Survival(*sums)


def total(found: Iterable[Survival]) -> Survival:
    """All weights as one."""
    found = list(found)
    return Survival(sum(s.weight for s in found), sum(s.change for s in found), sum(s.kept for s in found))


def median_alpha(found: Mapping[str, Survival]) -> float | None:
    """The median over weights; None where nothing changed."""
    alphas = _alphas(found.values())
    return median(alphas) if alphas else None


def kind(name: str) -> str:
    """What a weight has in common with those of other layers: "self_attn.q_proj" of "model.layers.3.self_attn.q_proj"."""
    return ".".join(re.sub(r"\.\d+(?=\.|$)", "", name).split(".")[-2:]) if re.search(r"\.\d+\.", name) else name


def table(found: Mapping[str, Survival]) -> Table:
    """A row for each kind of weight, with minimum, median and maximum over layers, and one for all weights together."""
    heads = ["weights", "‖ΔW‖/‖W‖ min", "median", "max", "α min", "median", "max"]
    grid = Table(Column("", no_wrap=True), *(Column(head, justify="right") for head in heads), box=box.SIMPLE_HEAD, show_edge=False)
    kinds: dict[str, list[Survival]] = {}
    for name, survival in found.items():
        kinds.setdefault(kind(name), []).append(survival)
    for name, of_kind in kinds.items():
        grid.add_row(name, str(len(of_kind)), *_spread([s.relative for s in of_kind], show), *_spread(_alphas(of_kind), "{:.3f}".format))
    grid.add_section()
    whole = total(found.values())
    grid.add_row("all as one", str(len(found)), "", show(whole.relative), "", "", "-" if whole.alpha is None else f"{whole.alpha:.3f}", "")
    return grid


def as_json(found: Mapping[str, Survival]) -> dict[str, Any]:
    """`{"all": {"change", "alpha"}, "median_alpha", "weights": {name: {"change", "alpha"}}}`; null where a number does not exist."""
    weights = {name: survival.as_dict() for name, survival in found.items()}
    return {"all": total(found.values()).as_dict(), "median_alpha": median_alpha(found), "weights": weights}


def _alphas(found: Iterable[Survival]) -> list[float]:
    return [survival.alpha for survival in found if survival.alpha is not None]


def _spread(values: list[float], written: Callable[[float], str]) -> list[str]:
    found = [min(values), median(values), max(values)] if values else []
    return [written(value) if math.isfinite(value) else "∞" for value in found] or ["-"] * 3
