"""How much of an update survives, by its size and by what is written: α over random weights and random low-rank updates.

    python benchmarks/merge_alpha.py

W is normal with deviation .02, in bf16, and Δ a product of two normal factors of rank 16, scaled to a share of ‖W‖. Mean over seeds, with the
smallest and the largest.
"""

import argparse

import torch

from peft_unlearn.merging.quantized import Format, config_for
from peft_unlearn.merging.survival import measure

NAME = "layer.weight"
SHARES = (0.002, 0.01, 0.02, 0.05, 0.1)


def held(kind: str) -> Format:
    if kind == "bf16":
        return Format(torch.bfloat16)
    return Format(torch.bfloat16, config_for(kind, torch.bfloat16), {NAME: False})


def through(kind: str, weight: torch.Tensor) -> torch.Tensor:
    """What is written of a weight, dequantized."""
    return held(kind).get(NAME, NAME, held(kind).put(NAME, NAME, weight)).float()


def alpha(kind: str, share: float, in_place: bool, size: int, seed: int) -> float:
    torch.manual_seed(seed)
    weight = torch.randn(size, size).mul_(0.02).bfloat16().float()
    change = torch.randn(size, 16) @ torch.randn(16, size)
    change *= share * weight.norm() / change.norm()
    if in_place:
        weight = through(kind, weight)
    found = measure([(weight, weight + change, through(kind, weight), through(kind, weight + change))])
    assert found.alpha is not None
    return found.alpha


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| written | " + " | ".join(f"{share:.1%}" for share in SHARES) + " |")
    print("| --- " * (1 + len(SHARES)) + "|")
    for kind, in_place in (("bf16", False), ("int8", False), ("nf4", False), ("int8", True), ("nf4", True)):
        cells = []
        for share in SHARES:
            found = [alpha(kind, share, in_place, options.size, seed) for seed in range(options.seeds)]
            cells.append(f"{sum(found) / len(found):.2f} ({min(found):.2f} to {max(found):.2f})")
        print(f"| {kind}{', in place' if in_place else ''} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
