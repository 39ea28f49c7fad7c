"""Long tables of cases: `make test` takes some of them, `make test-all` all."""

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int) -> list[Any]:
    """The cases, all but every so-manieth marked as long: for `parametrize` with one name."""
    return [case if number % every == 0 else pytest.param(case, marks=pytest.mark.long) for number, case in enumerate(cases)]
