"""Benchmarks by name: TOFU, MUSE and WMDP, from their official files. docs/howto/benchmarks.md says which files each one reads."""

from collections.abc import Callable

from peft_unlearn.benchmarks.files import Source
from peft_unlearn.benchmarks.measuring import DEFINITIONS, Benchmark, How, Named, Sets
from peft_unlearn.benchmarks.muse import Muse
from peft_unlearn.benchmarks.tofu import Tofu
from peft_unlearn.benchmarks.wmdp import Wmdp
from peft_unlearn.util.errors import UserError

__all__ = ["BENCHMARKS", "DEFINITIONS", "Benchmark", "How", "Named", "Sets", "read"]

BENCHMARKS: dict[str, Callable[[Source, str | None, int], Named]] = {"tofu": Tofu, "muse": Muse, "wmdp": Wmdp}
HUB = {"tofu": "locuslab/TOFU", "muse": "muse-bench/MUSE-News", "wmdp": "cais/wmdp"}


def read(name: str, data: str | None = None, *, split: str | None = None, rows: int = 0) -> Named:
    """The benchmark `name`, read from `data` and checked.

    Args:
        data: a folder with the official files, or a dataset on the Hub; by default the official one there.
        split: TOFU: forget01, forget05, forget10 (default). MUSE: news (default), books. WMDP: bio (default), cyber, chem.
        rows: rows of each set, evenly spaced; 0 is all.

    Raises:
        UserError: an unknown name or split, a file that is missing, or a row without an answer.
    """
    if name not in BENCHMARKS:
        raise UserError(f"benchmark: {name!r} is not one of {', '.join(BENCHMARKS)}.")
    books = name == "muse" and split == "books"
    return BENCHMARKS[name](Source(data or ("muse-bench/MUSE-Books" if books else HUB[name]), name), split, rows)
