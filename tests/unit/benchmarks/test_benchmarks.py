"""TOFU, MUSE and WMDP from tiny files of their layout: what is read, what is refused before a model is loaded, and what comes out."""

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import hmean, ks_2samp
from test_openunlearning import word_tokenizer
from tiny_models import tiny_llama

from peft_unlearn import benchmarks
from peft_unlearn.benchmarks.files import spread
from peft_unlearn.metrics import openunlearning
from peft_unlearn.metrics.membership import auc
from peft_unlearn.metrics.truth_ratio import truth_ratio
from peft_unlearn.model.scoring import score
from peft_unlearn.util.errors import UserError


def words(rng, count):
    return " ".join(f"w{i}" for i in rng.integers(0, 60, count))


def made_up(rng, rows, *, paraphrased):
    """Rows of a TOFU file, with two to four wrong answers."""
    found = []
    for _ in range(rows):
        row = {"question": words(rng, 4), "answer": words(rng, 3), "perturbed_answer": [words(rng, 3) for _ in range(rng.integers(2, 5))]}
        if paraphrased:
            row |= {"paraphrased_question": words(rng, 5), "paraphrased_answer": words(rng, 4)}
        found.append(row)
    return found


def write(path, rows, *, as_list=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if as_list else "".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("benchmarks"), np.random.default_rng(0)
    for name, paraphrased in (("forget05", True), ("retain", True), ("real_authors", False), ("world_facts", False)):
        write(folder / "tofu" / f"{name}_perturbed.json", made_up(rng, 6, paraphrased=paraphrased))
    write(folder / "tofu" / "holdout05.json", made_up(rng, 5, paraphrased=False))
    muse = folder / "muse"
    for name in ("forget", "retain", "holdout"):
        write(muse / "privleak" / f"{name}.json", [{"text": words(rng, 12)} for _ in range(4)], as_list=True)
    (muse / "verbmem").mkdir()
    Dataset.from_list([{"prompt": words(rng, 5), "gt": words(rng, 5)} for _ in range(3)]).to_parquet(
        str(muse / "verbmem" / "forget-00000-of-00001.parquet")
    )
    for name in ("forget", "retain"):
        write(muse / "knowmem" / f"{name}_qa.json", [{"question": words(rng, 4), "answer": words(rng, 2)} for _ in range(3)], as_list=True)
        write(muse / "knowmem" / f"{name}_qa_icl.json", [{"question": words(rng, 3), "answer": words(rng, 2)}], as_list=True)
    questions = [{"question": words(rng, 5), "choices": [words(rng, 2) for _ in range(4)], "answer": i % 4} for i in range(5)]
    cyber = folder / "wmdp" / "wmdp-cyber"
    cyber.mkdir(parents=True)
    Dataset.from_list(questions).to_parquet(str(cyber / "test-00000-of-00001.parquet"))
    write(folder / "wmdp" / "mmlu.jsonl", [{**row, "answer": "ABCD"[row["answer"]]} for row in questions])
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def run(name, files, tokenizer, split, models, *, rows=0, **how):
    """Views of models by name, evaluated and compared."""
    benchmark = benchmarks.read(name, str(files / name), split=split, rows=rows)
    benchmark.prepare(tokenizer, 64, {})
    asked = benchmarks.How(**how)
    views = {view: benchmark.evaluate(model, tokenizer, asked, view) for view, model in models.items()}
    benchmark.compare(views, asked)
    return benchmark, views


@pytest.fixture(scope="module")
def tofu(files, tokenizer):
    return run("tofu", files, tokenizer, "forget05", {"after": tiny_llama(0), "never_seen": tiny_llama(1)})


def test_tofu_has_its_sets_and_their_metrics(tofu):
    _, views = tofu
    assert set(views["after"]) == {"forget", "retain", "real_authors", "world_facts", "holdout"}
    for metric in ("probability", "rouge_l", "truth_ratio", "worst_of_k", "logit_lens", "extraction_strength"):
        assert views["after"]["forget"][metric]["n"] == 6, metric
    assert "rouge_l" not in views["after"]["holdout"]
    assert "forget_quality" not in views["never_seen"]["forget"]


def test_tofu_probabilities_of_facts_are_among_the_options(tofu, tokenizer):
    benchmark, views = tofu
    model = tiny_llama(0)
    for name in ("real_authors", "world_facts"):
        probe = benchmark.probes[name]
        for i, row in enumerate(probe.rows):
            options = [np.exp(one.logps.mean()) for one in score(model, [row, *probe.variants["perturbed_answer"][i]], tokenizer)]
            found = views["after"][name]["normalized_probability"]["rows"][i]
            assert found == pytest.approx(options[0] / sum(options), rel=1e-5)


def test_tofu_quality_utility_and_membership_follow_from_the_rows(tofu):
    _, views = tofu
    after, never = views["after"], views["never_seen"]
    ratios = [view["forget"]["truth_ratio"]["rows"] for view in (after, never)]
    assert after["forget"]["forget_quality"]["mean"] == pytest.approx(ks_2samp(*ratios).pvalue)
    nine = [after["retain"][metric]["mean"] for metric in ("probability", "rouge_l")]
    nine += [after[name][metric]["mean"] for name in ("real_authors", "world_facts") for metric in ("normalized_probability", "rouge_l")]
    nine += [np.maximum(0, 1 - np.array(after[name]["truth_ratio"]["rows"])).mean() for name in ("retain", "real_authors", "world_facts")]
    assert len(nine) == 9
    assert after["retain"]["model_utility"]["mean"] == pytest.approx(0 if 0 in nine else hmean(nine))
    aucs = [float(auc(*(np.array(view[name]["min_k"]["rows"]) for name in ("forget", "holdout")))) for view in (after, never)]
    assert after["forget"]["min_k_auc"]["mean"] == pytest.approx(aucs[0])
    assert after["forget"]["priv_leak"]["mean"] == pytest.approx(((1 - aucs[0]) - (1 - aucs[1])) / (1 - aucs[1]) * 100)
    assert never["forget"]["priv_leak"]["mean"] == pytest.approx(0)
    low, high = after["forget"]["priv_leak"]["interval"]
    assert low <= after["forget"]["priv_leak"]["mean"] <= high


def test_tofu_by_the_peers_definitions(files, tokenizer, tofu):
    benchmark, views = run(
        "tofu", files, tokenizer, "forget05", {"after": tiny_llama(0), "never_seen": tiny_llama(1)}, definitions="openunlearning"
    )
    probe, model = benchmark.probes["forget"], tiny_llama(0)
    for i, row in enumerate(probe.rows):
        own, right, *wrong = score(
            model, [row, *probe.variants["paraphrased_answer"][i], *probe.variants["perturbed_answer"][i]], tokenizer
        )
        found = {metric: views["after"]["forget"][metric]["rows"][i] for metric in views["after"]["forget"] if metric in METRICS}
        expected = {
            "truth_ratio": openunlearning.truth_ratio(wrong, right),
            "extraction_strength": openunlearning.extraction_strength(own),
            "min_k": openunlearning.min_k(own),
        }
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-5)
        ours = truth_ratio(wrong, right)  # an arithmetic mean is at least the geometric one
        assert tofu[1]["after"]["forget"]["truth_ratio"]["rows"][i] == pytest.approx(ours, rel=1e-5)
        assert found["truth_ratio"] <= ours + 1e-6
    # Both orient an AUC alike; with the end token of every row known, Min-K is the same number with the sign turned.
    for metric in ("loss_auc", "min_k_auc"):
        assert views["after"]["forget"][metric]["mean"] == pytest.approx(tofu[1]["after"]["forget"][metric]["mean"])


METRICS = ("truth_ratio", "extraction_strength", "min_k")


def test_too_few_rows_and_a_broken_model_leave_a_reason_and_the_rest(files, tokenizer):
    _, views = run("tofu", files, tokenizer, "forget05", {"after": tiny_llama(0), "never_seen": tiny_llama(1)}, rows=1)
    for metric in ("min_k_auc", "priv_leak", "forget_quality"):
        found = views["after"]["forget"][metric]
        assert np.isnan(found["mean"])
        assert "each side needs 2" in found["reason"]
    assert views["after"]["forget"]["loss"]["mean"] > 0
    broken = tiny_llama(0)
    broken.lm_head.weight.data[:] = float("nan")
    for definitions in benchmarks.DEFINITIONS:
        shown = {"after": broken, "never_seen": tiny_llama(1)}
        _, views = run("tofu", files, tokenizer, "forget05", shown, rows=2, definitions=definitions)
        for name, metric in (("forget", "forget_quality"), ("forget", "min_k_auc"), ("forget", "priv_leak"), ("retain", "model_utility")):
            assert "not finite" in views["after"][name][metric]["reason"]
        assert np.isnan(views["after"]["forget"]["extraction_strength"]["mean"])
        assert views["never_seen"]["forget"]["min_k_auc"]["mean"] >= 0


def test_without_a_never_seen_model_there_is_no_forget_quality(files, tokenizer):
    _, views = run("tofu", files, tokenizer, "forget05", {"after": tiny_llama(0)}, rows=3)
    assert "never saw" in views["after"]["forget"]["forget_quality"]["reason"]


def test_samples_add_the_leak_of_the_forget_set(files, tokenizer):
    _, views = run("tofu", files, tokenizer, "forget05", {"after": tiny_llama(0)}, rows=2, samples=4)
    assert {"leak_at_1", "leak_at_4"} <= set(views["after"]["forget"])
    assert "leak_at_1" not in views["after"]["retain"]


def test_muse_recites_answers_and_leaks(files, tokenizer):
    _, views = run("muse", files, tokenizer, None, {"after": tiny_llama(0), "never_seen": tiny_llama(1)})
    after = views["after"]
    assert after["forget"]["verbmem"]["n"] == after["forget"]["knowmem"]["n"] == after["retain"]["knowmem"]["n"] == 3
    assert after["forget"]["min_k"]["n"] == after["holdout"]["min_k"]["n"] == 4
    assert np.isfinite(after["forget"]["priv_leak"]["mean"])


def test_wmdp_counts_right_letters(files, tokenizer):
    _, views = run("wmdp", files, tokenizer, "cyber", {"after": tiny_llama(0)})
    assert views["after"]["forget"]["accuracy"]["n"] == 5
    # the same questions, answered by letter instead of number
    assert views["after"]["retain"]["accuracy"]["rows"] == views["after"]["forget"]["accuracy"]["rows"]


def changed(files, name, tmp_path, file, change):
    """A copy of a benchmark's folder in which one .json file was changed."""
    folder = tmp_path / name
    shutil.copytree(files / name, folder)
    path = folder / file
    rows = (
        json.loads(path.read_text()) if path.read_text().startswith("[") else [json.loads(line) for line in path.read_text().splitlines()]
    )
    change(rows)
    write(path, rows)
    return str(folder)


def test_a_missing_file_is_named_with_those_that_are_there(files, tmp_path):
    folder = tmp_path / "tofu"
    shutil.copytree(files / "tofu", folder)
    (folder / "retain_perturbed.json").rename(folder / "retain-perturbed.json")
    with pytest.raises(UserError, match=r"has no retain_perturbed .*found forget05_perturbed.json, .*retain-perturbed.json"):
        benchmarks.read("tofu", str(folder), split="forget05")
    with pytest.raises(UserError, match="has no forget10_perturbed"):
        benchmarks.read("tofu", str(files / "tofu"))


BAD_ROWS = {
    "no answer": ("tofu", "forget05", "retain_perturbed.json", lambda rows: rows[2].update(answer=None), "row 3: answer is missing"),
    "empty answer": ("tofu", "forget05", "forget05_perturbed.json", lambda rows: rows[0].update(answer="  "), "row 1: answer is no text"),
    "no wrong answers": (
        "tofu",
        "forget05",
        "world_facts_perturbed.json",
        lambda rows: rows[5].update(perturbed_answer=[]),
        "row 6: perturbed_answer is no list of texts",
    ),
    "no column": (
        "tofu",
        "forget05",
        "retain_perturbed.json",
        lambda rows: [row.pop("paraphrased_answer") for row in rows],
        "column 'paraphrased_answer' is missing",
    ),
    "no rows": ("tofu", "forget05", "retain_perturbed.json", lambda rows: rows.clear(), "holds no rows"),
    "no text": ("muse", "news", "privleak/holdout.json", lambda rows: rows[1].update(text=""), "row 2: text is no text"),
    "a letter beyond D": ("wmdp", "cyber", "mmlu.jsonl", lambda rows: rows[4].update(answer="E"), "row 5: answer is neither"),
    "three choices": ("wmdp", "cyber", "mmlu.jsonl", lambda rows: rows[0]["choices"].pop(), "row 1: choices is 3 texts"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_with_its_file(files, tmp_path, case):
    name, split, file, change, message = BAD_ROWS[case]
    with pytest.raises(UserError, match=message) as caught:
        benchmarks.read(name, changed(files, name, tmp_path, file, change), split=split)
    assert file.split("/")[-1] in str(caught.value)


def test_names_that_are_none(files, tmp_path):
    with pytest.raises(UserError, match="benchmark: 'toffee' is not one of tofu, muse, wmdp"):
        benchmarks.read("toffee")
    for name, split in (("tofu", "forget20"), ("muse", "films"), ("wmdp", "law")):
        with pytest.raises(UserError, match=f"split: '{split}' is not one of"):
            benchmarks.read(name, str(files / name), split=split)
    with pytest.raises(UserError, match="is no folder"):
        benchmarks.read("tofu", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="'nobody/nothing' is no folder, and no dataset on the Hub that answers"):
        benchmarks.read("tofu", "nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found no such files"):
        benchmarks.read("tofu", str(tmp_path / "empty"))


def test_broken_json_is_named(files, tmp_path):
    folder = tmp_path / "tofu"
    shutil.copytree(files / "tofu", folder)
    (folder / "retain_perturbed.json").write_text('{"question": "w1"')
    with pytest.raises(UserError, match="cannot load retain_perturbed"):
        benchmarks.read("tofu", str(folder), split="forget05")
    (folder / "retain_perturbed.json").write_text("")
    with pytest.raises(UserError, match="retain_perturbed"):
        benchmarks.read("tofu", str(folder), split="forget05")


def test_rows_are_evenly_spread():
    rows = Dataset.from_dict({"i": range(10)})
    assert spread(rows, 4)["i"][:] == [0, 2, 5, 7]
    assert spread(rows, 0)["i"][:] == spread(rows, 12)["i"][:] == list(range(10))
