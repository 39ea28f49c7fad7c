"""A base in several GGUF files, as large models lie on the Hub: it is the model of the one file that they were split from."""

import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import gguf_files
import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from cli_bed import refused
from gguf import GGUFReader
from safetensors.torch import load_file

from peft_unlearn.cli import main
from peft_unlearn.model import adapters, llama_cpp, loading
from peft_unlearn.publish.card_parts import joining, source
from peft_unlearn.util import gguf
from peft_unlearn.util import llama_cpp as tools
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import PlanRequest, plan

FIRST = "tiny-00001-of-00003.gguf"
TENSORS = 21  # of the tiny model


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """A transformers folder, and of it in Q8_0 a GGUF file and the same in three parts, each in a folder of its own."""
    folder = gguf_files.make_folder(tmp_path_factory.mktemp("gguf"))
    for name, per_part in (("whole", 0), ("parts", 8)):
        (folder / name).mkdir()
        gguf_files.write(folder, folder / name / "tiny.gguf", "Q8_0", per_part=per_part)
    return folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder that temporary files lie in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def parts(bed, tmp_path):
    """A folder with parts to be damaged."""
    return shutil.copytree(bed / "parts", tmp_path / "parts")


def recipe(bed, tmp_path, base, output, **changes):
    sets = {f"{name}_dataset": str(bed / f"{name}.jsonl") for name in ("forget", "retain")}
    values = {**sets, "output_dir": output, "max_steps": 3, "per_device_train_batch_size": 2, "lora_r": 4, "learning_rate": 1e-2, **changes}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({**values, "model_name_or_path": str(base), "use_cpu": True}))
    return "my.yaml"


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("how", [{"per_part": 8}, {"per_part": 1}, {"per_part": 8, "small_first_shard": True}], ids=str)
def test_every_tensor_and_the_config_are_those_of_the_whole_file(kind, how, bed, tmp_path, temporary):
    whole = gguf_files.write(bed, tmp_path / "whole.gguf", kind)
    gguf_files.write(bed, tmp_path / "split.gguf", kind, **how)
    first, *others = sorted(tmp_path.glob("split-*.gguf"))
    assert sum(len(GGUFReader(part).tensors) for part in (first, *others)) == TENSORS
    assert len(others) == {8: 2, 1: 20}[how["per_part"]] + ("small_first_shard" in how)
    expected, found = adapters.load_base(whole), adapters.load_base(first)
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    one, several = ({**loading.config(base).to_dict(), "_name_or_path": None} for base in (whole, first))
    assert one == several
    assert loading.tokenizer(first).get_vocab() == loading.tokenizer(whole).get_vocab()
    assert found.name_or_path == str(first)
    assert not list(temporary.iterdir())


def test_what_forgets_on_parts_forgets_on_the_whole_file_bit_for_bit(bed, tmp_path, monkeypatch, temporary):
    monkeypatch.chdir(tmp_path)
    bases = {"one": bed / "whole" / "tiny.gguf", "several": bed / "parts" / FIRST}
    for output, base in bases.items():
        made = recipe(bed, tmp_path, base.parent, output, gguf_file=base.name)
        assert main(["train", made]) == 0
        assert main(["merge", output, "--output", f"{output}-merged"]) == 0
        assert main(["evaluate", str(base), "--forget", str(bed / "forget.jsonl"), "--output", f"{output}.json"]) == 0
    for folder, file in (("", "adapter_model"), ("-merged", "model")):
        one, several = (load_file(f"{output}{folder}/{file}.safetensors") for output in bases)
        assert one.keys() == several.keys()
        assert all(torch.equal(one[name], several[name]) for name in one)
    for file in ("one/report.json", "one.json"):
        one, several = (json.loads(Path(name).read_text())["results"] for name in (file, file.replace("one", "several")))
        assert one == several
    assert json.loads(Path("several/adapter_config.json").read_text())["base_model_name_or_path"] == str(bases["several"])
    assert not list(temporary.iterdir())


def test_a_plan_counts_parts_as_the_whole_file_and_joins_no_weights(bed, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: pytest.fail("room was looked for"))
    peaks = []
    for base in (bed / "whole" / "tiny.gguf", bed / "parts" / FIRST):
        values = yaml.safe_load((tmp_path / recipe(bed, tmp_path, base, "out")).read_text())
        peaks.append(plan(PlanRequest({**values, "use_cpu": False})).memory.peak)
    assert peaks[0] == peaks[1] > 0


def test_card_and_modelfile_say_how_parts_are_joined_and_load_the_joined_file(bed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", recipe(bed, tmp_path, bed / "parts" / FIRST, "out")]) == 0
    code = re.search(r"```python\n(.+?)```", Path("out/README.md").read_text(), re.DOTALL)[1]
    assert f"# first, where the parts are: llama-gguf-split --merge {FIRST} tiny.gguf\n" in code
    loaded: dict[str, object] = {}
    shutil.copy(bed / "whole" / "tiny.gguf", "tiny.gguf")
    exec(code, loaded)
    base = adapters.load_base(bed / "parts" / FIRST)
    assert torch.equal(loaded["base"].get_input_embeddings().weight, base.get_input_embeddings().weight)

    def convert(folder, script, adapter, *options):
        assert script == tools.LORA
        Path(options[options.index("--outfile") + 1]).touch()

    asked = []
    Path(tools.MODEL).touch()
    for name, stand_in in (("convert", convert), ("IMPORTED", ()), ("has_binding", lambda: True)):
        monkeypatch.setattr(tools, name, stand_in)
    monkeypatch.setattr(llama_cpp, "read", lambda path, *_, lora, **__: asked.append((path, lora.name)) or pytest.fail("enough"))
    with pytest.raises(pytest.fail.Exception, match="enough"):
        main(["export", "out", "--output", "shipped", "--gguf", "lora", "--llama-cpp", "."])
    assert asked == [(bed / "parts" / FIRST, "out-lora.gguf")], "llama.cpp finds the other parts itself"
    assert main(["export", "out", "--output", "shipped", "--gguf", "lora", "--llama-cpp", ".", "--no-evaluate"]) == 0
    assert Path("shipped/Modelfile").read_text() == (
        f"# The base lies beside this file, joined by llama-gguf-split --merge {FIRST} tiny.gguf.\nFROM ./tiny.gguf\nADAPTER ./out-lora.gguf\n"
    )


def test_a_card_says_nothing_of_parts_where_there_is_one_file():
    assert source("me/my-GGUF/my-00001-of-00002.gguf") == '".", gguf_file="my.gguf"'
    assert joining("me/my-GGUF/q8/my-00001-of-00002.gguf").endswith("--merge q8/my-00001-of-00002.gguf q8/my.gguf\n")
    assert [joining(name) for name in ("me/my-GGUF/my-q8_0.gguf", "me/my", "my.gguf")] == ["", "", ""]


def test_factors_of_positions_are_found_in_any_part(parts):
    third = parts / "tiny-00003-of-00003.gguf"
    gguf_files.write_part(third, 2, 3, 17, ["rope_freqs.weight"])
    assert gguf.rope_factors(parts / FIRST) == np.ones((8, 64)).tolist()


def test_parts_on_the_hub_are_all_fetched_and_the_one_that_is_not_cached_is_named(bed, tmp_path, monkeypatch):
    cached = tmp_path / "models--me--tiny-GGUF"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    snapshot = shutil.copytree(bed / "parts", cached / "snapshots" / ("a" * 40) / "q8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found, expected = (adapters.load_base(name).state_dict() for name in (f"me/tiny-GGUF/q8/{FIRST}", bed / "whole" / "tiny.gguf"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    (snapshot / "tiny-00002-of-00003.gguf").unlink()
    with pytest.raises(
        UserError, match=r"^model_name_or_path: 'me/tiny-GGUF/q8/tiny-00002-of-00003.gguf' is no file here and did not come from the Hub"
    ):
        loading.config(f"me/tiny-GGUF/q8/{FIRST}")


def test_too_little_room_is_told_before_anything_is_joined(bed, monkeypatch, temporary):
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "free")(1000))
    with pytest.raises(UserError, match=r"^TMPDIR: .* has 0.00 MB free and 0\.\d+ MB are needed; give a folder on another disk.$"):
        adapters.load_base(bed / "parts" / FIRST)
    assert not list(temporary.iterdir())


def damaged(folder, how):
    """What is named of parts that make no model, by its name in `BAD`."""
    first, second, third = sorted(folder.glob("*.gguf"))
    held = [tensor.name for tensor in GGUFReader(third).tensors]
    if how == "a part is missing":
        second.unlink()
    if how == "the first is missing":
        first.unlink()
    if how in ("a later part", "the first is missing"):
        return third
    if how == "a later part named as the first":
        return third.rename(folder / "other-00001-of-00003.gguf")
    if how == "another name":
        return first.rename(folder / "tiny.gguf")
    if how == "an empty part":
        third.write_bytes(b"")
    if how == "a part that is cut":
        third.write_bytes(third.read_bytes()[:-5000])
    if how == "of another count":
        gguf_files.write_part(third, 2, 4, TENSORS, held)
    if how == "another part":
        shutil.copy(second, third)
    if how == "of another architecture":
        gguf_files.write_part(third, 2, 3, TENSORS, held, architecture="qwen3")
    if how == "a tensor twice":
        gguf_files.write_part(third, 2, 3, TENSORS, [*held[1:], "blk.0.attn_q.weight"])
    if how == "a tensor less":
        gguf_files.write_part(third, 2, 3, TENSORS, held[1:])
    return first


BAD = {
    "a part is missing": f"/{FIRST}' is one of 3 parts, of which tiny-00002-of-00003.gguf is not there; fetch it.",
    "the first is missing": f"/tiny-00003-of-00003.gguf' is part 3 of 3; fetch the first, {FIRST}.",
    "a later part": f"/tiny-00003-of-00003.gguf' is part 3 of 3; write the first, {FIRST}.",
    "a later part named as the first": "/other-00001-of-00003.gguf' is part 3 of 3 by what stands in it and is not named so; name the parts",
    "another name": "/tiny.gguf' is part 1 of 3 by what stands in it and is not named so; name the parts as llama.cpp does, the first of them NAME-",
    "an empty part": "/tiny-00003-of-00003.gguf' is empty; fetch it again.",
    "a part that is cut": "/tiny-00003-of-00003.gguf' is no GGUF file, or one that is cut or damaged",
    "of another count": f"/tiny-00003-of-00003.gguf' is not part 3 of the model in {FIRST}; fetch all parts of one model.",
    "another part": f"/tiny-00003-of-00003.gguf' is not part 3 of the model in {FIRST}; fetch all parts of one model.",
    "of another architecture": f"/tiny-00003-of-00003.gguf' is not part 3 of the model in {FIRST}; fetch all parts of one model.",
    "a tensor twice": f"/tiny-00003-of-00003.gguf' holds blk.0.attn_q.weight, as {FIRST} does; fetch all parts of one model.",
    "a tensor less": f"/{FIRST}' hold {TENSORS - 1} tensors for {TENSORS}; fetch all parts of one model.",
}


@pytest.mark.parametrize("how", BAD)
def test_parts_that_make_no_model_are_refused_before_a_model_is_loaded(how, bed, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adapters, "load_base", lambda *_, **__: pytest.fail("it was loaded"))
    made = recipe(bed, tmp_path, damaged(parts, how), "out")
    for command in ("train", "plan"):
        refused(capsys, [command, made], "model_name_or_path: ", BAD[how])
    assert not Path("out").exists()
