"""What is said first of a report: the same word, criteria and steps wherever it is said, and no path of a machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from verdicts import FORGETTING, criterion, every_state, judged

from peft_unlearn import report
from peft_unlearn.report import criteria, knowledge, verdict
from peft_unlearn.report.summary import MEANING, STATES, summarize, tally, without_paths
from peft_unlearn.report.text import answered, criterion_limit, criterion_number


def printed(made: dict, page: str | None = "report.html", width: int = 100) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(report.conclusion(made, page))
    return capture.get().splitlines()


def test_every_word_has_a_meaning():
    words = {*verdict.ORDER, criteria.UNSHOWN, criteria.FORGOTTEN, knowledge.KNOWN, knowledge.PARTLY_KNOWN, knowledge.NOT_KNOWN, None}
    assert set(MEANING) == words
    assert all(said.endswith(".") for said in MEANING.values())


def test_failed_criteria_come_first_as_they_decided_and_passed_ones_last():
    made = judged(criteria=every_state())
    made["verdict"]["reasons"].reverse()
    said = summarize(made)
    states = [found["state"] for found in said.criteria]
    assert states == sorted(states, key=STATES.index)
    failed = [found["text"] for found in said.criteria if found["state"] == "failed"]
    assert failed == [reason for reason in made["verdict"]["reasons"] if ", failed" in reason]
    assert len(said.criteria) == len(every_state())


def test_reasons_are_told_once_as_what_decided_or_as_what_was_not_tested():
    reference = judged()["verdict"]["reference"]["text"]
    reasons = [criterion()["text"], "The run stopped early: x.", "Not attacked: nobody tried.", reference]
    said = summarize(judged(reasons=reasons, training=["The run stopped early: x."]))
    assert said.deciding == [answered(criterion())]
    assert said.untested == ["Not attacked: nobody tried."]
    assert said.training == ["The run stopped early: x."]
    assert said.reference == reference


def test_many_findings_of_one_attack_are_one_line():
    findings = [criterion("attack_prompts", text=f"prompts, form {i}.", question="Does it come back?") for i in range(40)]
    said = summarize(judged("SUPPRESSED", [*findings, criterion()]))
    assert said.deciding == [
        "✗ failed: Does it come back? Prompts, form 0. And 39 more of its kind.",
        f"✗ failed: {criterion()['question']} 45% [40%, 55%]; allowed: at most 15%.",
    ]
    assert tally(said.criteria) == "41 tests: 41 failed"


@pytest.mark.parametrize(
    ("name", "number", "limit"),
    [
        ("extraction_strength", "45% [40%, 55%]", "at most 15%"),
        ("kept_probability", "45% [40%, 55%]", "at least 15%"),
        ("loss_beyond", "+0.45 [+0.40, +0.55] nats", "at most +0.15 nats"),
        ("membership_above", "+0.45 [+0.40, +0.55]", "at most +0.15"),
        ("known_rows", "+45% [+40%, +55%]", "at most +15%"),
        ("attack_prompts", "–", "–"),
    ],
)
def test_numbers_have_the_unit_of_their_criterion(name, number, limit):
    assert criterion_number(criterion(name)) == number
    assert criterion_limit(criterion(name)) == limit


def test_rows_of_which_one_is_too_many_are_counted():
    found = criterion("recited_rows", value=3 / 48, interval=None, threshold=1 / 48)
    assert (criterion_number(found), criterion_limit(found)) == ("3 of 48 rows", "none")


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_criterion_without_a_number_says_its_text(value):
    found = criterion(value=value, text="loss is not finite.")
    assert criterion_number(found) == "–"
    assert answered(found).endswith("Loss is not finite.")


def test_what_a_fine_tune_knows_has_an_answer_and_fails_nothing():
    text = "44 of 48 rows are known."
    found = criterion("known_rows", "failed", word="KNOWN", question="Does it know these rows?", text=text)
    made = judged("KNOWN", [found], reasons=[text, "verbatim: 0.9."])
    said = summarize(made)
    assert said.deciding == [f"yes: Does it know these rows? {text}", "verbatim: 0.9."]
    assert "failed" not in " ".join(printed(made))
    assert printed(made)[-1] == "VERDICT: KNOWN"


def test_rows_and_their_groups_are_counted():
    made = judged()
    assert summarize(made).measured == "Measured on 3 rows of the forget set."
    made["groups"] = {"forget": {"by": "column author", "ids": [0, 1, 1]}}
    assert summarize(made).measured == "Measured on 3 rows of the forget set in 2 groups (column author)."
    made["results"] = {"forget": {"after": {"min_k_auc": {"mean": 0.5, "n": 3, "interval": None, "rows": []}}}}
    assert summarize(made).measured == "No row was measured."


def test_too_few_rows_and_no_reference_are_told_apart():
    few, alone = judged("NOT SHOWN"), judged("NOT SHOWN", reference={"kind": None, "text": "Nothing."})
    assert "too few" in summarize(few).meaning
    assert "too few" not in summarize(alone).meaning


@pytest.mark.parametrize("start", ["/home/someone", "~", "..", "./x", "C:\\Users\\me", "\\\\host\\share"])
@given(
    names=st.lists(st.text("abcXYZ019_-é", min_size=1, max_size=6), min_size=1, max_size=3),
    around=st.sampled_from(["{}", "it is in {}.", "({})", "'{}', and more", "key={}"]),
)
def test_paths_in_a_sentence_are_cut(start, names, around):
    names[-1] += "x"
    separator = "\\" if "\\" in start else "/"
    path = separator.join([start, *names, "log.txt"])
    assert without_paths(around.format(path)) == around.format("log.txt")


@pytest.mark.parametrize(
    "sentence", ["0.97/1.2 of it", "and/or", "org/model-1b", "before / after", "<b>x</b>", "a 95 % interval. /", "12:30"]
)
def test_what_is_no_path_stays(sentence):
    assert without_paths(sentence) == sentence


@pytest.mark.parametrize("word", FORGETTING)
@pytest.mark.parametrize("width", [40, 100])
def test_the_word_is_the_last_line_of_the_terminal(word, width):
    made = judged(word, every_state(), training=["The run did not reach its target: it ended after 9 steps."], next=["More steps."])
    lines = printed(made, width=width)
    assert lines[-1] == (f"VERDICT: {word}" if word else "NO VERDICT")
    text = " ".join(" ".join(lines).split())
    assert text.index("did not reach its target") < text.index("✗ failed") < text.index("More steps.") < text.rindex(lines[-1])
    assert text.count("✗ failed") == 4
    assert "more in report.html" in text


def test_all_reasons_are_printed_where_they_are_few_and_where_the_rest_stands():
    assert "more" not in " ".join(printed(judged()))
    many = judged(criteria=[criterion(f"m{i}", question=f"Is it {i}?") for i in range(7)])
    assert any("and 3 more in sub/x.html" in line for line in printed(many, "sub/x.html"))
    assert any("and 3 more" in line and "--output" in line for line in printed(many, None))


def test_brackets_in_a_sentence_are_no_markup_of_the_terminal():
    lines = printed(judged(training=["It stopped: [red]x [b] [/]."]))
    assert " - It stopped: [red]x [b] [/]." in lines
