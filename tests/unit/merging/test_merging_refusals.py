"""What `merge` refuses: one sentence, and nothing under the final name."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from merge_folders import folders, llama, mixtral, refused, save_adapter, save_base
from safetensors.torch import load_file, save_file
from transformers import ZambaConfig

from peft_unlearn.merging.merging import merge
from peft_unlearn.merging.shards import checkpoint, written_whole
from peft_unlearn.util.errors import UserError


def test_quantized_base_is_refused(tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    message = refused(adapter, tmp_path / "merged")
    assert all(word in message for word in ("--base ORIGINAL", "--onto dequantized", "--force"))


def test_truncated_shard_is_named(tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    shard = sorted(base.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert shard.name in refused(adapter, tmp_path / "merged")


def test_shard_missing_from_the_folder_is_named(tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    shard = sorted(base.glob("*.safetensors"))[2]
    shard.unlink()
    assert shard.name in refused(adapter, tmp_path / "merged")


def test_tensor_missing_from_its_shard_is_named(tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    shard = sorted(base.glob("*.safetensors"))[2]
    tensors = load_file(shard)
    name = sorted(tensors)[0]
    save_file({"other": tensors.pop(name), **tensors}, shard)
    assert name in refused(adapter, tmp_path / "merged")


def test_adapter_of_other_shapes_is_refused(tmp_path: Path) -> None:
    _, adapter = folders(tmp_path)
    config = llama()
    config.intermediate_size = 192
    other = save_base(config, tmp_path / "other")
    message = refused(adapter, tmp_path / "merged", base=other)
    assert re.search(r"mlp\.(up|gate)_proj\.lora_B\.weight has shape \[128, 8\] and the base needs \[192, 8\]", message)


def test_adapter_with_more_layers_than_the_base_is_refused(tmp_path: Path) -> None:
    base, _ = folders(tmp_path)
    config = llama()
    config.num_hidden_layers = 3
    adapter = save_adapter(save_base(config, tmp_path / "other"), tmp_path / "deep")
    assert "layers.2" in refused(adapter, tmp_path / "merged", base=base)


def test_adapter_file_without_one_tensor_is_refused(tmp_path: Path) -> None:
    _, adapter = folders(tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = sorted(tensors)[5]
    del tensors[name]
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert name in refused(adapter, tmp_path / "merged")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_base_with_numbers_that_are_none_is_refused(number: float, tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    shard = sorted(base.glob("*.safetensors"))[-1]
    tensors = load_file(shard)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = number
    save_file(tensors, shard)
    message = refused(adapter, tmp_path / "merged")
    assert message.startswith(f"base: tensor {name} of ")
    assert "not finite" in message


@pytest.mark.parametrize(
    "settings", [{"revision": 5}, {"base_model_name_or_path": ["base"]}, {"lora_alpha": 0}, {"modules_to_save": ["nope"]}]
)
def test_merge_refuses_the_adapters_that_other_commands_refuse(settings: dict, tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | settings))
    assert refused(adapter, tmp_path / "merged", base=base).startswith("adapter: ")


def test_a_tokenizer_that_does_not_load_is_refused(tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    (base / "tokenizer.json").mkdir()
    assert refused(adapter, tmp_path / "merged").startswith(f"base: '{base}' has no tokenizer that loads")


def test_adapter_that_diverged_is_refused(tmp_path: Path) -> None:
    _, adapter = folders(tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors[sorted(tensors)[0]][0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert "not finite" in refused(adapter, tmp_path / "merged")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"use_dora": True}, "Dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ],
)
def test_adapters_that_are_more_than_a_product_are_refused(settings: dict, word: str, tmp_path: Path) -> None:
    _, adapter = folders(tmp_path, **settings)
    assert word in refused(adapter, tmp_path / "merged")


def test_experts_of_another_number_are_refused(tmp_path: Path) -> None:
    adapter = save_adapter(save_base(mixtral(), tmp_path / "base"), tmp_path / "adapter", targets="all-linear")
    config = mixtral()
    config.num_local_experts = 3
    save_base(config, tmp_path / "other")
    assert "experts" in refused(adapter, tmp_path / "merged", base=tmp_path / "other")


def test_a_weight_that_several_layers_are_is_refused(tmp_path: Path) -> None:
    config = ZambaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=8,
        intermediate_size=48,
        num_attention_heads=2,
        num_key_value_heads=2,
        attn_layer_period=3,
        attn_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
        n_mamba_heads=2,
    )
    base = save_base(config, tmp_path / "base")
    shared = save_adapter(base, tmp_path / "adapter", targets=["q_proj"])
    assert "are one weight in a ZambaForCausalLM" in refused(shared, tmp_path / "merged")


def test_pickled_base_is_refused(tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    for path in [*base.glob("*.safetensors"), base / "model.safetensors.index.json"]:
        path.unlink()
    (base / "pytorch_model.bin").write_bytes(b"")
    assert "safetensors" in refused(adapter, tmp_path / "merged")


def test_base_that_is_nowhere_is_named(tmp_path: Path) -> None:
    _, adapter = folders(tmp_path)
    assert "nobody/nothing" in refused(adapter, tmp_path / "merged", base="nobody/nothing")


def test_folder_without_adapter_and_unknown_dtype_are_refused(tmp_path: Path) -> None:
    base, adapter = folders(tmp_path)
    assert "adapter_config.json" in refused(base, tmp_path / "merged")
    assert "bf16, fp16, fp32" in refused(adapter, tmp_path / "merged", dtype="nf4")


def test_full_output_folder_is_left_alone(tmp_path: Path) -> None:
    _, adapter = folders(tmp_path)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("mine")
    assert "not an empty folder" in refused(adapter, tmp_path / "merged")
    assert (tmp_path / "merged" / "mine.txt").read_text() == "mine"


def test_full_disk_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = folders(tmp_path)
    size = sum(p.stat().st_size for p in base.glob("*.safetensors"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size // 2))
    message = refused(adapter, tmp_path / "merged")
    assert f"{size / 2e6:.2f} MB free" in message
    assert " 0.00 " not in message


def test_interrupted_merge_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, adapter = folders(tmp_path)
    written = []

    def interrupted(tensors, path, metadata):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("peft_unlearn.merging.merging.save_file", interrupted)
    there = set(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        merge(adapter, tmp_path / "merged")
    assert written
    assert set(tmp_path.iterdir()) == there
    monkeypatch.undo()
    assert merge(adapter, tmp_path / "merged").folder.is_dir()


def test_of_two_merges_into_one_folder_the_second_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = folders(tmp_path)
    messages: list[str] = []

    def meanwhile(tensors, path, metadata):
        if not messages:
            messages.append("")
            messages.append(refused(adapter, tmp_path / "merged"))
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("peft_unlearn.merging.merging.save_file", meanwhile)
    folder = merge(adapter, tmp_path / "merged").folder
    assert "output: another run is writing into" in messages[1]
    assert checkpoint(folder).keys() == checkpoint(base).keys()
    assert set(tmp_path.iterdir()) == {base, adapter, folder}


@pytest.mark.parametrize("a_file", [True, False])
def test_name_that_was_taken_while_it_merged_stays_theirs(a_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = folders(tmp_path)
    output = tmp_path / "merged"
    theirs = output if a_file else output / "mine.txt"

    def meanwhile(tensors, path, metadata):
        theirs.parent.mkdir(exist_ok=True)
        theirs.write_text("mine")
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("peft_unlearn.merging.merging.save_file", meanwhile)
    with pytest.raises(UserError, match=f"output: {output} was free"):
        merge(adapter, output)
    assert theirs.read_text() == "mine"
    assert set(tmp_path.iterdir()) == {base, adapter, output}


def test_what_a_killed_merge_left_is_cleared_away_by_the_next_one(tmp_path: Path) -> None:
    output = tmp_path / "merged"
    if (child := os.fork()) == 0:
        try:
            with written_whole(output, 0) as partial:
                (partial / "half").write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".merged.partial"]
    assert list(tmp_path.rglob("half"))
    with written_whole(output, 0) as partial:
        assert not list(tmp_path.rglob("half"))
        (partial / "whole").write_text("")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["merged", "merged/whole"]
