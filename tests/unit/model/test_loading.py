"""What the libraries raise over a base, a tokenizer or an adapter is one sentence with its key, and nothing is drawn at random in silence."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from hostile import folders
from hostile.bed import make_bed
from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.model import adapters, loading, prequantized, saved
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import below
from peft_unlearn.workflows import loading as workflow

# Of a base or adapter of which this file is wrong, what is read here can do without it, or has it so.
RIGHT = {
    "tokenizer-missing",
    "template-",
    "base-gone",
    "base-null",
    "targets-null",
    "tokenizer-beyond-embedding",
    "tie-string",
    "config-dir",
}
SLOW = {"config-deep"}


def chosen(damages):
    return [name for name in damages if not name.startswith(tuple(RIGHT | SLOW))]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    make_bed(folder)
    return folder


@pytest.fixture
def base(bad, tmp_path):
    """A copy of the base, to be damaged."""
    shutil.copytree(bad / "base", tmp_path / "base")
    return tmp_path / "base"


def opened(folder):
    config = loading.config(folder)
    loading.checked(config, folder)
    loading.tokenizer(folder)
    return adapters.load_base(folder)


@pytest.mark.parametrize("damage", chosen(folders.BASES))
def test_a_base_of_which_one_file_is_wrong_is_refused(damage, base, monkeypatch):
    monkeypatch.chdir(base.parent)
    folders.BASES[damage](base)
    with pytest.raises(UserError, match=r"^model_name_or_path: [^\n]*\.$"):
        opened("base")
    assert not (base.parent / "exploded").exists()


@pytest.mark.parametrize("damage", chosen(folders.ADAPTERS))
def test_an_adapter_of_which_one_file_is_wrong_is_refused(damage, bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bad / "lora", "lora")
    folders.ADAPTERS[damage](tmp_path / "lora")
    with pytest.raises(UserError, match=r"^adapter_name_or_path: [^\n]*\.$"):
        saved.fit(loading.skeleton(loading.config(bad / "base"), "base"), "lora", adapters.STUDENT, key="adapter_name_or_path")
    assert not (tmp_path / "exploded").exists()


HEADERS = (
    "weights-no-tensors",
    "weights-missing-",
    "weights-other-names",
    "weights-integers",
    "weights-cut",
    "index-",
    "eps-",
    "theta-nan",
)
BY_HEADERS = [name for name in chosen(folders.BASES) if name.startswith((*HEADERS, "layers-other", "quantized-bnb-but"))]


@pytest.mark.parametrize("damage", BY_HEADERS)
def test_what_headers_tell_is_refused_before_weights_are_read(damage, base, monkeypatch):
    """By `plan` as well, which reads no weights."""
    monkeypatch.chdir(base.parent)
    folders.BASES[damage](base)
    with pytest.raises(UserError, match=r"^model_name_or_path: [^\n]*\.$"):
        loading.checked(loading.config("base"), "base")


def test_a_base_alone_is_checked_as_one_with_an_adapter_is(base, monkeypatch):
    monkeypatch.chdir(base.parent)
    model = ModelArguments(model_name_or_path="base")
    folders.BASES["tokenizer-beyond-embedding"](base)
    config, tokenizer, _ = workflow.load_tokenizer(model, 64)
    with pytest.raises(UserError, match=r"^model_name_or_path: 'base' has 64 entries and its tokenizer tokens beyond them"):
        workflow.check_whole(config, model, tokenizer)


def test_a_number_that_is_none_is_told_in_one_line_whatever_its_key(base):
    folders.config(**{"a\x85b": float("nan")})(base)
    with pytest.raises(UserError, match=r"^model_name_or_path: a\\x85b in the config.json of .* is nan") as caught:
        loading.config(base)
    assert len(str(caught.value).splitlines()) == 1


def test_a_tokenizer_whose_unknown_token_is_none_is_refused(base):
    """transformers asks for the unknown token's number with the unknown token's number, without end."""
    folders.with_values("tokenizer_config.json", {"unk_token": ""})(base)
    with pytest.raises(UserError, match=r"^model_name_or_path: .* has no tokenizer that loads \(maximum recursion"):
        loading.tokenizer(base)


def test_an_adapter_in_place_of_a_base_is_called_one(bad):
    with pytest.raises(
        UserError, match=r"^model_name_or_path: .*lora' is an adapter, write its base there and it as adapter_name_or_path\.$"
    ):
        loading.config(bad / "lora")


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash-attn", "5", "flex_attention"])
def test_an_attention_that_is_not_to_be_had_is_told_by_its_key(attention, base, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # where flex_attention cannot be trained through
    with pytest.raises(UserError, match=rf"^attn_implementation: '{attention}' is not to be had for .*; .*write sdpa or eager"):
        loading.skeleton(loading.config(base), base, attention=attention)


@pytest.mark.parametrize(
    ("method", "more", "install"),
    [
        ("awq", {"bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}, "gptqmodel"),
        ("gptq", {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}, "optimum"),
        ("compressed-tensors", {"format": "pack-quantized", "config_groups": {}}, "compressed-tensors"),
    ],
)
def test_what_another_quantizer_needs_is_told_before_weights_are_read(method, more, install, base):
    folders.config(quantization_config={"quant_method": method, **more})(base)
    (base / "model.safetensors").unlink()
    with pytest.raises(UserError, match=rf"^model_name_or_path: .*{method}.*{install}.*install that, or give the base in 16 bits\.$"):
        prequantized.check(loading.config(base), base)


@pytest.mark.parametrize("own", [{"quant_method": "fp8"}, {"quant_method": "bitsandbytes", "load_in_8bit": True}])
def test_bits_on_top_of_another_quantizer_or_of_other_bits_are_refused_by_their_key(own, base):
    folders.config(quantization_config=own)(base)
    model = ModelArguments(model_name_or_path=str(base), load_in_4bit=True, dtype="float32")
    with pytest.raises(UserError, match=rf"^load_in_4bit: .* is quantized otherwise by {own['quant_method']} already"):
        workflow._without_weights(loading.config(base), model)


def test_an_adapter_is_not_merged_into_a_base_that_is_quantized_itself(bad, base):
    folders.config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})(base)
    model = ModelArguments(model_name_or_path=str(base), adapter_name_or_path=str(bad / "lora"), adapter_mode="merge")
    with pytest.raises(UserError, match=r"^adapter_mode: 'merge' into .*, which is quantized itself, would lose most of the adapter"):
        below.check(loading.config(base), model)


@pytest.mark.parametrize(
    ("key", "name"), [("lora_modules_to_save", "nope"), ("lora_target_parameters", "x"), ("lora_target_modules", "nope")]
)
def test_names_that_the_model_has_not_are_refused(key, name, base):
    model = ModelArguments(model_name_or_path=str(base), **{key: [name]})
    with pytest.raises(UserError, match=rf"^{key}: the model has no \w+ named {name}; write .*q_proj"):
        workflow._without_weights(loading.config(base), model)


def test_a_whole_base_is_loaded_as_it_stands(base):
    state = load_file(base / "model.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in opened(base).state_dict().items())


def test_tied_weights_are_not_missed(bad, tmp_path):
    """One of the two is in the file."""
    tensors = load_file(bad / "base" / "model.safetensors")
    shutil.copytree(bad / "base", tmp_path / "tied")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "tied" / "model.safetensors", metadata={"format": "pt"})
    folders.config(tie_word_embeddings=True)(tmp_path / "tied")
    model = opened(tmp_path / "tied")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_message_names_the_key_that_the_model_is_given_by(base):
    folders.BASES["weights-nan"](base)
    with pytest.raises(UserError, match=r"^never_seen_model_name_or_path: tensor .* not finite"):
        workflow.load_never_seen(ModelArguments(dtype="float32"), base, key="never_seen_model_name_or_path")


def test_a_mistake_of_our_own_keeps_its_traceback(base, monkeypatch):
    monkeypatch.setattr(loading, "_numbers", lambda model: [("q", "no tensor")])
    with pytest.raises(TypeError):
        loading.base(base)


def test_settings_stay_as_they_were_given(monkeypatch):
    config = SimpleNamespace(base_model_name_or_path="org/base", revision="abc")
    monkeypatch.setattr(saved, "config_of", lambda adapter, key: config)
    given = ModelArguments(model_name_or_path="org/base")
    settled = workflow.settle_base(given, "adapter", key="model")
    assert (given.model_revision, settled.model_revision) == ("main", "abc")


@pytest.mark.parametrize(
    ("error", "mend"), [(torch.OutOfMemoryError("CUDA"), "memory is too small"), (ValueError("no such form"), "write stack")]
)
def test_a_merge_that_fails_says_why(error, mend, bad, monkeypatch):
    def fail(model):
        raise error

    model = saved.put(adapters.load_base(bad / "base"), str(bad / "lora"), adapters.STUDENT)
    monkeypatch.setattr(type(model.base_model), "merge_and_unload", fail)
    monkeypatch.setattr(PeftModel, "merge_and_unload", fail, raising=False)
    with pytest.raises(UserError, match=rf"^adapter_mode: 'merge' is not possible .*{mend}"):
        adapters.merged(model)


def test_a_never_seen_adapter_is_known_by_its_config_wherever_it_lies(bad, monkeypatch):
    """A name on the Hub is one for train as for evaluate."""
    monkeypatch.setattr(workflow, "has_file", lambda name, file: str(name) == "org/adapter")
    monkeypatch.setattr(saved, "config_of", lambda adapter, key: SimpleNamespace(base_model_name_or_path="org/base", revision="abc"))
    assert workflow.base_of("org/adapter", ModelArguments("org/mine"), key="never-seen") == ("org/base", "abc")
    assert workflow.base_of("org/whole", ModelArguments("org/mine"), key="never-seen") == ("org/whole", "main")


@pytest.mark.parametrize("said", [{"use_dora": True}, {}])
def test_what_merge_will_refuse_is_told_before_training(said, base, caplog):
    model = ModelArguments(model_name_or_path=str(base), lora_r=4, **said)
    config, tokenizer, _ = workflow.load_tokenizer(model, 64)
    caplog.clear()
    workflow.check_fit(config, model, tokenizer)
    assert [message for message in caplog.messages if "cannot merge" in message and "use_dora" in message] == caplog.messages
    assert bool(caplog.messages) == bool(said)


def test_an_index_stays_in_its_folder(base):
    folders.indexed_elsewhere(base)
    with pytest.raises(UserError, match=r"names '\.\./elsewhere\.safetensors', which lies outside of its folder"):
        opened(base)
    index = base / "model.safetensors.index.json"
    assert json.loads(index.read_text())["weight_map"]
