"""Per-row metrics against plain loops over tokens and vocabulary."""

import math
import zlib as compression

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_llama
from word_rows import DEGENERATE, END, ROWS, log_softmax, plain, ragged, row, tokenizer

from peft_unlearn.metrics.degenerate import degenerate
from peft_unlearn.metrics.min_k import lowest as lowest_mean
from peft_unlearn.metrics.min_k import min_k
from peft_unlearn.metrics.min_k_pp import min_k_pp
from peft_unlearn.metrics.reworded_memorization import reworded_memorization
from peft_unlearn.metrics.reworded_probability import reworded_probability
from peft_unlearn.metrics.suite import evaluate, needing
from peft_unlearn.metrics.worst_of_k import worst_of_k
from peft_unlearn.metrics.zlib import zlib
from peft_unlearn.model import lm_head
from peft_unlearn.model.scoring import RowScore, score

LOGPS = st.lists(st.floats(-50, 0), min_size=1, max_size=30)


def made(logps, *, end=0, means=0.0, deviations=1.0, correct=None) -> RowScore:
    size = len(logps)
    hits = np.zeros(size, bool) if correct is None else np.array(correct, bool)
    return RowScore(np.array(logps, float), hits, end, np.broadcast_to(means, size), np.broadcast_to(deviations, size))


def plain_tokens(model, row) -> list[tuple[float, float, float]]:
    """(log p of the token, mean, deviation of log p(v) under v ~ p), each by a loop over the vocabulary."""
    found = []
    for logits, target in plain(model, row):
        logps = log_softmax(logits)
        mean = sum(math.exp(x) * x for x in logps)
        variance = sum(math.exp(x) * (x - mean) ** 2 for x in logps)
        found.append((logps[target], mean, math.sqrt(variance)))
    return found


def lowest(values: list[float]) -> float | None:
    taken, left = [], list(values)
    while left and len(taken) < max(1, int(0.4 * len(values))):
        taken.append(left.pop(left.index(min(left))))
    return sum(taken) / len(taken) if taken else None


def plain_metrics(model, row) -> dict[str, float | None]:
    tokens = plain_tokens(model, row)
    labels = [label for label in row["labels"][1:] if label != -100]
    words = tokens[:-1] if labels[-1:] == [END] else tokens
    said = " ".join(f"w{label}" for label in labels if label > 2)
    return {
        "min_k": lowest([logp for logp, _, _ in words]),
        "min_k_pp": lowest([(logp - mean) / deviation for logp, mean, deviation in words]),
        "zlib": -sum(logp for logp, _, _ in tokens) / len(tokens) / len(compression.compress(said.encode())) if said else None,
    }


@pytest.mark.parametrize(("batch_size", "side"), [(1, "right"), (4, "left"), (16, "right")])
def test_means_and_deviations_are_those_of_the_vocabulary(batch_size, side):
    model = tiny_llama(batch_size)
    for row_, found in zip(ROWS, score(model, ROWS, tokenizer(side), batch_size=batch_size), strict=True):
        tokens = plain_tokens(model, row_)
        np.testing.assert_allclose(found.logps, [logp for logp, _, _ in tokens], atol=2e-6)
        np.testing.assert_allclose(found.means, [mean for _, mean, _ in tokens], atol=1e-6)
        np.testing.assert_allclose(found.deviations, [deviation for _, _, deviation in tokens], atol=1e-6)
        assert {values.dtype for values in (found.logps, found.means, found.deviations)} == {np.dtype(np.float64)}


def test_positions_worked_on_at_a_time_change_nothing(monkeypatch):
    model = tiny_llama()
    whole = score(model, ROWS, tokenizer())
    monkeypatch.setattr(lm_head, "ELEMENTS", 3 * model.config.vocab_size)
    for one, other in zip(whole, score(model, ROWS, tokenizer()), strict=True):
        for name in ("logps", "means", "deviations", "correct"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "side"), [(1, "left"), (4, "right"), (16, "left")])
def test_metrics_equal_plain_loops_also_on_degenerate_rows(batch_size, side):
    model, order = tiny_llama(7), np.random.default_rng(batch_size).permutation(len(ROWS))
    found = evaluate(model, tokenizer(side), [ROWS[i] for i in order], batch_size=batch_size, generate=False)
    for place, i in enumerate(order):
        for name, value in plain_metrics(model, ROWS[i]).items():
            assert found[name]["rows"][place] == (None if value is None else pytest.approx(value, abs=2e-6)), (name, i)
    unmeasured = [i for i in range(len(ROWS)) if found["min_k"]["rows"][list(order).index(i)] is None]
    assert unmeasured == [i for i, r in enumerate(ROWS) if r in (DEGENERATE[0], DEGENERATE[2], DEGENERATE[5])]


def test_minus_infinity_in_part_of_the_vocabulary_leaves_means_and_deviations_to_the_rest():
    model, cut = tiny_llama(), tiny_llama()
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits.index_fill(-1, torch.arange(50, 64), -torch.inf))
    cut.lm_head.weight.data = cut.lm_head.weight.data[:50]
    rows = [row([1, 50 + i], [3 + i, 4, END]) for i in range(5)]
    for one, other in zip(score(model, rows, tokenizer()), score(cut, rows, tokenizer()), strict=True):
        np.testing.assert_allclose(one.means, other.means, atol=1e-6)
        np.testing.assert_allclose(one.deviations, other.deviations, atol=1e-6)
        assert np.isfinite(min_k_pp(one))


def test_a_uniform_model_has_no_deviation_and_gives_no_infinite_score():
    model = tiny_llama()
    model.lm_head.weight.data.zero_()
    found = evaluate(model, tokenizer(), ragged(3, 1), generate=False)
    assert found["min_k"]["mean"] == pytest.approx(-math.log(64), rel=1e-6)
    assert found["min_k_pp"]["mean"] == pytest.approx(0, abs=1e-2)  # rounding, over a deviation of 1e-3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_pass_no_metric(value):
    model = tiny_llama()
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits.index_fill(-1, torch.tensor([4]), value))
    rows = ragged(3, 1)
    found = evaluate(
        model, tokenizer(), rows, variants={"perturbed_answer": [[r] for r in rows], "paraphrased_question": [[r] for r in rows]}
    )
    for name in set(found) - set(needing("text")):
        assert np.isnan(found[name]["rows"]).all(), name
        assert np.isnan(found[name]["mean"]), name


@given(LOGPS, st.floats(0.05, 1))
def test_min_k_lies_between_the_lowest_token_and_the_mean(logps, share):
    values = np.array(logps)
    assert min(logps) - 1e-9 <= lowest_mean(values, share) <= np.mean(logps) + 1e-9
    assert lowest_mean(values, 1.0) == pytest.approx(np.mean(logps))
    assert lowest_mean(values, 1e-9) == min(logps)


@given(LOGPS, st.floats(-5, 0), st.floats(0.01, 5))
def test_min_k_pp_is_min_k_of_standardized_tokens(logps, mean, deviation):
    standard = [(x - mean) / deviation for x in logps]
    assert min_k_pp(made(logps, means=mean, deviations=deviation)) == pytest.approx(min_k(made(standard)), rel=1e-9, abs=1e-9)


def test_min_k_leaves_the_end_token_out_and_hides_no_nan():
    assert min_k(made([-1, -2, -9], end=1)) == -2
    assert min_k(made([-1, -2, -3, -4, -5, -6, -7], end=0)) == pytest.approx(-6.5)  # int(2.8) tokens
    assert np.isnan(min_k(made([-1, np.nan, -3, -4, -5])))
    assert np.isnan(min_k_pp(made([-1, -2, -3], means=np.array([-1, np.nan, -1]))))
    assert min_k(made([-1], end=1)) is None
    assert min_k_pp(made([])) is None


def test_zlib_divides_the_loss_by_the_compressed_bytes():
    words = "said again " * 20
    assert zlib(made([-1, -3]), words) == pytest.approx(2 / len(compression.compress(words.encode())))
    assert zlib(made([-1, -3]), "") is None
    assert zlib(made([]), "words") is None
    assert zlib(made([-2]), "Zürich 時計") == pytest.approx(2 / len(compression.compress("Zürich 時計".encode())))


def test_worst_of_k_is_the_highest_extraction_strength():
    own, knows, nothing = made([-1.0] * 4), made([-1.0] * 4, correct=[0, 1, 1, 1]), made([])
    assert worst_of_k(own, [own, knows, nothing]) == 0.75
    assert worst_of_k(knows, [own]) == 0.75
    assert worst_of_k(knows, []) is None
    assert worst_of_k(nothing, [nothing]) is None
    assert np.isnan(worst_of_k(knows, [made([np.nan] * 4)]))


def test_variants_are_scored_with_the_rows_and_give_truth_ratio_and_worst_of_k():
    model, rows = tiny_llama(3), ragged(5, 8)
    wrong = [ragged(n, 20 + n) for n in (2, 0, 1, 5, 3)]
    right = [ragged(n, 40 + n) for n in (1, 1, 0, 2, 0)]
    asked = [ragged(n, 60 + n) for n in (3, 1, 0, 1, 2)]
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, logits: seen.append(len(logits)))
    variants = {"perturbed_answer": wrong, "paraphrased_answer": right, "paraphrased_question": asked}
    found = evaluate(model, tokenizer(), rows, variants=variants, batch_size=3, generate=False)
    assert sum(seen) == 5 + 11 + 4 + 7  # each row once

    def p(one) -> float:
        logps = [logp for logp, _, _ in plain_tokens(model, one)]
        return math.exp(sum(logps) / len(logps))

    alone = evaluate(model, tokenizer(), [one for group in asked for one in group], generate=False)["extraction_strength"]["rows"]
    for i, own in enumerate(rows):
        reference = p(right[i][0] if right[i] else own)
        ratio = sum(p(one) for one in wrong[i]) / len(wrong[i]) / reference if wrong[i] else None
        assert found["truth_ratio"]["rows"][i] == (None if ratio is None else pytest.approx(ratio, rel=1e-5))
        strengths = [alone.pop(0) for _ in asked[i]]
        worst = max([found["extraction_strength"]["rows"][i], *strengths]) if strengths else None
        assert found["worst_of_k"]["rows"][i] == worst


def test_other_wordings_of_both_kinds_are_read_together():
    model, rows = tiny_llama(3), ragged(4, 8)
    kinds = {"paraphrased_question": [ragged(n, 20 + n) for n in (2, 0, 1, 0)], "reworded": [ragged(n, 40 + n) for n in (1, 3, 0, 0)]}

    def measured(variants):
        found = evaluate(model, tokenizer(), rows, variants=variants, batch_size=3, generate=False)
        return {name: found[name]["rows"] for name in ("reworded_probability", "reworded_memorization", "worst_of_k")}

    both = measured(kinds)
    for kind, groups in kinds.items():
        assert measured({kind: groups}) == measured({"paraphrased_question": groups})
    for i, own in enumerate(rows):
        asked = [one for groups in kinds.values() for one in groups[i]]
        alone = evaluate(model, tokenizer(), [own, *asked], generate=False)
        expected = {
            "reworded_probability": np.mean(alone["probability"]["rows"][1:]) if asked else None,
            "reworded_memorization": np.mean(alone["exact_memorization"]["rows"][1:]) if asked else None,
            "worst_of_k": max(alone["extraction_strength"]["rows"]) if asked else None,
        }
        for name, value in expected.items():
            assert both[name][i] == (None if value is None else pytest.approx(value, rel=1e-5)), (name, i)


def test_other_wordings_hide_no_nan_and_no_lack_of_tokens():
    broken, empty, known = made([np.nan, -1.0]), made([-1.0], end=1), made([-1.0, -3.0], correct=[1, 0])
    assert np.isnan(reworded_probability([known, broken]))
    assert np.isnan(reworded_memorization([known, broken]))
    assert reworded_memorization([empty]) is None
    assert reworded_memorization([empty, known]) == 0.5
    assert reworded_probability([known]) == pytest.approx(math.exp(-2))


def test_what_is_measured_follows_what_is_given():
    model, rows = tiny_llama(), ragged(3, 1)
    always = {
        "loss",
        "probability",
        "extraction_strength",
        "extraction_from_start",
        "exact_memorization",
        "min_k",
        "min_k_pp",
        "zlib",
        "entropy",
    }
    assert set(evaluate(model, tokenizer(), rows, generate=False)) == always
    answered = evaluate(model, tokenizer(), rows, lens=True)
    assert set(answered) == always | {"rouge_l", "degenerate", "verbatim", "verbatim_words", "secrets", "logit_lens"}
    assert answered["degenerate"]["rows"] == [degenerate(answer) for answer in answered.answers]
