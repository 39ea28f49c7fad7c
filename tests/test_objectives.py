"""When a row or a token has been forgotten."""

import math

import torch

from peft_unlearn.objectives import remembered

MASK = torch.tensor([[1, 1, 1, 1, 0]]).bool()


def decide(probabilities, floor):
    logps = torch.tensor([[math.log(p) for p in probabilities] + [0.0]])
    tokens, rows = remembered(logps, MASK, floor)
    return tokens[0].tolist(), rows[0].item()


def test_a_row_leaves_when_its_mean_is_under_the_floor():
    assert decide([0.2, 0.2, 0.2, 0.2], 0.1) == ([True] * 4 + [False], True)
    assert decide([0.05, 0.2, 0.05, 0.1], 0.1) == ([False] * 5, False)


def test_a_token_leaves_under_the_square_of_the_floor():
    assert decide([0.9, 0.001, 0.9, 0.9], 0.1) == ([True, False, True, True, False], True)


def test_a_few_tokens_driven_down_without_end_do_not_hide_the_others():
    assert decide([1e-30, 0.9, 0.9, 0.9], 0.1)[1]  # the plain geometric mean is 3e-8


def test_at_floor_0_nothing_leaves():
    assert decide([1e-30, 1e-30, 1e-30, 1e-30], 0.0) == ([True] * 4 + [False], True)
