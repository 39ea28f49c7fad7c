"""Every form of adapter that PEFT writes: each view is what plain PEFT says, after attaching, saving, loading and merging; or it is refused."""

import copy
import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from adapted import stir
from adapter_forms import ATTENTION, FORMS, MODES, NO_MERGE_BELOW, REFUSED, UNMERGED, table
from families import tiny
from merge_folders import relative_error
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from thinned import thinned
from tiny_models import tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM

from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.merging import merge
from peft_unlearn.model import adapters, saved
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import loading

IDS = torch.arange(3, 27).view(2, 12)


class NoTokens:
    def get_vocab(self):
        return {}


def base_of(form):
    return tiny("Mixtral") if form == "experts" else tiny_llama(vocab=64, tie="tied" in form)


def mine(folder, form, settings):
    """A base, and a fine-tune of it by plain PEFT, saved."""
    base_of(form).save_pretrained(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    if "added" in form:
        model.resize_token_embeddings(66, mean_resizing=False)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "task_type": "CAUSAL_LM"} | copy.deepcopy(settings)
    model = get_peft_model(model, LoraConfig(**settings))
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "mine")
    return str(folder / "base"), str(folder / "mine")


def say(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits[..., :64]


def plain(base, below=None, form=""):
    """The base, with the fine-tune if it is named, by plain PEFT."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if below is None:
        return model
    if "added" in form:
        model.resize_token_embeddings(66, mean_resizing=False)
    return PeftModel.from_pretrained(model, below)


def arguments(base, below, mode):
    return ModelArguments(model_name_or_path=base, adapter_name_or_path=below, adapter_mode=mode, lora_r=4, lora_alpha=8)


def seen(model):
    said = {}
    for view in ("student", "teacher", "reference", "never_seen"):
        if view != "teacher" or adapters.TEACHER in model.peft_config:
            with adapters.view(model, view):
                said[view] = say(model)
    return said


def added(base, below, form, name, model):
    """The fine-tune and an adapter of the model on it, both by plain PEFT: the latter's products are added to the weights that they change."""
    whole = plain(base, below, form)
    if "tied" in form and "rows" not in form:  # merged, one of two tied weights would change the other
        config = AutoConfig.from_pretrained(base, tie_word_embeddings=False)
        untied = AutoModelForCausalLM.from_pretrained(base, config=config)
        untied.lm_head.weight = torch.nn.Parameter(untied.model.embed_tokens.weight.detach().clone())
        if "added" in form:
            untied = whole.get_base_model()
        whole = PeftModel.from_pretrained(untied, below)
    whole = whole.merge_and_unload()
    weights = {n: p.detach() for n, p in model.named_parameters()}
    for n, a in weights.items():
        if f"lora_A.{name}" in n:
            module = n.partition(".lora_A")[0].removeprefix(saved.PREFIX)
            product = weights[n.replace("lora_A", "lora_B")] @ a
            whole.get_submodule(module.removesuffix(".base_layer")).weight.data += 2.0 * product
    return say(whole)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that makes the base and the fine-tune of a form once, with what both of them say."""

    @cache
    def make(form):
        base, below = mine(tmp_path_factory.mktemp("made"), form, FORMS[form])
        return base, below, say(plain(base)), say(plain(base, below, form))

    return make


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", thinned(FORMS, every=5))
def test_views_are_what_plain_peft_says_through_saving_loading_and_merging(form, mode, made, tmp_path):
    base, below, alone, tuned = made(form)
    wanted = arguments(base, below, mode)
    if mode == "merge" and form in NO_MERGE_BELOW:
        with pytest.raises(UserError, match="adapter_mode: 'merge'"):
            loading.load_to_train(wanted)
        return
    loading.check_fit(AutoConfig.from_pretrained(base), wanted, NoTokens())
    model = adapters.attach(**loading.load_to_train(wanted), teacher=True)
    assert not torch.allclose(alone, tuned, atol=1e-3)
    start = seen(model)
    for view in ("student", "teacher", "reference"):
        torch.testing.assert_close(start[view], tuned, atol=1e-5, rtol=1e-5)
    stir(model, "default", 1)
    stir(model, "teacher", 2)
    said = seen(model)
    torch.testing.assert_close(said["reference"], tuned, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said["never_seen"], tuned if mode == "merge" else alone, atol=1e-5, rtol=1e-5)
    for view in ("student", "teacher"):
        assert not torch.allclose(said[view], tuned, atol=1e-3)
    if mode != "continue" and form not in ("experts", "biases of factors"):
        for view, name in (("student", "default"), ("teacher", "teacher")):
            torch.testing.assert_close(said[view], added(base, below, form, name, model), atol=1e-5, rtol=1e-5)

    adapters.export(model, tmp_path / "out")
    if mode == "continue":
        torch.testing.assert_close(say(plain(base, tmp_path / "out", form)), said["student"], atol=1e-5, rtol=1e-5)
    loading.check_fit(AutoConfig.from_pretrained(base), wanted, NoTokens(), str(tmp_path / "out"))
    again = seen(loading.load_trained(wanted, str(tmp_path / "out")))
    for view, logits in again.items():
        torch.testing.assert_close(logits, said[view], atol=1e-5, rtol=1e-5)
    if mode == "stack" and "rows" not in form:  # of which PEFT loads no second adapter
        two = plain(base, below, form)
        two.load_adapter(tmp_path / "out", "second")
        two.base_model.set_adapter(["default", "second"])
        torch.testing.assert_close(say(two), said["student"], atol=1e-5, rtol=1e-5)
    stack = () if mode == "continue" else (below,)
    if form in UNMERGED:
        with pytest.raises(UserError):
            merge(tmp_path / "out", tmp_path / "merged", base=base, below=stack)
        return
    merge(tmp_path / "out", tmp_path / "merged", base=base, below=stack)
    assert relative_error(say(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), said["student"]) < 1e-5


def test_what_a_recipe_says_of_an_adapter_that_is_trained_further_is_told(tmp_path, caplog):
    base, below = mine(tmp_path, "plain", {})
    loading.check_fit(AutoConfig.from_pretrained(base), arguments(base, below, "continue"), NoTokens())
    assert not caplog.text
    asked = ModelArguments(
        model_name_or_path=base, adapter_name_or_path=below, adapter_mode="continue", lora_r=8, lora_target_modules=ATTENTION[::-1]
    )
    loading.check_fit(AutoConfig.from_pretrained(base), asked, NoTokens())
    assert "Warning: lora_r: adapter_mode continue trains" in caplog.text


def written(folder, **fields):
    """The folder with a config of these fields as PEFT writes it; nothing more is read of a form that is refused."""
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "base", "r": 4, "target_modules": ATTENTION}
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    return str(folder)


@pytest.mark.parametrize("form", REFUSED)
def test_other_forms_are_refused_in_a_sentence_before_a_model_is_loaded(form, tmp_path):
    word = next(iter(REFUSED[form]))
    with pytest.raises(UserError, match=rf"^adapter_name_or_path: .*{word}[^\n]*\.$"):
        saved.config_of(written(tmp_path, **REFUSED[form]), key="adapter_name_or_path")


@pytest.mark.parametrize("kind", [kind.value for kind in PeftType if kind != PeftType.LORA])
def test_every_adapter_that_is_no_lora_is_refused(kind, tmp_path):
    with pytest.raises(UserError, match=rf"^adapter_name_or_path: .* is a {kind} adapter, write a LoRA one\.$"):
        saved.config_of(written(tmp_path, peft_type=kind), key="adapter_name_or_path")


def without(folder, key):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if key in name)
    return tensors, name, lambda: save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("damage", ["missing", "no place", r"has shape \[32, 4\]"])
def test_a_file_that_does_not_fit_its_base_is_refused_without_weights(damage, tmp_path):
    base, below = mine(tmp_path, "plain", {})
    tensors, name, write = without(tmp_path / "mine", "layers.1.self_attn.q_proj.lora_B")
    tensor = tensors.pop(name)
    if damage == "no place":
        tensors |= {name: tensor, name.replace("layers.1", "layers.7"): tensor.clone()}
    if "shape" in damage:
        tensors[name] = torch.zeros(32, 4)
    write()
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    with pytest.raises(UserError, match=rf"^adapter: .*does not fit the base \(tensor .*{damage}"):
        saved.fit(empty, below, "finetune", key="adapter")


def test_an_adapter_that_brings_other_weights_of_the_base_itself_is_refused(tmp_path):
    base, below = mine(tmp_path, "added tokens, resized", {})
    tensors, name, write = without(tmp_path / "mine", "embed_tokens.weight")
    tensors[name] = tensors[name] + 1
    write()
    with pytest.raises(UserError, match=r"holds another model\.embed_tokens\.weight"):
        saved.put(AutoModelForCausalLM.from_pretrained(base), below, "finetune")


def test_what_would_not_be_saved_is_refused(tmp_path):
    base, below = mine(tmp_path, "whole block", {"modules_to_save": ["mlp"]})
    model = saved.put(AutoModelForCausalLM.from_pretrained(base), below, "finetune")
    with pytest.raises(UserError, match=r"lora_target_modules: .*mlp"):
        adapters.attach(model, LoraConfig(target_modules=["gate_proj"], task_type="CAUSAL_LM"))
    shutil.rmtree(tmp_path / "mine")


def test_the_page_of_forms_is_up_to_date():
    assert (Path(__file__).parents[3] / "docs" / "reference" / "adapter-forms.md").read_text(encoding="utf-8") == table()
