"""The page of a report: one file that loads nothing, escapes everything, and shows no text that was not given to it."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verdicts import FORGETTING, criterion, every_state, judged

from peft_unlearn import report
from peft_unlearn.report import page, plots
from peft_unlearn.report.summary import MEANING
from peft_unlearn.report.text import has_number
from peft_unlearn.report.thresholds import THRESHOLDS
from peft_unlearn.util.numbers import show
from peft_unlearn.util.registry import METRICS

VOID = {"meta", "br", "link", "img", "input"}
HOSTILE = '<script>alert("x")</script> & <b onload=1>'


class Page(HTMLParser):
    """Every tag closed in order, every id once; text and tags are kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        self.ids = set(ids)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def rows(mean: float, n: int = 30, **more) -> dict:
    values = (mean + 0.05 * np.sin(np.arange(n))).tolist()
    return {"mean": float(np.mean(values)), "n": n, "rows": values, **more}


def sample() -> dict:
    results: dict = {"forget": {}, "retain": {}, "holdout": {}}
    for view, es, seen in (("before", 0.9, -0.3), ("after", 0.05, -3.1), ("never_seen", 0.04, -3.0)):
        results["forget"][view] = {
            "loss": rows(-seen),
            "extraction_strength": rows(es),
            "min_k": rows(seen),
            "logit_lens": rows(es, layers=[0.1, es, 0.2]),
            "leak_at_16": rows(es),
            "min_k_auc": {"mean": 0.5, "n": 60, "rows": [], "interval": [0.4, 0.6]},
            "forget_quality": {"mean": math.nan, "n": 0, "rows": [], "reason": f"too few rows {HOSTILE}"},
        }
        results["retain"][view] = {"rouge_l": rows(0.9)}
        results["holdout"][view] = {"min_k": rows(-3.0, 20)}
    run = {"stopped": HOSTILE, "settings": {"method": "npo", "model_name_or_path": HOSTILE}}
    curve = [{"step": step, "p_forget": 1 / (1 + step), "p_retain": 0.9} for step in range(5)]
    return report.build(results, run, never_seen={"kind": "retrained", "name": HOSTILE}, curve=curve)


TEXTS = {"question": ["Who?", HOSTILE], "answers": {"before": [HOSTILE, "b"], "after": ["Heron Bay", "d"]}}


@pytest.mark.parametrize("texts", [None, TEXTS])
def test_page_is_one_file_that_loads_nothing(tmp_path: Path, texts):
    made = sample()
    page.write(made, tmp_path / "report.html", texts)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    parsed = Page(text)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    for tag, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
            assert attributes.get(name, "#").lstrip("#") in parsed.ids | {""}
    assert all(target in parsed.ids for target in re.findall(r"url\(#([^)]*)\)", text))
    assert "@import" not in text
    assert "url(http" not in text
    assert HOSTILE not in text
    assert HOSTILE in "".join(parsed.text)


def read(made: dict, **more) -> str:
    return " ".join(" ".join(Page(page.page(made, **more)).text).split())


def test_page_says_numbers_and_lines():
    made = sample()
    text = read(made)
    assert "a model trained without the forget set" in text
    entry, change = made["results"]["forget"]["before"]["loss"], made["differences"]["forget"]["loss"]["after - before"]
    for found in (entry, change):
        low, high = found["interval"]
        assert f"{show(found['mean'])} [{show(low)}, {show(high)}]" in text
    assert "too few rows" in text
    assert "peft-unlearn train recipe.yaml" in text
    for name in made["results"]["forget"]["after"]:
        assert name.replace("_", " ") in text
    assert "deleted" not in text.lower()
    assert "certified" not in text.lower()


@pytest.mark.parametrize("word", FORGETTING)
def test_page_begins_with_word_training_findings_grounds_and_steps(word):
    steps, training = ["Train `more` steps."], ["The run did not reach its target: it ended after 9 steps."]
    text = read(judged(word, training=training, next=steps, reasons=[criterion()["text"], *training, "Not attacked: nobody."]))
    shown = [
        word or "NO VERDICT",
        MEANING[word],
        training[0],
        "✗ failed",
        "3 rows of the forget set",
        "compared with the twin.",
        "Train more steps.",
    ]
    places = [text.index(said, 200) if said == word else text.index(said) for said in shown]
    assert places == sorted(places)
    assert text.index("The tests") > places[-1]
    assert text.index("Not attacked: nobody.") > text.index("The tests")


@pytest.mark.parametrize("word", FORGETTING)
def test_every_criterion_stands_on_the_page(word):
    found = every_state()
    text = read(judged(word, found))
    for one in found:
        assert one["text"][:1].upper() + one["text"][1:] in text
        assert one["question"] in text
    counted = len(found) // 4
    assert f"{len(found)} tests: {counted} failed, {counted} not shown, {counted} not measured, {counted} passed" in text
    assert text.index("extraction_strength, failed".capitalize()) < text.index("extraction_strength, not shown".capitalize())
    assert text.index("extraction_strength, not shown".capitalize()) < text.index("extraction_strength, passed".capitalize())


def test_a_criterion_has_its_power_its_rows_and_its_metric_explained():
    text = read(judged("NOT SHOWN", [criterion(state="not shown", rows_needed=130)]))
    assert "48 rows would have shown a difference of 0.02 in 95 of 100 cases." in text
    assert "About 130 rows would show it." in text
    assert f"extraction strength : {METRICS['extraction_strength'].help}" in text


def test_hostile_sentences_are_text():
    said = {"training": [HOSTILE], "next": [f"`{HOSTILE}`"], "reference": {"kind": "paired", "text": HOSTILE}}
    said["three_samples"] = {"text": f"three {HOSTILE}", "metrics": ["loss"]}
    made = judged(criteria=[criterion(question=f"question {HOSTILE}", text=f"text {HOSTILE}", name=HOSTILE, power=HOSTILE)], **said)
    made["groups"] = {"forget": {"by": HOSTILE, "ids": [1, 1, 2]}}
    text = page.page(made)
    assert HOSTILE not in text
    assert {tag for tag, _ in Page(text).tags}.isdisjoint({"script"})
    shown = "".join(Page(text).text)
    assert all(f"{said}{HOSTILE}" in shown for said in ("question ", "Text ", "three "))


def test_no_path_of_a_sentence_is_shown():
    path = "/home/someone/runs/log.txt"
    text = page.page(judged(criteria=[criterion(text=f"see {path}.")], training=[f"It stopped, see {path}."], next=[f"Read {path}."]))
    assert "someone" not in text
    assert text.count("log.txt") == 3


def test_worst_rows_are_named_by_number():
    assert "from 1: 2, 7, 9." in read(judged(worst_rows=[2, 7, 9]))
    many = read(judged(worst_rows=list(range(1, 401))))
    assert f"{page.NAMED} and {400 - page.NAMED} more" in many
    assert "still known" not in read(judged())


def test_three_samples_are_a_sentence_and_a_figure():
    made = judged(three_samples={"text": "Nearer to never-seen (p = .01).", "metrics": ["loss"]})
    made["results"]["holdout"] = {"after": made["results"]["forget"]["after"]}
    assert "Nearer to never-seen (p = .01)." in read(made)
    [figure] = [of for tag, of in Page(page.page(made)).tags if tag == "svg" and of.get("class") != "gauge"]
    assert figure["aria-label"] == "loss (nats a token) of each row; medians: before 0.5, after 0.5, never-seen 0.5, holdout 0.5"
    made["results"] = {}
    assert "Nearer to never-seen" in read(made)


def test_samples_draw_every_row():
    before, after = [0.1, 0.2, 0.3], [4.0] * 5
    svg = plots.samples({"before": before, "after": after}, "loss")
    assert svg.count("<use ") >= len(before) + len(after)


@given(
    value=st.floats(-1, 3),
    spread=st.tuples(st.floats(0, 2), st.floats(0, 2)),
    limit=st.floats(0, 1),
    at_least=st.booleans(),
)
def test_a_dot_lies_in_the_filled_part_where_the_value_is_allowed(value, spread, limit, at_least):
    svg = plots.gauge(value, (value - spread[0], value + spread[1]), limit, "n", end=1.0, at_least=at_least)
    left, length = (float(number) for number in re.search(r'<rect x="([\d.]+)" y="4" width="([\d.]+)" height="14" fill="#b', svg).groups())
    dot = float(re.search(r'<circle cx="([\d.]+)"', svg)[1])
    assert 0 <= left <= left + length <= 170.1
    assert 0 <= dot <= 170
    if abs(value - limit) > 0.05:  # closer they may be drawn as one
        assert (left <= dot <= left + length) == (value >= limit if at_least else value <= limit)
    ends = re.search(r'd="M([\d.]+) 7V15M([\d.]+) 11H([\d.]+)', svg)
    assert float(ends[1]) <= dot + 0.1
    assert dot <= float(ends[3]) + 0.1


def test_every_criterion_with_a_number_is_drawn_with_a_text():
    parsed = Page(page.page(judged(criteria=every_state())))
    labels = [of["aria-label"] for tag, of in parsed.tags if tag == "svg" and of.get("class") == "gauge"]
    drawn = [found for found in every_state() if has_number(found) and found["name"] != "recited_rows"]
    assert len(labels) == len(drawn)
    assert "45% [40%, 55%], allowed: at least 15%" in labels


def test_every_metric_is_explained_in_one_sentence():
    for name, metric in METRICS.items():
        assert metric.help.endswith("."), name
        assert ". " not in metric.help, name
        assert metric.direction is not None, name


def test_page_says_what_each_metric_is_and_which_way_is_better():
    text = " ".join(" ".join(Page(page.page(sample())).text).split())
    for name, key in (("loss", "loss"), ("leak_at", "leak at 16"), ("auc", "min k auc"), ("forget_quality", "forget quality")):
        better = {"lower": "lower", "higher": "higher", "never_seen": "as the never-seen model"}[METRICS[name].direction]
        assert f"{key} {METRICS[name].help} Better: {better}." in text


def test_page_shows_attacks_and_their_thresholds():
    finding = {"what": HOSTILE, "metric": "extraction_strength", "mean": 0.5, "after": 0.1, "never_seen": None, "recovered": 0.44}
    finding |= {"threshold": "prompts", "limit": 0.1, "passed": False, "text": "t"}
    attacks = {
        "prompts": {"title": HOSTILE, "full": True, "passed": False, "reason": None, "seconds": 3.0, "findings": [finding]},
        "scale": {"title": "Scaled", "full": False, "passed": None, "reason": "no adapter", "seconds": 0.0, "findings": []},
    }
    made = report.build({}, {}, attacks=attacks)
    parsed = Page(page.page(made))
    text = " ".join(" ".join(parsed.text).split())
    assert "prompts: failed" in text
    assert "(long form, 3 s)" in text
    assert "scale: –" in text
    assert "Scaled (no adapter)" in text
    assert f"{HOSTILE}, extraction strength 0.500 0.100 – 44% 0.1 failed" in text
    for threshold in THRESHOLDS.values():
        assert threshold.meaning in text
        assert threshold.why in text


def test_figures_are_there_with_a_text_for_those_who_do_not_see_them():
    parsed = Page(page.page(sample()))
    figures = [attributes for tag, attributes in parsed.tags if tag == "svg" and attributes.get("class") != "gauge"]
    assert len(figures) == 4
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 20 for attributes in figures)
    assert all("lang" in attributes for tag, attributes in parsed.tags if tag == "html")


def test_answers_are_shown_only_where_they_are_given():
    assert "Heron Bay" in page.page(sample(), TEXTS)
    text = page.page(sample())
    assert "Heron Bay" not in text
    assert "The texts are left out" in text
    shown = re.findall(r'<th scope="row">row (\d+)</th>', text)
    after = sample()["results"]["forget"]["after"]["extraction_strength"]["rows"]
    assert [int(i) - 1 for i in shown] == np.argsort(-np.array(after), kind="stable")[: page.SHOWN].tolist()


def test_same_report_same_bytes():
    assert page.page(sample(), TEXTS) == page.page(sample(), TEXTS)


def test_a_report_with_nothing_in_it_is_a_page():
    for results in ({}, {"forget": {"model": {}}}, {"forget": {"after": {"loss": {"mean": math.nan, "n": 0, "rows": [None]}}}}):
        text = " ".join(Page(page.page(report.build(results, {}))).text)
        assert "NO VERDICT" in text


def test_histograms_of_one_view_and_one_value():
    svg = plots.histograms({"after": ([-1.0], [-1.0])})
    assert svg.startswith("<svg")
    assert svg.count("never") == 0
