"""`ask`: what each model says to the same question, without a browser; the page itself where gradio is installed."""

import importlib.util

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn.cli import ask as command
from peft_unlearn.cli import main
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import AskRequest, ask

QUESTION = "what is the colour of two ?"


@pytest.fixture(scope="module")
def run(bed, tmp_path_factory):
    """An adapter stacked on a LoRA of the user's own, in its output folder, whose sets are gone."""
    out = tmp_path_factory.mktemp("run") / "forgotten"
    recipe = out.parent / "my.yaml"
    recipe.write_text(
        f"model_name_or_path: {bed / 'base'}\nadapter_name_or_path: {bed / 'lora'}\n"
        f"forget_dataset: {bed / 'forget.jsonl'}\nretain_dataset: {bed / 'retain.jsonl'}\n"
    )
    keys = {"max_steps": "2", "use_cpu": "true", "lora_r": "4", "learning_rate": "0.1", "output_dir": str(out)}
    assert main(["train", str(recipe), *(word for key, value in keys.items() for word in (f"--{key}", value))]) == 0
    written = (out / "recipe.yaml").read_text()
    (out / "recipe.yaml").write_text(written.replace("forget.jsonl", "gone.jsonl").replace("retain.jsonl", "gone.jsonl"))
    return out


def plain(folder, text, tokens):
    """What transformers' own greedy decoding says of the base alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt").input_ids
    made = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_every_model_is_asked_and_the_base_says_what_transformers_says(run, bed):
    asked = ask(AskRequest(run))
    assert asked.views == ("before", "after", "never_seen")
    assert asked.page == run / "report.html"
    found = asked.answers(QUESTION, True, 8)
    assert set(found) == {"before", "after", "never_seen"}
    assert found["never_seen"] == plain(bed / "base", f"Question: {QUESTION}\nAnswer:", 8)
    assert asked.answers(QUESTION, True, 8) == found  # the adapters are back where they were
    assert asked.answers("what is the", False, 8)["never_seen"] == plain(bed / "base", "what is the", 8)
    with pytest.raises(UserError, match="^question: it is empty"):
        asked.answers(" ", True, 8)


def test_another_model_may_be_the_never_seen_one_and_a_whole_model_is_asked_alone(run, bed):
    asked = ask(AskRequest(run, never_seen=bed / "other"))
    assert asked.answers(QUESTION, True, 8)["never_seen"] == plain(bed / "other", f"Question: {QUESTION}\nAnswer:", 8)
    alone = ask(AskRequest(bed / "base"))
    assert (alone.views, alone.page) == (("after",), None)


def test_without_gradio_it_is_one_sentence_before_a_model_is_loaded(run, capsys, monkeypatch, no_model):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["ask", str(run)]) == 2
    assert "gradio is not installed, run pip install 'peft-unlearn[ask]'" in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None,
    reason="the extra [ask] is not installed: gradio draws the page, and what it asks is tested above",
)
def test_the_page_has_a_box_for_each_model_and_the_report(run):
    made = command.page(ask(AskRequest(run)))
    parts = [part["props"] for part in made.get_config_file()["components"]]
    assert [part["label"].split(":")[0] for part in parts if part.get("lines") == 4] == ["before", "after", "never-seen"]
    assert any("iframe" in str(part.get("value")) for part in parts)
