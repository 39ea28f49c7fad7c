"""Bases that other tools quantized: each is loaded as what its numbers are worth, or refused in one sentence before a weight is read.

    python benchmarks/quantized_bases.py

For those that are loaded a tiny base is quantized by formulas of this file's own, and compared with a twin that holds what these give back: weights,
logits, and the adapter after two steps of `peft-unlearn train`. For the others there is a config.json alone. The formats are those of transformers'
and of the tools' documentation.
"""

import argparse
import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GptOssConfig, GptOssForCausalLM

from hostile.bed import make_bed
from hostile.damage import with_values
from hostile.recipes import RECIPE
from peft_unlearn.cli import main as command
from peft_unlearn.model import adapters, loading, prequantized
from peft_unlearn.util.errors import UserError

State = dict[str, Tensor]
BLOCK = 32
FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]  # the numbers of E2M1, and these below zero


def fp8_blocks(weight: Tensor) -> tuple[State, Tensor]:
    """Blocks of 32 x 32 with a scale each: what stands in a file, by what is added to the weight's name, and what it is worth."""
    blocks = weight.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))  # rows of blocks, row, column of blocks, column
    scales = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
    packed = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    worth = packed.float() * scales[:, None, :, None]
    return {"weight": packed.reshape(weight.shape), "weight_scale_inv": scales}, worth.reshape(weight.shape)


def mxfp8(weight: Tensor) -> tuple[State, Tensor]:
    """Rows in pieces of 32, each with a power of two."""
    pieces = weight.unflatten(1, (-1, BLOCK))
    exponents = (pieces.abs().amax(-1) / torch.finfo(torch.float8_e4m3fn).max).log2().ceil()
    packed = (pieces / exponents.exp2()[..., None]).to(torch.float8_e4m3fn)
    worth = packed.float() * exponents.exp2()[..., None]
    return {"weight": packed.flatten(1), "weight_scale_inv": (exponents + 127).to(torch.uint8)}, worth.flatten(1)


def fp8_rows(weight: Tensor) -> tuple[State, Tensor]:
    """A scale for each row (compressed-tensors, float-quantized), which its library multiplies in their dtype."""
    scales = (weight.abs().amax(1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max).bfloat16()
    packed = (weight / scales.float()).to(torch.float8_e4m3fn)
    return {"weight": packed, "weight_scale": scales}, (packed.bfloat16() * scales).float()


def int4_groups(weight: Tensor) -> tuple[State, Tensor]:
    """Groups of 32 of a row with a scale each, eight numbers in 32 bits, the first lowest (compressed-tensors, pack-quantized)."""
    groups = weight.unflatten(1, (-1, BLOCK))
    scales = (groups.abs().amax(-1) / 7).bfloat16()
    numbers = (groups / scales.float()[..., None]).round().clamp(-8, 7)
    worth = (numbers.bfloat16() * scales[..., None]).float().flatten(1)
    nibbles = (numbers.flatten(1).long() + 8).unflatten(1, (-1, 8))
    words = sum(nibbles[..., place] << 4 * place for place in range(8))
    packed = torch.where(words >= 2**31, words - 2**32, words).int()
    return {"weight_packed": packed, "weight_scale": scales, "weight_shape": torch.tensor(weight.shape)}, worth


def mxfp4(weight: Tensor) -> tuple[State, Tensor]:
    """Experts (experts, in, out): pieces of 32 inputs, each with a power of two, two numbers in a byte, the first lowest."""
    pieces = weight.transpose(1, 2).unflatten(2, (-1, BLOCK))
    exponents = (pieces.abs().amax(-1) / max(FP4)).log2().ceil()
    table = torch.tensor([*FP4, *(-number for number in FP4)])
    codes = (pieces / exponents.exp2()[..., None])[..., None].sub(table).abs().argmin(-1)
    worth = (table[codes] * exponents.exp2()[..., None]).flatten(2).transpose(1, 2)
    packed = (codes[..., 0::2] + (codes[..., 1::2] << 4)).to(torch.uint8)
    return {"_blocks": packed, "_scales": (exponents + 127).to(torch.uint8)}, worth


def _compressed(kind: str, weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    scheme = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}, **more}
    return {"format": kind, "quantization_status": "compressed", "ignore": ["lm_head"], "config_groups": {"group_0": scheme}}


DYNAMIC = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
# Formats that are loaded: what quantizes a weight, and what config.json says.
HELD: dict[str, tuple[Callable[[Tensor], tuple[State, Tensor]], dict[str, Any]]] = {
    "fp8": (fp8_blocks, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}),
    "mxfp8": (mxfp8, {"quant_method": "mxfp8", "activation_scheme": "dynamic", "weight_block_size": [1, BLOCK]}),
    "mxfp4": (mxfp4, {"quant_method": "mxfp4", "modules_to_not_convert": ["self_attn", "router", "embed_tokens", "lm_head"]}),
    "compressed-tensors, FP8": (fp8_rows, {"quant_method": "compressed-tensors", **_compressed(
        "float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, input_activations=DYNAMIC)}),
    "compressed-tensors, INT4": (int4_groups, {"quant_method": "compressed-tensors", **_compressed(
        "pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": BLOCK})}),
}  # fmt: skip
FOUR = {"bits": 4, "group_size": 128}
# What config.json says of a base in other formats.
OTHERS: dict[str, dict[str, Any]] = {
    "awq": {**FOUR, "version": "gemm", "zero_point": True},
    "gptq": {**FOUR, "desc_act": False, "sym": True},
    "auto-round": {**FOUR, "sym": True},
    "fbgemm_fp8": {"activation_scale_ub": 1200.0},
    "hqq": {"quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}, "skip_modules": ["lm_head"]},
    "bitnet": {},
    "torchao": {"quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
    "quanto": {"weights": "int8"},
    "eetq": {"weights": "int8"},
    "aqlm": {"in_group_size": 8, "nbits_per_codebook": 16},
    "vptq": {"config_for_layers": {}, "shared_layer_config": {}},
    "gguf": {},
    "nvfp4": {},
    "quark": {},
    "fp_quant": {},
    "higgs": {},
    "spqr": {"shapes": {}},
    "metal": {"bits": 4, "group_size": 64},
    "sinq": {"nbits": 4},
    "gemma": {},
    "fouroversix": {},
    "unheard": {},
}


def make(bed: Path, name: str, folder: Path) -> Path:
    """A base of `HELD` in a folder, and beside it its twin; gives back the twin's folder."""
    quantize, said = HELD[name]
    twin = folder.with_name(f"{folder.name}-twin")
    for place in (folder, twin):
        shutil.copytree(bed / "base", place)
    if name == "mxfp4":
        _gpt_oss(twin)
        shutil.copy(twin / "config.json", folder)
    quantized: State = {}
    worth: State = {}
    for tensor, weight in load_file(twin / "model.safetensors").items():
        chosen = tensor.endswith(("gate_up_proj", "down_proj") if name == "mxfp4" else "proj.weight")
        packed, found = quantize(weight.float()) if chosen else ({}, weight)
        quantized |= {tensor.removesuffix("weight") + end if end[0] != "_" else tensor + end: part for end, part in packed.items()}
        worth[tensor] = found.float() if chosen else found.bfloat16()
        quantized |= {} if chosen else {tensor: worth[tensor]}
    for place, tensors in ((folder, quantized), (twin, worth)):
        save_file({tensor: part.contiguous() for tensor, part in tensors.items()}, place / "model.safetensors", metadata={"format": "pt"})
        with_values("config.json", {"dtype": "bfloat16"})(place)
    with_values("config.json", {"quantization_config": said})(folder)
    return twin


def _gpt_oss(folder: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 32, "max_position_embeddings": 64}
    GptOssForCausalLM(GptOssConfig(vocab_size=64, **sizes, **experts, bos_token_id=1, eos_token_id=2)).save_pretrained(folder)


def apart(folder: Path, twin: Path, dtype: str) -> list[str]:
    """What of a base is not what its twin has, loaded in a dtype."""
    ids = torch.arange(3, 15).view(2, 6)
    one, other = (adapters.load_base(place, dtype=dtype).eval() for place in (folder, twin))
    states = [model.state_dict() for model in (one, other)]
    found = sorted(states[0].keys() ^ states[1].keys())
    found += [name for name, tensor in states[1].items() if name not in found and not torch.equal(states[0][name].to(tensor.dtype), tensor)]
    with torch.no_grad():
        return found if torch.equal(one(input_ids=ids).logits, other(input_ids=ids).logits) else [*found, "logits"]


def adapter(bed: Path, base: Path) -> bytes:
    """What two steps of training on a base make."""
    output = base.with_name(f"{base.name}-out")
    with contextlib.redirect_stdout(io.StringIO()):
        status = command(["train", str(bed / RECIPE), "--model_name_or_path", str(base), "--output_dir", str(output), "--max_steps", "2"])
    assert status == 0
    return (output / "adapter_model.safetensors").read_bytes()


def refused(folder: Path) -> str | None:
    """The sentence with which a base is refused, by its config alone; None where it is not."""
    try:
        loading.checked(loading.config(folder), folder)
    except UserError as error:
        return str(error).replace(str(folder), folder.name)
    return None


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as place:
        bed = Path(place)
        make_bed(bed)
        recipe = (bed / RECIPE).read_text()
        (bed / RECIPE).write_text(recipe.replace(": forget", f": {bed}/forget").replace(": retain", f": {bed}/retain"))
        for name in HELD:
            folder = bed / name.replace(", ", "-")
            twin = make(bed, name, folder)
            if said := refused(folder):
                print(f"{name} | {said}", flush=True)
                continue
            differing = [f"{dtype}: {', '.join(found)}" for dtype in ("auto", "float32") if (found := apart(folder, twin, dtype))]
            differing += [] if adapter(bed, folder) == adapter(bed, twin) else ["the trained adapter"]
            print(f"{name} | {'; '.join(differing) or 'as its twin: weights, logits, the adapter after two steps'}", flush=True)
        for name, said in OTHERS.items():
            folder = bed / f"{name}-base"
            shutil.copytree(bed / "base", folder)
            with_values("config.json", {"quantization_config": {"quant_method": name, **said}})(folder)
            print(f"{name} | {refused(folder) or 'not refused'}", flush=True)
        print(f"brought to 16 bits: {', '.join(prequantized.DEQUANTIZED)}")


if __name__ == "__main__":
    main()
