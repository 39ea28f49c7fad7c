"""`export --gguf`: an adapter as files that llama.cpp runs, and what they still say.

llama.cpp's converters are run where LLAMA_CPP names its source; else the tests' own writer stands in.
"""

import importlib.util
import json
import math
import os
import re
import shlex
import shutil
from pathlib import Path

import gguf_files
import numpy as np
import pytest
import torch
import yaml
from cli_bed import refused
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn.cli import main
from peft_unlearn.model import adapters, generation, llama_cpp, loading, scoring
from peft_unlearn.util import llama_cpp as tools

binding = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="the extra [llama-cpp] is not installed, which asks the exported files; it is compiled for some minutes",
)
source = pytest.mark.skipif(
    not os.environ.get(tools.VARIABLE),
    reason="LLAMA_CPP names no folder with llama.cpp's source, whose converters write the files; docs/howto/gguf.md says where it is to be had",
)


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """The folder of a base, its GGUF file in 32 bits, rows, and an adapter that a run of two steps made."""
    folder = gguf_files.make_folder(tmp_path_factory.mktemp("export"))
    (folder / "gguf").mkdir()
    gguf_files.write(folder, folder / "gguf" / "base.gguf")
    recipe = {f"{name}_dataset": str(folder / f"{name}.jsonl") for name in ("forget", "retain")}
    recipe |= {"model_name_or_path": str(folder), "output_dir": str(folder / "mine"), "max_steps": 2, "lora_r": 4, "learning_rate": 1e-2}
    (folder / "my.yaml").write_text(yaml.safe_dump({**recipe, "use_cpu": True}))
    assert main(["train", str(folder / "my.yaml")]) == 0
    return folder


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder that passes for llama.cpp's, and a converter of models that is the tests' own writer, in this process."""

    def convert(folder, script, whole, *options):
        said = dict(zip(options[::2], options[1::2], strict=True))
        gguf_files.write(whole, said["--outfile"], {"auto": "F16"}.get(said["--outtype"], said["--outtype"].upper()))

    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / tools.MODEL).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tools, "convert", convert)
    monkeypatch.setattr(tools, "IMPORTED", ("gguf",))  # which the tests' own writer imports
    return str(folder)


def rows(folder, tokenizer):
    found = []
    for line in map(json.loads, (folder / "forget.jsonl").read_text().splitlines()):
        prompt, answer = tokenizer(f"Question: {line['question']}\nAnswer:")["input_ids"], tokenizer(line["answer"])["input_ids"][1:]
        found.append({"input_ids": [*prompt, *answer, 2], "labels": [-100] * len(prompt) + [*answer, 2]})
    return found


@binding
@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_llama_cpp_scores_and_answers_as_transformers_on_the_same_weights(bed, kind, tmp_path):
    path = gguf_files.write(bed, tmp_path / "base.gguf", kind)
    model, tokenizer = adapters.load_base(path), loading.tokenizer(path)
    asked = rows(bed, tokenizer)
    read = llama_cpp.read(path, tokenizer, asked)
    assert read.answers == generation.generate(model, tokenizer, asked)
    assert read.alike == len(asked)
    for found, own in zip(read.scores, scoring.score(model, asked, tokenizer), strict=True):
        for name in ("logps", "means", "deviations"):
            np.testing.assert_allclose(getattr(found, name), getattr(own, name), atol=0.02, rtol=0)
        assert (found.end, found.correct.tolist()) == (own.end, own.correct.tolist())


@binding
def test_an_adapter_becomes_files_that_were_asked_what_it_was_asked(bed, stand_in, tmp_path, capsys):
    assert main(["export", str(bed / "mine"), "--output", "out", "--gguf", "f32", "q4_k_m", "--before", "--llama-cpp", stand_in]) == 0
    shown = capsys.readouterr().out
    assert {path.name for path in Path("out").iterdir()} == {"Modelfile", "gguf.json", "mine-f32.gguf", "mine-q4_k_m.gguf"}
    assert Path("out/Modelfile").read_text() == "FROM ./mine-f32.gguf\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama.cpp", "out"], "nothing is left of the steps between"
    trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bed), bed / "mine")
    ids = torch.tensor([[1, 270, 300, 310]])
    with torch.no_grad():
        torch.testing.assert_close(adapters.load_base("out/mine-f32.gguf")(ids).logits, trained(ids).logits, atol=1e-4, rtol=1e-4)
    facts = json.loads(Path("out/gguf.json").read_text())
    own = json.loads((bed / "mine" / "report.json").read_text())["results"]
    for name in ("forget", "retain"):
        assert list(facts["results"][name]) == ["before", "adapter", "before F32", "F32", "Q4_K_M"]
        for view, column in (("before", "before F32"), ("after", "F32")):
            for metric in ("loss", "rouge_l", "verbatim", "extraction_strength"):
                assert facts["results"][name][column][metric]["mean"] == pytest.approx(own[name][view][metric]["mean"], abs=0.02)
        assert math.isfinite(facts["results"][name]["Q4_K_M"]["loss"]["mean"])
    assert facts["files"]["q4_k_m"]["bytes"] == Path("out/mine-q4_k_m.gguf").stat().st_size < facts["files"]["f32"]["bytes"] / 2
    assert "Q4_K_M: 0 of 2 forget rows come back word for word; llama.cpp reads 3 of 3 rows alike." in " ".join(shown.split())
    assert "Ann" not in Path("out/gguf.json").read_text(), "no text of a row"


def test_without_the_binding_the_files_are_there_and_not_asked(bed, stand_in, monkeypatch, capsys):
    monkeypatch.setattr(tools, "has_binding", lambda: False)
    assert main(["export", str(bed / "mine"), "--output", "out", "--gguf", "f16", "--llama-cpp", stand_in]) == 0
    assert "Not evaluated: llama-cpp-python is not installed, run pip install 'peft-unlearn[llama-cpp]'." in capsys.readouterr().out
    assert "results" not in json.loads(Path("out/gguf.json").read_text())


def test_what_llama_cpp_refuses_is_told_and_leaves_nothing(bed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tools, "IMPORTED", ())
    (tmp_path / tools.MODEL).write_text("raise NotImplementedError('BPE pre-tokenizer was not recognized')")
    words = "gguf: llama.cpp's converter failed (NotImplementedError: BPE pre-tokenizer was not recognized); see whether"
    refused(capsys, ["export", str(bed / "mine"), "--output", "out", "--gguf", "f16", "--llama-cpp", "."], words)
    assert [path.name for path in tmp_path.iterdir()] == [tools.MODEL]


def test_what_is_missing_is_named_before_anything_is_done(bed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(tools.VARIABLE, raising=False)
    command = ["export", str(bed / "mine"), "--output", "out", "--gguf", "q4_k_m"]
    refused(capsys, command, "llama-cpp: ", "git clone --depth 1 https://github.com/ggml-org/llama.cpp and write --llama-cpp llama.cpp")
    refused(capsys, [*command, "--llama-cpp", str(tmp_path)], f"llama-cpp: there is no {tools.MODEL} in ")
    (tmp_path / tools.MODEL).touch()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "sentencepiece" else real(name))
    monkeypatch.setenv(tools.VARIABLE, str(tmp_path))
    refused(capsys, command, "gguf: sentencepiece is not installed", "pip install 'peft-unlearn[llama-cpp]'")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "llama_cpp" else real("json"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    refused(capsys, command, "gguf: nothing here quantizes to q4_k_m; run pip install", "or write q8_0")


def test_an_adapter_that_has_no_place_in_gguf_is_refused(bed, stand_in, tmp_path, capsys):
    config = LoraConfig(r=4, target_modules=["q_proj"], use_rslora=True, base_model_name_or_path=str(bed))
    get_peft_model(AutoModelForCausalLM.from_pretrained(bed), config).save_pretrained(tmp_path / "rs")
    command = ["export", "rs", "--output", "out", "--gguf", "lora", "--llama-cpp", stand_in]
    refused(capsys, command, "gguf: an adapter with use_rslora has no place in GGUF; write a type that it is merged for")


@source
@binding
@pytest.mark.parametrize("page", ["gguf.md", "serve.md"])
def test_the_commands_of_the_pages_run(page, bed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bed / "mine", "runs/forgotten")
    text = (Path(__file__).parents[2] / "docs/howto" / page).read_text(encoding="utf-8")
    (command,) = re.findall(r"^    peft-unlearn (export .+)$", text, re.MULTILINE)
    assert main(shlex.split(command)) == 0
    assert {path.name for path in Path("shipped").iterdir()} == {"Modelfile", "gguf.json", "forgotten-q4_k_m.gguf"}
    assert set(re.findall(r"shipped/([\w.-]+)", text)) <= {path.name for path in Path("shipped").iterdir()}


@source
@binding
def test_the_real_converters_make_what_transformers_computes(bed, tmp_path, monkeypatch, capsys):
    """A merged file, token for token, and an adapter on the GGUF file that it was trained on."""
    monkeypatch.chdir(tmp_path)
    changes = {"--model_name_or_path": str(bed / "gguf" / "base.gguf"), "--output_dir": "mine"}
    assert main(["train", str(bed / "my.yaml"), *[word for pair in changes.items() for word in pair]]) == 0
    assert main(["export", "mine", "--output", "out", "--gguf", "f32", "lora"]) == 0
    trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bed), "mine").merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(bed)
    asked = rows(bed, tokenizer)
    expected = generation.generate(trained, tokenizer, asked)
    assert llama_cpp.read(Path("out/mine-f32.gguf"), tokenizer, asked).answers == expected
    lora = llama_cpp.read(bed / "gguf" / "base.gguf", tokenizer, asked, lora=Path("out/mine-lora.gguf"))
    assert lora.answers == expected
    facts = json.loads(Path("out/gguf.json").read_text())["results"]["forget"]
    assert facts["LORA"]["loss"]["mean"] == pytest.approx(facts["adapter"]["loss"]["mean"], abs=0.02)
