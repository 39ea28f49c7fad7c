"""Batches that processes share; with several of them: tests/integration/test_distributed.py."""

import random

import pytest

from peft_unlearn.model.sharing import by_batches, sharing


@pytest.mark.parametrize("rows", [0, 1, 7, 20])
@pytest.mark.parametrize("size", [1, 3])
def test_results_come_in_the_order_of_the_rows(rows, size):
    order = random.Random(rows).sample(range(rows), rows)
    batches = [order[start : start + size] for start in range(0, rows, size)]
    squares = [row * row for row in range(rows)]
    assert by_batches(batches, lambda batch: [row * row for row in batch], "squares") == squares
    with sharing():  # where there is one process
        assert by_batches(iter(batches), lambda batch: (row * row for row in batch), "squares") == squares


def test_a_batch_has_a_result_for_each_row():
    with pytest.raises(ValueError, match="shorter"):
        by_batches([[0, 1]], lambda batch: batch[:1], "too few")
