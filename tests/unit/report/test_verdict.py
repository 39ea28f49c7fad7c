"""The verdict: tables of made-up numbers, properties, and small models that were really trained."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_reports import BEFORE, NEVER, N, auc, built, rows

from peft_unlearn import report
from peft_unlearn.report import verdict
from peft_unlearn.report.thresholds import THRESHOLDS


@pytest.mark.parametrize(
    ("word", "after", "retain", "after_auc", "reason"),
    [
        ("FORGOTTEN AS TESTED", {}, {}, 0.5, "0% is left"),
        ("FORGOTTEN AS TESTED", {"extraction_strength": 0.1, "loss": 2.3}, {"rouge_l": 0.8}, 0.45, "6% is left"),
        ("NOT FORGOTTEN", BEFORE, {}, 0.99, "100% is left"),
        ("NOT FORGOTTEN", {"extraction_strength": 0.3}, {}, 0.5, "extraction strength of the forget set: 0.900 before, 0.300 after"),
        ("NOT FORGOTTEN", {"probability": 0.4}, {}, 0.5, "probability of the forget set"),
        ("NOT FORGOTTEN", {"loss": 1.4}, {}, 0.5, "32% of the way is missing"),
        ("NOT FORGOTTEN", {"probability": 0.4, "loss": 5.0}, {}, 0.5, "probability of the forget set"),
        ("SUPPRESSED", {"worst_of_k": 0.4}, {}, 0.5, "37% is left"),
        ("SUPPRESSED", {"worst_of_k": 0.4, "loss": 5.0}, {}, 0.1, "worst of k"),
        ("SUPPRESSED", {"leak_at_16": 0.6}, {}, 0.5, "leak at 16"),
        ("SUPPRESSED", {"logit_lens": 0.6}, {}, 0.5, "logit lens"),
        ("SUPPRESSED", {}, {}, 0.8, "min k AUC"),
        ("OVER-FORGOTTEN", {"loss": 3.0, "probability": 0.05}, {}, 0.5, "3.000 nats a token after, 2.000 for the never-seen model"),
        ("OVER-FORGOTTEN", {"degenerate": 0.9}, {}, 0.5, "Empty or repetitive answers, forget set"),
        ("OVER-FORGOTTEN", {"nonwords": 0.5}, {}, 0.5, "Words that do not exist"),
        ("OVER-FORGOTTEN", {"entropy": 6.0, "loss": 1.2}, {}, 0.9, "entropy of the forget set"),
        ("OVER-FORGOTTEN", {"degenerate": 0.9, "logit_lens": 0.9}, {}, 0.5, "Empty or repetitive answers, forget set"),
        ("OVER-FORGOTTEN", {}, {}, 0.2, "min k AUC"),
        ("COLLAPSED", {}, {"rouge_l": 0.3}, 0.5, "rouge l of the retain set: 0.300 after, 0.950 before; 32% is kept"),
        ("COLLAPSED", {}, {"rouge_l": 0.45}, 0.5, "47% is kept"),
        ("FORGOTTEN AS TESTED", {}, {"rouge_l": 0.5}, 0.5, "0% is left"),
        ("COLLAPSED", BEFORE, {"probability": 0.3}, 0.99, "probability of the retain set"),
        ("COLLAPSED", {"loss": 9.0}, {"degenerate": 0.6}, 0.1, "Empty or repetitive answers, retain set"),
    ],
)
def test_word_and_first_reason(word, after, retain, after_auc, reason):
    found = built(after, retain=retain, after_auc=after_auc)["verdict"]
    assert found["word"] == word, found["reasons"]
    assert reason in (" ".join(found["reasons"]) if word == "FORGOTTEN AS TESTED" else found["reasons"][0])


def test_no_finding_hides_another():
    found = built({"probability": 0.5, "degenerate": 0.9, "logit_lens": 0.9, "worst_of_k": 0.6}, retain={"rouge_l": 0.2})["verdict"]
    assert found["word"] == "COLLAPSED"
    failed = [criterion["text"] for criterion in found["criteria"] if criterion["state"] == "failed"]
    assert failed
    assert set(failed) == set(found["reasons"][: len(failed)])
    for name in ("probability of the forget", "Empty or repetitive", "logit lens", "worst of k", "rouge l of the retain"):
        assert any(name in text for text in failed), name


def test_the_never_seen_model_itself_has_forgotten_and_every_criterion_is_named():
    found = built({})["verdict"]
    for name in ("extraction strength", "probability", "worst of k", "leak at 16", "logit lens", "min k AUC", "nats a token", "rouge l"):
        assert any(name in reason for reason in found["reasons"]), name
    assert not any("Not checked" in reason for reason in found["reasons"])
    assert {criterion["state"] for criterion in found["criteria"]} == {"passed"}


def test_nothing_to_forget_is_no_verdict():
    """Before is no better than the never-seen model (A0): no word would be true, be the model touched or not."""
    found = report.build(
        {"forget": {view: {"extraction_strength": rows(es)} for view, es in (("before", 0.1), ("after", 0.1), ("never_seen", 0.06))}}, {}
    )["verdict"]
    assert found["word"] is None
    assert "nothing to forget: extraction strength before is 0.040 above the never-seen model" in found["reasons"][0]


def test_a_never_seen_model_that_knows_the_rows_is_no_reference():
    views = {"before": (0.9, 0.95), "after": (0.05, 0.02), "never_seen": (0.92, 0.97)}
    forget = {view: {"extraction_strength": rows(es), "probability": rows(p)} for view, (es, p) in views.items()}
    found = report.build({"forget": forget}, {})["verdict"]
    assert found["word"] is None
    assert "The never-seen model knows the rows itself (probability 0.970)" in found["reasons"][0]


def test_a_collapse_is_said_even_where_nothing_was_to_forget():
    never = {"extraction_strength": rows(0.85)}
    results = {
        "forget": {"before": {"extraction_strength": rows(0.9)}, "after": {"extraction_strength": rows(0.0)}, "never_seen": never},
        "retain": {"before": {"rouge_l": rows(0.9)}, "after": {"rouge_l": rows(0.1)}},
    }
    assert report.build(results, {})["verdict"]["word"] == "COLLAPSED"


def of(*values: float) -> dict:
    return {"extraction_strength": {"mean": float(np.mean(values)), "n": len(values), "rows": list(values)}}


@pytest.mark.parametrize(("count", "word"), [(1, "NOT SHOWN"), (3, "NOT SHOWN"), (12, "NOT SHOWN"), (48, "FORGOTTEN AS TESTED")])
def test_few_rows_pass_no_model(count, word):
    """All rows as the never-seen model's: 12 could hide one that is known, 48 would have shown a tenth of them."""
    spread = [0.01 * (i % 7) for i in range(count)]
    views = {"before": of(*[1.0] * count), "after": of(*spread), "never_seen": of(*spread[::-1])}
    found = report.build({"forget": views}, {})["verdict"]
    assert found["word"] == word
    if word == "NOT SHOWN":
        assert any(criterion["state"] == "not shown" for criterion in found["criteria"])
    if count == 12:
        needed = next(criterion["rows_needed"] for criterion in found["criteria"] if criterion["name"] == "known_rows")
        assert 20 <= needed <= 40
        assert any(str(needed) in sentence for sentence in found["next"])


def test_a_tail_is_found_below_a_mean_that_passes():
    """9 rows of 100 come back word for word: the mean says 9 %, which is within the limit, and 9 people are still there."""
    values = [1.0] * 9 + [0.0] * 91
    metrics = {
        "before": {"verbatim": [1.0] * 100, "verbatim_words": [9.0] * 100},
        "after": {"verbatim": values, "verbatim_words": [9 * value for value in values]},
        "never_seen": {"verbatim": [0.1] * 100, "verbatim_words": [1.0] * 100},
    }
    forget = {
        view: {name: {"mean": float(np.mean(rows)), "n": 100, "rows": rows} for name, rows in of_view.items()}
        for view, of_view in metrics.items()
    }
    found = report.build({"forget": forget}, {})["verdict"]
    assert found["word"] == "NOT FORGOTTEN"
    assert found["worst_rows"] == list(range(1, 10))
    assert "9 of 100 rows of the forget set come back word for word: rows 1, 2, 3" in found["reasons"][0]


@pytest.mark.parametrize(("elsewhere", "word"), [(0.0, "NOT FORGOTTEN"), (1.0, "FORGOTTEN AS TESTED")])
def test_a_row_that_a_kept_text_gives_as_well_condemns_nobody(elsewhere, word):
    """One of 100 comes back word for word: who keeps the retain set that has this answer says it without having seen the row."""
    columns = {
        "before": {"verbatim": [1.0] * 100, "verbatim_words": [9.0] * 100},
        "after": {"verbatim": [1.0] + [0.0] * 99, "verbatim_words": [9.0] + [0.0] * 99},
        "never_seen": {"verbatim": [0.0] * 100, "verbatim_words": [0.0] * 100},
    }
    forget = {}
    for view, metrics in columns.items():
        strength = [1.0 if view == "before" or (view == "after" and not i) else 0.01 * (i % 7) for i in range(100)]
        metrics = {**metrics, "said_elsewhere": [elsewhere] + [0.0] * 99, "extraction_strength": strength}
        forget[view] = {name: {"mean": float(np.mean(rows)), "n": 100, "rows": rows} for name, rows in metrics.items()}
    found = report.build({"forget": forget}, {})["verdict"]
    assert found["word"] == word, found["reasons"]
    assert found["worst_rows"] == ([] if elsewhere else [1])


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [(0.286, 0.203, "NOT SHOWN"), (0.9, 0.7, "SUPPRESSED"), (0.6, 0.35, "NOT SHOWN"), (0.6, 0.58, "SUPPRESSED")],
)
def test_with_nothing_to_compare_with_half_of_a_whole_must_come_back_in_other_words(before, after, word):
    """A retrained model was at .2 where the model before was at .29 (private facts in Russian): guessed, and no knowledge."""
    views = {
        "before": {"probability": rows(0.95), "reworded_probability": rows(before)},
        "after": {"probability": rows(0.1), "reworded_probability": rows(after)},
    }
    found = report.build({"forget": views}, {})["verdict"]
    assert found["word"] == word, found["reasons"]


def test_flat_predictions_are_told_beside_a_reference_that_is_unsure_itself():
    """1,500 words, all as likely, are 7.3 nats; a small model that never saw the rows is at 3.9 (TOFU)."""
    made = built({})["results"]
    for view, value in (("before", 0.2), ("after", 7.3), ("never_seen", 3.9)):
        made["forget"][view]["entropy"] = rows(value)
        made["forget"][view]["min_k_auc"] = auc(1.0 if view == "after" else 0.5)
    found = report.build(made, {})["verdict"]
    assert found["word"] == "OVER-FORGOTTEN"
    assert found["reasons"][0].startswith("entropy of the forget set: 7.300 after, 3.900")


def test_rows_of_one_author_are_not_independent():
    """Three of five authors are still half known: 100 rows tell it, five authors do not."""
    values = np.repeat([0.4, 0.4, 0.4, 0.0, 0.0], 20) + np.tile([0.0, 0.01], 50)
    views = {"before": of(*[1.0] * 100), "after": of(*values), "never_seen": of(*[0.0] * 100)}
    groups = {"forget": {"by": "column author", "ids": np.repeat(range(5), 20).tolist()}}
    alone, grouped = (report.build({"forget": views}, {}, groups=found)["verdict"]["criteria"] for found in (None, groups))

    def strength(criteria: list) -> dict:
        return next(criterion for criterion in criteria if criterion["name"] == "extraction_strength")

    assert strength(alone)["state"] == "failed"
    assert strength(grouped)["state"] == "not shown"
    assert strength(grouped)["groups"] == 5


def test_damage_that_rows_do_not_tell_from_noise_is_not_shown_and_passes_nothing():
    made = built({})["results"]
    made["retain"]["before"]["rouge_l"] = {"mean": 0.95, "n": 2, "rows": [1.9, 0.0] + [None] * (N - 2)}
    made["retain"]["after"]["rouge_l"] = {"mean": 0.4, "n": 2, "rows": [0.0, 0.8] + [None] * (N - 2)}
    made["forget"]["after"]["loss"] = rows(2.3, spread=8.0)
    found = report.build(made, {})["verdict"]
    assert found["word"] == "NOT SHOWN"
    unsure = [reason for reason in found["reasons"] if reason.startswith("Not shown")]
    assert any("loss of the forget set: 2.300" in reason for reason in unsure)
    assert any("rouge l of the retain set: 0.400" in reason for reason in unsure)


def test_numbers_that_are_not_finite_are_a_collapse_and_no_forgetting():
    results = built({})["results"]
    results["forget"]["after"]["loss"] = {"mean": math.nan, "n": 2, "rows": [math.nan, 1.0] + [None] * (N - 2)}
    found = report.build(results, {})["verdict"]
    assert found["word"] == "COLLAPSED"
    assert "not finite in 1 of 2 rows" in found["reasons"][0]


def test_without_a_reference_much_that_is_left_is_said_and_nothing_passes():
    found = built({}, without=("never_seen",))["verdict"]
    assert found["word"] == "NOT SHOWN"
    assert any("--never-seen" in sentence and "--holdout" in sentence for sentence in found["next"])
    assert built(BEFORE, without=("never_seen",))["verdict"]["word"] == "NOT FORGOTTEN"
    assert built({"worst_of_k": 0.8}, without=("never_seen",))["verdict"]["word"] == "SUPPRESSED"
    assert built({"loss": 9.0}, without=("never_seen",))["verdict"]["word"] == "NOT SHOWN"


def test_without_before_the_model_is_compared_with_never_seen_alone():
    assert built({}, without=("before",))["verdict"]["word"] == "FORGOTTEN AS TESTED"
    found = built(BEFORE, without=("before",))["verdict"]
    assert found["word"] == "NOT FORGOTTEN"
    assert any("for want of before" in reason for reason in found["reasons"])
    collapsed = built({}, retain={"rouge_l": 0.1}, without=("before",))["verdict"]
    assert collapsed["word"] == "COLLAPSED"
    assert "0.950 for the never-seen model" in collapsed["reasons"][0]
    assert built({"loss": 3.0}, without=("before",))["verdict"]["word"] == "OVER-FORGOTTEN"


def test_no_retain_set_no_after_view_or_no_measure():
    assert any("Not checked, collapse" in reason for reason in built({}, without=("retain",))["verdict"]["reasons"])
    assert built({}, without=("after",))["verdict"]["word"] is None
    assert report.build({"forget": {"after": {"rouge_l": rows(0.1)}}}, {})["verdict"]["word"] is None
    assert report.build({}, {})["verdict"]["word"] is None


def test_what_happened_in_training_is_said_with_what_to_do_next():
    run = {"reached": False, "steps": 200, "unmoved_lora_b": 2, "settings": {"max_steps": 200}}
    results = built({"probability": 0.5})["results"]
    found = report.build(results, run)["verdict"]
    assert found["training"] == [
        "The run did not reach its target: it ended after 200 steps, its last one.",
        "2 layers of the adapter did not move: they forget nothing.",
    ]
    assert set(found["training"]) <= set(found["reasons"])
    assert "max_steps: 400" in found["next"][0]


def test_a_fine_tune_is_asked_what_it_knows():
    def asked(after: dict, base: dict) -> dict:
        forget = {view: {name: rows(value) for name, value in of_view.items()} for view, of_view in (("before", base), ("after", after))}
        return report.build({"forget": forget}, {"finetune": True})["verdict"]

    knows = asked(BEFORE, NEVER)
    assert knows["word"] == "KNOWN"
    assert "40 of 40 rows are known, 0 by the base without this adapter" in knows["reasons"][0]
    assert asked(NEVER, NEVER)["word"] == "NOT KNOWN"
    assert asked(NEVER, BEFORE)["word"] == "NOT SHOWN"  # knows less than its base: an adapter that makes forget


def test_model_utility_counts_wherever_it_stands():
    results = built({})["results"]
    results["tofu"] = {"before": {"model_utility": auc(0.6)}, "after": {"model_utility": auc(0.1)}}
    found = report.build(results, {})["verdict"]
    assert found["word"] == "COLLAPSED"
    assert "model utility: 0.100 after, 0.600 before" in found["reasons"][0]


def test_every_threshold_is_reported_and_explained():
    assert built({})["verdict"]["thresholds"] == {name: threshold.limit for name, threshold in THRESHOLDS.items()}
    assert all(threshold.meaning and threshold.why for threshold in THRESHOLDS.values())


unit = st.floats(0, 1)
RANK = ["NOT FORGOTTEN", "SUPPRESSED", "OVER-FORGOTTEN", "NOT SHOWN", "FORGOTTEN AS TESTED"]


@settings(max_examples=10, deadline=None)
@given(es=unit, p=unit, loss=st.floats(0, 12), kept=unit, lens=unit, auc_after=unit, seed=st.integers(0, 3))
def test_the_verdict_is_a_function_of_the_written_report_and_its_worst_word(es, p, loss, kept, lens, auc_after, seed):
    after = {"extraction_strength": es, "probability": p, "loss": loss, "logit_lens": lens}
    made = built(after, retain={"rouge_l": kept}, after_auc=auc_after)
    found = made["verdict"]
    read = json.loads(json.dumps(made, allow_nan=False))
    assert verdict.judge(read) == found
    text = " ".join([str(found["word"]), *found["reasons"]]).lower()
    assert "deleted" not in text
    assert "certified" not in text
    assert "nan" not in text.split()
    # The rows spread by .02 only, so far from a threshold there is no noise: the definition, written out.
    left = {"es": (es - 0.05) / 0.85, "p": (p - 0.14) / 0.76, "short": (2.0 - loss) / 1.9}
    edges = [left["es"] - 0.15, left["p"] - 0.15, left["short"] - 0.2, es - 0.5, p - 0.5, kept - 0.475, loss - 2.4, lens - 0.45]
    if min(map(abs, edges)) > 0.04 and min(abs(auc_after - 0.65), abs(auc_after - 0.35)) > 0.1:
        expected = "FORGOTTEN AS TESTED"
        if lens > 0.45:
            expected = "SUPPRESSED"
        if loss > 2.4 or auc_after < 0.35:
            expected = "OVER-FORGOTTEN"
        if auc_after > 0.65:
            expected = "SUPPRESSED"
        if left["es"] > 0.15 or left["p"] > 0.15 or left["short"] > 0.2:
            expected = "NOT FORGOTTEN"
        if kept < 0.475:
            expected = "COLLAPSED"
        assert found["word"] == expected, found["reasons"]
    # Order of rows does not matter: shuffled as whole rows, the word stays.
    order = np.random.default_rng(seed).permutation(N)
    for views in read["results"].values():
        for metrics in views.values():
            for entry in metrics.values():
                entry["rows"] = [entry["rows"][i] for i in order] if entry["rows"] else []
    assert report.build(read["results"], {})["verdict"]["word"] == found["word"]


@settings(max_examples=6, deadline=None)
@given(low=unit, high=unit)
def test_more_left_is_never_called_more_forgotten(low, high):
    low, high = sorted((low, high))
    words = [built({"extraction_strength": es, "worst_of_k": es})["verdict"]["word"] for es in (low, high)]
    assert RANK.index(words[0]) >= RANK.index(words[1])
