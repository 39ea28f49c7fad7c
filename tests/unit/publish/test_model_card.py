"""The model card: what it says, and that names in it are no markup."""

import ast
import html
import re
import shlex
from pathlib import Path

import pytest
from card_report import REPORT
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from verdicts import FORGETTING, criterion, every_state, judged

from peft_unlearn.config import methods
from peft_unlearn.publish.model_card import write_card
from peft_unlearn.report.summary import MEANING
from peft_unlearn.report.text import criterion_limit, criterion_number, criterion_state


def card(tmp_path: Path, **changes) -> ModelCard:
    arguments = {"base": "org/base-1b", "method": "ngdiff", "settings": {"learning_rate": 1e-3}, "quantization": "NF4", "report": REPORT}
    return ModelCard.load(write_card(tmp_path, **(arguments | changes)))


def test_card_metadata_reads_back(tmp_path: Path) -> None:
    data = card(tmp_path).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("org/base-1b", "peft", "text-generation")
    assert set(data.tags) == {"unlearning", "lora", "peft-unlearn", "ngdiff"}
    assert data.base_model_relation == "adapter"
    assert {(r.dataset_name, r.metric_type, r.metric_name, r.metric_value) for r in data.eval_results} == {
        ("forget set", "extraction_strength", "extraction strength, before", 0.98765),
        ("forget set", "extraction_strength", "extraction strength, after", 0.01234),
        ("retain set", "extraction_strength", "extraction strength, after", 0.9),
    }


def test_card_shows_numbers_settings_and_warnings(tmp_path: Path) -> None:
    text = card(tmp_path, settings={"learning_rate": 1e-3, "seed": None, "forget_loss_args": {"tol": 0.02}}).text
    assert "| forget | extraction strength | 0.988 [0.950, 1.00] | 0.0123 [0.000, 0.123] | 7 |" in text
    assert "| forget | rouge l | - | - | 7 |" in text
    assert "| retain | extraction strength | - | 0.900 | 9 |" in text
    assert "| `learning_rate` | 0.001 |" in text
    assert '| `forget_loss_args` | {"tol": 0.02} |' in text
    assert "seed" not in text
    assert "NF4" in text
    assert "arxiv.org/abs/2410.22086" in text
    assert f"peft-unlearn merge {tmp_path.name}" in text
    assert "reversed guidance" in text
    assert "private" in text


@pytest.mark.parametrize("word", FORGETTING)
def test_card_says_word_training_and_grounds_first_then_what_failed_and_what_to_do(tmp_path: Path, word) -> None:
    found = every_state()
    said = judged(word, found, training=["The run did not reach its target."], next=["More steps."], worst_rows=[1])
    text = card(tmp_path, report=said).text
    first = next(block for block in text.split("\n\n")[1:] if block)
    shown = [word or "NO VERDICT", MEANING[word], "did not reach its target", "3 rows of the forget set", "compared with the twin"]
    places = [first.index(part) for part in shown]
    assert places == sorted(places)
    failed = [one["text"] for one in found if one["state"] == "failed"]
    assert all(f"\n- {one[:1].upper()}{one[1:]}\n" in text for one in failed)
    assert text.index(failed[0][1:]) < text.index("\n- More steps.") < text.index("| question |")
    for one in found:
        row = f"| {one['question']} | {criterion_state(one)} | {criterion_number(one)} | {criterion_limit(one)} |"
        assert (row in text) == (not one["name"].startswith("attack_"))


def test_card_says_why_there_is_no_word(tmp_path: Path) -> None:
    text = card(tmp_path, report=judged(None, [], reasons=["There was nothing to forget."])).text
    first = text.split("\n\n")[1]
    assert "**NO VERDICT**" in first
    assert "There was nothing to forget." in first


def test_card_shows_no_path_and_no_markup_of_a_sentence(tmp_path: Path) -> None:
    hostile = "it stopped, see /home/someone/log.txt <script>x</script>\n# Title | cell"
    made = judged(criteria=[criterion(text=hostile, question=hostile)], training=[hostile], next=[hostile])
    text = card(tmp_path, report=made).text
    assert "someone" not in text
    assert "<script>" not in text
    assert "\n# Title" not in text
    assert text.count("log.txt &lt;script&gt;x&lt;/script&gt; # Title") == 4
    assert "Title \\| cell |" in text


def test_card_shows_what_an_audit_tried(tmp_path: Path) -> None:
    attacks = {
        "prompts": {"title": "Other prompts", "passed": True, "reason": None},
        "scale": {"title": "Another | strength", "passed": False, "reason": None},
        "composition": {"title": "Several adapters", "passed": None, "reason": "no further adapters were named"},
    }
    text = card(tmp_path, report={**REPORT, "attacks": attacks}).text
    assert "| prompts | Other prompts | passed |" in text
    assert "| scale | Another \\| strength | failed |" in text
    assert "| composition | Several adapters | – (no further adapters were named) |" in text
    assert "what was tried" not in card(tmp_path).text


def test_card_of_a_method_without_a_paper_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS._all, "plain", methods.Method("nothing that was published", {}))
    text = card(tmp_path, method="plain").text
    assert "| method | `plain`: nothing that was published |" in text


def test_card_says_the_verdict_and_what_never_seen_is(tmp_path: Path) -> None:
    written = card(tmp_path)
    assert "**SUPPRESSED**: " in written.text
    assert "\n- Worst_of_k is failed (at most 15%).\n" in written.text
    assert "a model trained without the forget set" in written.text
    assert "someone" not in written.content
    expected = {"verdict": "SUPPRESSED", "never_seen": "retrained", "definitions": "peft-unlearn"}
    assert written.data.to_dict()["unlearning"] == expected


def test_card_of_a_local_base_shows_its_last_component_alone(tmp_path: Path) -> None:
    written = card(
        tmp_path, base="/home/someone/models/tiny", settings={"forget": {"path": "/home/someone/forget.jsonl"}}, below="/home/someone/mine"
    )
    assert "someone" not in written.content
    assert "`tiny`" in written.text
    assert "forget.jsonl" in written.text
    assert written.data.base_model is None


def test_card_of_an_adapter_on_another_loads_both(tmp_path: Path) -> None:
    text = card(tmp_path, below="org/finetune").text
    assert 'from_pretrained(base, "org/finetune", adapter_name="finetune")' in text
    assert "--below org/finetune" in text
    for block in text.split("```python")[1:]:
        compile(block.split("```")[0], "card", "exec")


def test_card_of_an_adapter_on_a_merged_one_merges_that_first(tmp_path: Path) -> None:
    write_card(tmp_path, base="some/base", method="mollm", settings={}, below="me/finetune", below_mode="merge")
    text = (tmp_path / "README.md").read_text()
    assert 'base = PeftModel.from_pretrained(base, "me/finetune").merge_and_unload()' in text
    assert "set_adapter" not in text
    assert "--below me/finetune" in text


def test_a_card_shows_hostile_names_as_they_stand(tmp_path: Path) -> None:
    """Its Markdown holds no element of a name's, its code is code, and its command names one folder."""
    name, base, below = """a "b" <img src=x> 'c' | d""", "org/<script>x", 'me/"fine" <b>'
    (tmp_path / name).mkdir()
    report = {**REPORT, "results": {**REPORT["results"], "<i>|mine": REPORT["results"]["retain"]}}
    text = card(tmp_path / name, base=base, below=below, settings={"chat": "<u>|"}, report=report).text
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert set(re.findall(r"<(\w+)", page)) <= {
        "h1",
        "h2",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "code",
        "a",
        "ul",
        "li",
        "pre",
        "em",
        "strong",
    }
    assert all(html.escape(shown, quote=False).replace('"', "&quot;") in page for shown in (name, "<i>|mine", "<u>|", base))
    loaded = next(block for block in re.findall(r"```python\n(.+?)```", text, re.DOTALL))
    strings = [node.value for node in ast.walk(ast.parse(loaded)) if isinstance(node, ast.Constant)]
    assert {name, base, below} <= set(strings)
    command = next(line for line in text.splitlines() if line.startswith("    peft-unlearn merge"))
    assert shlex.split(command) == ["peft-unlearn", "merge", name, "--output", "merged", "--below", below]


def test_card_of_a_stopped_run_says_so(tmp_path: Path) -> None:
    said = judged("COLLAPSED", training=["The run stopped early: the loss turned NaN."])["verdict"]
    stopped = {**REPORT, "run": {"stopped": "the loss turned NaN."}, "verdict": said}
    write_card(tmp_path, base="some/base", method="mollm", settings={}, report=stopped)
    assert "The run stopped early: the loss turned NaN. This is the last good adapter." in (tmp_path / "README.md").read_text()
    write_card(tmp_path, base="some/base", method="mollm", settings={}, report=REPORT)
    assert "stopped early" not in (tmp_path / "README.md").read_text()


def test_a_card_names_the_users_own_adapter_and_says_what_before_is(tmp_path: Path) -> None:
    """Of one that was trained further too, which is loaded by itself, and gives nothing away without what it was."""
    texts = {mode: card(tmp_path, below="me/finetune", below_mode=mode).text for mode in ("stack", "continue", "merge")}
    before = {"stack": "`me/finetune` alone", "continue": "`me/finetune` as it was", "merge": "`me/finetune` merged into it"}
    for mode, text in texts.items():
        assert f"*Before* is the same base with {before[mode]}, " in text
        assert "Whoever has the base, `me/finetune` as it was, and this adapter has the model before" in text
        assert ("| holds | `me/finetune` |" in text) == (mode == "continue")
        assert ("is used in its place" in text) == (mode == "continue")
        assert ("--below me/finetune" in text) == (mode != "continue")
        assert ('from_pretrained(base, "me/finetune"' in text) == (mode != "continue")
    assert "*Before* is the same base with the adapter off, " in card(tmp_path).text
    after_others = card(tmp_path, below="me/both", reference="me/finetune").text
    assert "*Before* is the same base with `me/finetune` alone, " in after_others
    assert "| trained on top of | `me/both` |" in after_others
    assert "--below me/both" in after_others
