"""The how-tos for metrics and attacks, followed to the letter from outside the package."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from attack_bed import adapted
from howto import command, first_command, install
from test_openunlearning import word_tokenizer
from tiny_models import tiny_llama

PARTS = {"add-a-metric.md": "first_half", "add-an-attack.md": "negated"}
HELP = "Share of the answer's first half that the model would write by itself; forgotten is low."
pages = pytest.mark.parametrize("page", PARTS)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for page in PARTS:
        folders[page] = tmp_path_factory.mktemp(Path(page).stem)
        install(page, folders[page])
    return folders


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Path:
    """A base that says the answers by heart, for it wrote them, and an adapter of random numbers that says others."""
    folder, tokenizer, base = tmp_path_factory.mktemp("bed"), word_tokenizer(), tiny_llama()
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    rng = np.random.default_rng(3)
    for name in ("forget", "retain"):
        rows = []
        for _ in range(6):
            prompt = " ".join(f"w{i}" for i in rng.integers(5, 60, 3))
            said = list(tokenizer(prompt)["input_ids"])
            start = len(said)
            for _ in range(8):
                with torch.no_grad():
                    logits = base(torch.tensor([said])).logits[0, -1]
                words = [i for i in range(len(logits)) if i not in tokenizer.all_special_ids and i < len(tokenizer)]
                said.append(max(words, key=logits.tolist().__getitem__))
            rows.append({"prompt": prompt, "completion": f" {tokenizer.decode(said[start:])}"})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = adapted()
    model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    model.save_pretrained(folder / "adapter")
    return folder


def done(folder: Path, *arguments: object) -> str:
    """The output of a command that must work."""
    result = command(folder, *map(str, arguments))
    assert result.returncode == 0, result.stderr
    return result.stdout


def sets(bed: Path) -> list[object]:
    return ["--forget", bed / "forget.jsonl", "--retain", bed / "retain.jsonl"]


@pages
def test_keys_show_the_part_and_import_nothing_heavy(page, installed):
    found = first_command(installed[page], "keys", PARTS[page])
    assert found.returncode == 0, found.stderr
    assert PARTS[page] in found.stdout
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_metric_is_measured_shown_and_explained(bed, installed, tmp_path):
    output = tmp_path / "found.json"
    text = done(installed["add-a-metric.md"], "evaluate", bed / "adapter", *sets(bed), "--output", output)
    assert "first half" in text
    found = json.loads(output.read_text())
    for name in ("forget", "retain"):
        for view in ("before", "after"):
            entry = found["results"][name][view]["first_half"]
            assert entry["n"] == len(entry["rows"]) == 6
            low, high = entry["interval"]
            assert low <= entry["mean"] <= high
            assert entry["mean"] == pytest.approx(np.mean(entry["rows"]))
    assert found["results"]["forget"]["before"]["first_half"]["mean"] > found["results"]["forget"]["after"]["first_half"]["mean"]
    assert found["differences"]["forget"]["first_half"]["after - before"]["mean"] < 0
    page = output.with_suffix(".html").read_text()
    assert HELP.replace("'", "&#39;") in page


def test_an_attack_is_made_judged_and_shown_and_the_card_has_both(bed, installed, tmp_path):
    """With both packages installed. The adapter's folder has the report of a training, so that its card is written anew."""
    both = tmp_path / "packages"
    for page in PARTS:
        both.mkdir(exist_ok=True)
        install(page, both)
    trained = bed / "trained"
    recipe = {"model_name_or_path": str(bed / "base"), "dtype": "float32", "method": "npo", "max_steps": 2, "use_cpu": True}
    recipe |= {f"{name}_dataset": str(bed / f"{name}.jsonl") for name in ("forget", "retain")} | {"output_dir": str(trained)}
    (bed / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"learning_rate": 0.05}))
    done(both, "train", bed / "recipe.yaml")
    assert "| forget | first half |" in (trained / "README.md").read_text()
    assert "negated" in done(both, "audit", trained, "--attacks", "negated")
    found = json.loads((trained / "report.json").read_text())
    attack = found["attacks"]["negated"]
    assert attack["title"] == "The adapter a little into the other direction"
    (finding,) = (finding for finding in attack["findings"] if finding["metric"] == "extraction_strength")
    assert (finding["threshold"], finding["limit"]) == ("scale", 0.5)
    before, after = (found["results"]["forget"][view]["extraction_strength"]["mean"] for view in ("before", "after"))
    assert finding["recovered"] == pytest.approx((finding["mean"] - after) / (before - after))
    judged = [finding["passed"] for finding in attack["findings"] if finding["limit"] is not None]
    assert attack["passed"] is (False if False in judged else None if None in judged else True)
    word = {True: "passed", False: "failed", None: "–"}[attack["passed"]]
    why = "" if attack["reason"] is None else f" ({attack['reason']})"
    assert not any("Not attacked" in reason for reason in found["verdict"]["reasons"])
    card, page = (trained / "README.md").read_text(), (trained / "report.html").read_text()
    assert f"| negated | The adapter a little into the other direction | {word}{why} |" in card
    assert "| forget | first half |" in card
    assert f"negated: <b>{word}</b>" in page
    assert HELP.replace("'", "&#39;") in page


def test_a_metric_that_reads_what_there_is_not_is_refused_in_a_sentence(bed, tmp_path):
    install("add-a-metric.md", tmp_path)
    file = tmp_path / "my_metrics/first_half.py"
    file.write_text(file.read_text().replace("score: RowScore", "row: RowScore").replace("score.", "row."))
    refused = command(tmp_path, "evaluate", str(bed / "adapter"), *map(str, sets(bed)))
    assert refused.returncode == 2
    assert "first_half: the metric reads 'row'" in refused.stderr
