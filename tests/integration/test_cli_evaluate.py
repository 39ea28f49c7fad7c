"""The evaluate command: a benchmark or own sets, an adapter or any model, beside a never-seen one; refused before a model is loaded."""

import json
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from test_benchmarks import made_up, words, write
from test_openunlearning import word_tokenizer
from tiny_models import tiny_llama
from verdicts import last_line

from peft_unlearn.cli import main
from peft_unlearn.data.rows import split
from peft_unlearn.model import adapters
from peft_unlearn.workflows import EvaluateRequest, checks
from peft_unlearn.workflows.views import prepare

TEMPLATE = "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} </s>{% endfor %}{% if add_generation_prompt %}<s> w0 {% endif %}"


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """A folder with two tiny Llamas, one of another vocabulary, two LoRAs on the first, the files of TOFU, and own sets."""
    folder, rng = tmp_path_factory.mktemp("bed"), np.random.default_rng(1)
    for seed, name in enumerate(("base", "other", "strange")):
        tiny_llama(seed).save_pretrained(folder / name)
        tokenizer = word_tokenizer()
        if name == "strange":
            tokenizer.add_tokens(["w99"])
        tokenizer.save_pretrained(folder / name)
    for name in ("lora", "retrained"):
        lora = get_peft_model(tiny_llama(0), LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
        lora.peft_config["default"].base_model_name_or_path = str(folder / "base")
        lora.save_pretrained(folder / name)
    for name in ("forget10", "retain", "real_authors", "world_facts"):
        write(folder / "tofu" / f"{name}_perturbed.json", made_up(rng, 4, paraphrased=name in ("forget10", "retain")))
    for name in ("forget", "retain"):
        write(folder / f"{name}.jsonl", made_up(rng, 5, paraphrased=True))
    write(folder / "holdout.jsonl", [{"question": words(rng, 4), "answer": words(rng, 3)} for _ in range(5)])
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def evaluated(*arguments):
    """The report of a command that must work, and its page."""
    assert main(["evaluate", *map(str, arguments), "--output", "found.json"]) == 0
    return json.loads(Path("found.json").read_text()), Path("found.html").read_text()


def own(bed):
    return ["--forget", bed / "forget.jsonl", "--retain", bed / "retain.jsonl", "--holdout", bed / "holdout.jsonl"]


def test_an_adapter_on_a_benchmark_beside_a_never_seen_model(bed, here, capsys):
    found, page = evaluated(
        bed / "lora", "--benchmark", "tofu", "--data", bed / "tofu", "--rows", "3", "--never-seen", bed / "other", "--samples", "2"
    )
    assert found["schema"] == 4
    assert found["definitions"] == "peft-unlearn"
    assert found["never_seen"] == {"kind": "retrained", "name": str(bed / "other")}
    assert set(found["results"]) == {"forget", "retain", "real_authors", "world_facts"}
    for views in found["results"].values():
        assert set(views) == {"before", "after", "never_seen"}
        assert all(view["loss"]["n"] == 3 for view in views.values())
    forget, retain = (found["results"][name]["after"] for name in ("forget", "retain"))
    assert 0 <= forget["forget_quality"]["mean"] <= 1
    assert {"leak_at_1", "leak_at_2", "logit_lens", "worst_of_k"} <= set(forget)
    assert retain["retain_kl"]["mean"] > 0
    assert "after - before" in found["differences"]["forget"]["loss"]
    assert "--benchmark tofu" in found["run"]["command"]
    asked = [json.loads(line)["question"] for line in (bed / "tofu" / "forget10_perturbed.json").read_text().splitlines()]
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == last_line(found["verdict"])
    assert "The report is found.json, the page found.html" in said
    for question in asked:
        for shown in (page, said, json.dumps(found)):
            assert question not in shown
    # the same numbers for the model by itself
    alone, _ = evaluated(bed / "other", "--benchmark", "tofu", "--data", bed / "tofu", "--rows", "3")
    assert set(alone["results"]["forget"]) == {"after"}
    for name, views in alone["results"].items():
        assert views["after"]["loss"]["rows"] == pytest.approx(found["results"][name]["never_seen"]["loss"]["rows"], rel=1e-5)
    assert "never saw" in alone["results"]["forget"]["after"]["forget_quality"]["reason"]


def test_own_sets_with_a_holdout(bed, here):
    found, _ = evaluated(bed / "lora", *own(bed), "--never-seen", bed / "retrained", "--batch-size", "4")
    assert set(found["results"]) == {"forget", "retain", "holdout"}
    after = found["results"]["forget"]["after"]
    assert {"min_k_auc", "loss_auc", "priv_leak", "truth_ratio", "worst_of_k"} <= set(after)
    assert found["results"]["forget"]["never_seen"]["priv_leak"]["mean"] == pytest.approx(0)
    # an adapter as never-seen model is the base with that adapter
    again, _ = evaluated(bed / "retrained", *own(bed))
    assert again["results"]["retain"]["after"]["loss"]["rows"] == pytest.approx(
        found["results"]["retain"]["never_seen"]["loss"]["rows"], rel=1e-5
    )


def test_the_base_under_the_users_own_adapter_is_never_seen(bed, here):
    found, _ = evaluated(bed / "lora", *own(bed), "--set", f"adapter_name_or_path={bed / 'retrained'}")
    assert found["never_seen"] == {"kind": "base", "name": str(bed / "base")}
    base, _ = evaluated(bed / "base", *own(bed))
    for name in ("forget", "holdout"):
        never, alone = found["results"][name]["never_seen"], base["results"][name]["after"]
        assert never["loss"]["rows"] == pytest.approx(alone["loss"]["rows"], rel=1e-5)


def test_definitions_of_openunlearning(bed, here):
    ours, _ = evaluated(bed / "base", *own(bed))
    theirs, _ = evaluated(bed / "base", *own(bed), "--definitions", "openunlearning")
    assert theirs["definitions"] == "openunlearning"
    ours, theirs = (report["results"]["forget"]["after"] for report in (ours, theirs))
    assert theirs["loss"]["rows"] == pytest.approx(ours["loss"]["rows"])
    assert theirs["extraction_strength"]["mean"] > ours["extraction_strength"]["mean"]  # its floor is 1/L
    assert theirs["min_k"]["rows"] == pytest.approx([-value for value in ours["min_k"]["rows"]])
    assert theirs["min_k_auc"]["mean"] == pytest.approx(ours["min_k_auc"]["mean"])


def test_text_is_shown_where_it_is_asked_for(bed, here, capsys):
    asked = [json.loads(line)["question"] for line in (bed / "forget.jsonl").read_text().splitlines()]
    _, page = evaluated(bed / "base", *own(bed), "--show-text")
    said = " ".join(capsys.readouterr().out.split())
    for question in asked:
        assert question in page
    assert "question" in said
    assert all(word in said for word in asked[0].split())


def test_a_system_prompt_stands_before_every_question(bed, here, tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "chat")
    tiny_llama(0).save_pretrained(tmp_path / "chat")
    text = 'w60 "w6" \\ é 猫\n{{ w7 }}'
    prompts = {}
    sets = {name: bed / f"{name}.jsonl" for name in ("forget", "retain", "holdout")}
    for key, prompt in (("plain", None), ("prompted", text)):
        job = prepare(checks.measured(EvaluateRequest(tmp_path / "chat", **sets, system_prompt=prompt)))
        # no question has the word w60
        prompts[key] = [job.tokenizer.decode(split(row, set())[0]) for row in job.benchmark.probes["forget"].rows]
        for kind in job.benchmark.probes["forget"].variants.values():
            assert all(("w60" in job.tokenizer.decode(row["input_ids"][:4])) == bool(prompt) for group in kind for row in group)
    rendered = job.tokenizer.apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False)
    assert rendered.startswith(f"<s> system {text} </s>")
    already = [{"role": "system", "content": "w9"}, {"role": "user", "content": "w1"}]
    assert text not in job.tokenizer.apply_chat_template(already, tokenize=False)
    assert all(len(prompted) > len(plain) for plain, prompted in zip(prompts["plain"], prompts["prompted"], strict=True))


REFUSED = {
    "another vocabulary": (["lora", "OWN", "--never-seen", "strange"], "never-seen", "another vocabulary"),
    "no never-seen model": (["lora", "OWN", "--never-seen", "./nowhere"], "never-seen", "nowhere"),
    "own sets and a benchmark": (
        ["base", "--benchmark", "tofu", "--forget", "x.jsonl"],
        "forget: the sets are those of the benchmark tofu",
    ),
    "data without a benchmark": (["base", "OWN", "--data", "tofu"], "data: it belongs to a benchmark"),
    "a split without a benchmark": (["base", "OWN", "--split", "forget10"], "split: it belongs to a benchmark"),
    "a folder without the files": (["base", "--benchmark", "muse", "--data", "tofu"], "has no privleak/forget", "retain_perturbed.json"),
    "another split's files": (["base", "--benchmark", "tofu", "--data", "tofu", "--split", "forget01"], "forget01_perturbed"),
    "no files at all": (["base", "--benchmark", "wmdp", "--data", "./nowhere"], "data", "nowhere"),
    "negative rows": (["base", "--benchmark", "tofu", "--data", "tofu", "--rows", "-1"], "rows: -1 is out of range"),
    "negative samples": (["base", "OWN", "--samples", "-1"], "samples: -1 is out of range"),
    "no chat template": (["base", "OWN", "--system-prompt", "w1"], "system-prompt", "no chat template"),
    "a missing holdout file": (["base", "OWN", "--holdout", "none.jsonl"], "holdout_dataset", "none.jsonl"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_user_can_mend_is_said_before_a_model_is_loaded(bed, here, capsys, monkeypatch, case):
    def loads(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(adapters, "load_base", loads)
    arguments, *expected = REFUSED[case]
    there = {path.name for path in bed.iterdir()}
    given = []
    for argument in arguments:
        given += own(bed)[:4] if argument == "OWN" else [bed / argument if argument in there and argument != "--benchmark" else argument]
    if "--benchmark" in given:  # its name is also a folder's
        given[given.index("--benchmark") + 1] = arguments[arguments.index("--benchmark") + 1]
    assert main(["evaluate", *map(str, given)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    for words_of_it in ("peft-unlearn: error: ", *expected):
        assert words_of_it in error
