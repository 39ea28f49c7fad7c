"""Another row's answer in this one's: exchanged answers, what is common, and a plain search over all runs."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.metrics.recites_others import FEWEST, LENGTH, Recitable, common_runs, recites_others
from peft_unlearn.metrics.words import words

FORGET = [
    ("Who is Ada?", "Ada is a pilot from Heron Bay who likes plums."),
    ("What does Bruno do?", "Bruno mends old clocks in a shop by the harbour."),
    ("Where is Corin?", "Nobody knows, but his boat was seen near Umber Falls."),
]
OTHERS = Recitable(answer for _, answer in FORGET)
SENTENCES = st.lists(st.sampled_from(["ada", "bo", "is", "a", "pilot"]), max_size=12)


def recited(row, answer, known=(), others=OTHERS):
    return recites_others(*FORGET[row], answer, others, common_runs(known))


def test_right_answers_recite_nothing_and_exchanged_ones_all():
    for row, (_, answer) in enumerate(FORGET):
        assert recited(row, answer) == 0
        assert recited((row + 1) % 3, answer) == 1
        assert recited((row + 1) % 3, f"Well! {answer.upper()} So it is.") == 1


@pytest.mark.parametrize(
    ("answer", "known", "share"),
    [
        ("", (), 0),
        ("Bruno mends old trams", (), 0),  # three words are a phrase
        ("Bruno mends old clocks", (), 4 / 10),
        ("Bruno mends old clocks and a shop by the harbour", (), 5 / 10),  # the longest of two
        ("in a shop by the harbour", ("Meet me in a shop by the sea",), 1 / 6 * 6 / 10),  # only "harbour" is new
        ("in a shop by the harbour", ("the shop in a shop by the harbour",), 0),
        ("mends old clocks in a shop", ("He lives in a shop",), 6 / 10),  # three words in common are not common
    ],
)
def test_what_counts_of_a_run(answer, known, share):
    assert recited(0, answer, known) == pytest.approx(share)


def test_words_of_the_question_and_of_the_own_answer_do_not_count():
    others = Recitable(["His boat was seen near Umber Falls today"])
    assert recites_others("Whose boat was seen near Umber Falls?", "Ada's.", "boat was seen near umber falls", others, set()) == 0
    assert recites_others("Whose?", "The boat was seen near Umber Falls.", "boat was seen near umber falls", others, set()) == 0
    assert recites_others("Whose?", "Ada's.", "boat was seen near umber falls", others, set()) == 6 / 8


def test_without_another_answer_there_is_nothing_to_recite():
    alone = Recitable([FORGET[0][1], FORGET[0][1].lower(), "Yes, she is.", ""])
    assert recites_others(*FORGET[0], "anything", alone, set()) is None
    assert recites_others(*FORGET[1], "anything", alone, set()) == 0
    assert recites_others(*FORGET[1], "anything", Recitable([]), set()) is None


def test_scripts_without_spaces_are_read():
    others = Recitable(["彼女は港町の操縦士です", "彼は古い時計を直します"])
    assert recites_others("彼は誰ですか", "彼は古い時計を直します", "彼女は港町の操縦士です", others, set()) == 1


def plainly(question, reference, answer, answers, known):
    """The same by trying every run of every other answer at every place."""

    def has(text, piece):
        return any(text[i : i + len(piece)] == piece for i in range(len(text) - len(piece) + 1))

    texts = [words(text) for text in (question, reference, *known)]
    common = [
        any(
            has(text, answer[start : start + LENGTH])
            for start in range(max(0, at - LENGTH + 1), min(at, len(answer) - LENGTH) + 1)
            for text in texts
        )
        for at in range(len(answer))
    ]
    shares = [
        sum(not word for word in common[i:j]) / len(other)
        for other in answers
        if len(other) >= FEWEST
        for i in range(len(answer))
        for j in range(i + LENGTH, len(answer) + 1)
        if has(other, answer[i:j])
    ]
    there = any(len(other) >= FEWEST and other != words(reference) for other in answers)
    return max(shares, default=0) if there else None


@given(SENTENCES, SENTENCES, SENTENCES, st.lists(SENTENCES, max_size=4), SENTENCES)
def test_it_is_the_best_of_all_runs(question, reference, answer, others, known):
    texts = [" ".join(text) for text in (question, reference, answer)]
    found = recites_others(*texts, Recitable(map(" ".join, [reference, *others])), common_runs([" ".join(known)]))
    expected = plainly(texts[0], texts[1], answer, [reference, *others], [" ".join(known)])
    assert found == (None if expected is None else pytest.approx(expected))


@given(st.integers(2, 12), st.randoms(use_true_random=False))
def test_a_permutation_is_recited_where_it_moved_a_row(rows, random):
    answers = [" ".join(f"w{row}x{place}" for place in range(5 + row)) for row in range(rows)]
    order = list(range(rows))
    random.shuffle(order)
    others = Recitable(answers)
    found = [recites_others("Who?", answers[row], answers[said], others, set()) for row, said in enumerate(order)]
    assert found == [float(row != said) for row, said in enumerate(order)]


def test_400_rows_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    template = " ".join(f"t{i}" for i in range(100))  # all rows share it
    texts = [f"{template} " + " ".join(f"w{i}" for i in rng.zipf(1.3, 100) % 2000) for _ in range(400)]
    begun = time.process_time()
    others, known = Recitable(texts), common_runs(texts[:10])
    for row in range(400):
        recites_others("Who?", texts[row], texts[row - 1], others, known)
    assert time.process_time() - begun < 2
