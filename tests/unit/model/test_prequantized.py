"""Bases that other tools quantized are what their numbers are worth, or refused in a sentence before a weight is read."""

import copy
import shutil

import pytest
import quantized_bases
import torch
from safetensors.torch import load_file, save_file

from hostile.bed import make_bed
from hostile.damage import with_values
from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.model import adapters, loading, prequantized
from peft_unlearn.planning import meta
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import below

HERE = [name for name in quantized_bases.HELD if "compressed" not in name]  # whose library is no dependency


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    make_bed(folder)
    return folder


@pytest.fixture(scope="module")
def made(bed):
    """Of each format the quantized base and its twin."""
    return {name: (bed / name, quantized_bases.make(bed, name, bed / name)) for name in HERE}


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("name", HERE)
def test_a_base_is_what_its_numbers_are_worth(name, dtype, made):
    assert quantized_bases.apart(*made[name], dtype) == []


@pytest.mark.parametrize("name", HERE)
def test_a_gradient_goes_through_it(name, made):
    model = adapters.load_base(made[name][0]).eval()
    embedded = model.get_input_embeddings()(torch.arange(3, 9).view(1, 6)).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.float().sum().backward()
    assert embedded.grad.abs().sum() > 0
    assert adapters.quantization(model) is None


@pytest.mark.parametrize("name", HERE)
def test_scales_that_are_missing_are_refused(name, made, tmp_path):
    shutil.copytree(made[name][0], tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    lost = next(tensor for tensor in sorted(tensors) if tensor.endswith(("scale_inv", "_scales")))
    del tensors[lost]
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"^model_name_or_path: [^\n]*\.$"):
        adapters.load_base(tmp_path / "base")


@pytest.mark.parametrize("name", [name for name in quantized_bases.OTHERS if name not in prequantized.TRAINED])
def test_what_no_adapter_can_be_trained_on_is_refused_by_its_config(name, bed, tmp_path):
    shutil.copytree(bed / "base", tmp_path / "base")
    with_values("config.json", {"quantization_config": {"quant_method": name, **quantized_bases.OTHERS[name]}})(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    assert quantized_bases.refused(tmp_path / "base") == (
        f"model_name_or_path: 'base' is quantized by {name} and cannot be loaded here (no adapter can be trained on that); "
        "give the base in 16 bits."
    )


def test_it_is_planned_and_merged_into_as_one_of_sixteen_bits(made, bed):
    config, plain = (loading.config(folder) for folder in made["fp8"])
    shapes = [(name, p.shape, p.dtype) for name, p in meta.load_base(copy.deepcopy(plain), "auto", None, "eager").named_parameters()]
    assert [(name, p.shape, p.dtype) for name, p in meta.load_base(config, "auto", None, "eager").named_parameters()] == shapes
    below.check(config, ModelArguments(model_name_or_path="base", adapter_name_or_path=str(bed / "lora"), adapter_mode="merge"))
