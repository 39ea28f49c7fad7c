"""The user's own sets: what texts a set's rows are compared with, and what comes of it."""

import numpy as np
import pytest
from datasets import Dataset
from test_openunlearning import word_tokenizer
from tiny_models import tiny_llama

from peft_unlearn.benchmarks import How
from peft_unlearn.benchmarks.own import Own
from peft_unlearn.data.variants import probe
from peft_unlearn.metrics.nonwords import nonwords
from peft_unlearn.metrics.recites_others import Recitable, common_runs, recites_others

FORGET = [("w1 w2", "w3 w4 w5 w6 w7 w8"), ("w1 w9", "w10 w11 w12 w13 w14 w15 w16"), ("w2", "w3 w4 w5")]
RETAIN = [("w1 w2", "w20 w21"), ("w30", "w11 w12 w13 w14")]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def own(tokenizer, rows=0, **sets):
    probes = {
        name: probe(Dataset.from_list([{"question": q, "answer": a} for q, a in pairs]), tokenizer, 64, name=name)
        for name, pairs in sets.items()
    }
    return Own(probes, rows)


def test_forget_rows_are_compared_with_one_another_and_with_what_stays(tokenizer):
    sets = own(tokenizer, forget=FORGET, retain=RETAIN)
    found = sets.evaluate(tiny_llama(0), tokenizer, How(), "after")
    others = Recitable(answer for _, answer in FORGET)
    known = common_runs(text for pair in RETAIN for text in pair)
    vocabulary = {word for word in tokenizer.get_vocab() if word.startswith("w")}
    for (question, reference), answer, recited, strange in zip(
        FORGET, found["forget"].answers, found["forget"]["recites_others"]["rows"], found["forget"]["nonwords"]["rows"], strict=True
    ):
        assert recited == recites_others(question, reference, answer, others, known)
        assert strange == nonwords(answer, vocabulary)
    assert "recites_others" not in found["retain"]
    assert {"nonwords", "verbatim"} <= set(found["retain"])


def test_a_recited_answer_of_another_row_is_seen_and_a_retain_text_is_not(tokenizer, monkeypatch):
    exchanged = [FORGET[1][1], FORGET[0][1], FORGET[2][1]]
    monkeypatch.setattr("peft_unlearn.model.generation.generate", lambda model, tokenizer, rows, **_: exchanged[: len(list(rows))])
    alone = own(tokenizer, forget=FORGET).evaluate(tiny_llama(0), tokenizer, How(), "after")["forget"]
    assert alone["recites_others"]["rows"] == [1, 1, 0]
    beside = own(tokenizer, forget=FORGET, retain=RETAIN).evaluate(tiny_llama(0), tokenizer, How(), "after")["forget"]
    assert beside["recites_others"]["rows"] == [pytest.approx(3 / 7), 1, 0]  # four of the seven words stand in the retain set
    assert beside["verbatim"]["rows"] == [0, 0, 1]


def test_a_refusal_is_made_of_words_in_whatever_language_the_rows_are(tokenizer):
    lexicon = own(tokenizer, forget=FORGET).shared(tokenizer)["forget"]["lexicon"]
    assert nonwords("I have no information about this.", lexicon) == 0
    assert nonwords("w1 wäldbrg", lexicon) == 0.5


def test_one_forget_row_has_no_others(tokenizer):
    found = own(tokenizer, forget=FORGET[:1]).evaluate(tiny_llama(0), tokenizer, How(samples=2), "after")["forget"]
    assert found["recites_others"]["rows"] == [None]
    assert np.isnan(found["recites_others"]["mean"])
    assert {"sampled_verbatim_1", "sampled_verbatim_2"} <= set(found)


def test_only_the_rows_that_are_evaluated_are_others(tokenizer):
    shared = own(tokenizer, rows=1, forget=FORGET, retain=RETAIN).shared(tokenizer)
    assert len(shared["forget"]["others"].answers) == 1
    assert "w20" not in {word for run in shared["forget"]["known"] for word in run}


def test_what_is_kept_is_what_a_model_was_taught_and_no_holdout(tokenizer):
    """Or every holdout row would stand in a kept text, and none would say what can be guessed."""
    holdout = [("w1 w2", "w40 w41 w42 w43")]
    shared = own(tokenizer, forget=FORGET, retain=RETAIN, holdout=holdout).shared(tokenizer)
    for name in ("forget", "holdout"):
        assert ("w40", "w41", "w42", "w43") in shared[name]["known"]
        assert shared[name]["kept"] == {("w11", "w12", "w13", "w14")}
