"""The files of a base's weights in a local folder, seen by their headers alone."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

STATES = (".SCB", ".absmax")  # what bitsandbytes writes beside a weight
AGAIN = "fetch the model again"


def check(model: PreTrainedModel, name: str | Path, *, key: str = "model_name_or_path") -> None:
    """See, by the headers of a local folder's weights alone, that they lie in it and are those of `model`, which has none.

    A folder without any is passed over: `plan` needs none, and what loads it says so.

    Raises:
        UserError: an index that is none or that names files elsewhere, a damaged file, or tensors that are missing, or of another shape or
            quantization than config.json says.
    """
    found: dict[str, tuple[list[int], str]] = {}
    files = _weight_files(Path(name), key=key)
    for file in files:
        with boundary(f"{key}: {str(file)!r} does not open", AGAIN), safe_open(file, framework="pt") as opened:
            headers = {tensor: opened.get_slice(tensor) for tensor in opened.keys()}  # noqa: SIM118
            found |= {tensor: (list(header.get_shape()), header.get_dtype()) for tensor, header in headers.items()}
    quantized = model.config.to_dict().get("quantization_config")
    if not files:
        return
    if quantized is not None:
        if quantized.get("quant_method") == "bitsandbytes" and not any(tensor.endswith(STATES) for tensor in found):
            raise UserError(f"{key}: config.json of {str(name)!r} says that bitsandbytes quantized its weights, and they are not; {AGAIN}.")
        return  # its tensors are other ones
    wanted = model.state_dict()
    names, parts = checkpoint_names(model, list(found))
    made = {one for parameter in set(parts.values()) for one in together(model, parameter)}
    if lost := wanted.keys() - names.keys() - made - _not_in_files(model, names.keys()):
        raise UserError(missing(key, name, sorted(lost)))
    for parameter, tensor in sorted(names.items()):
        shape, dtype = found[tensor]
        if parameter in wanted and shape != list(wanted[parameter].shape):
            raise UserError(other_shape(key, name, tensor, shape, wanted[parameter].shape))
        if parameter in wanted and wanted[parameter].is_floating_point() and "F" not in dtype:  # transformers would cast it
            raise UserError(f"{key}: tensor {tensor} of {str(name)!r} holds {dtype}, and its config.json says nothing of that; {AGAIN}.")


def _weight_files(folder: Path, *, key: str) -> list[Path]:
    """The files of a local folder that transformers would read weights from."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    if not index.is_file():
        return []
    with boundary(f"{key}: {str(index)!r} is no index of weights", AGAIN):
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not files:
            raise ValueError("it names no files")
        outside = [file for file in files if Path(file).is_absolute() or ".." in Path(file).parts]
    if outside:
        raise UserError(f"{key}: {str(index)!r} names {outside[0]!r}, which lies outside of its folder; {AGAIN}.")
    if gone := [file for file in files if not (folder / file).is_file()]:
        raise UserError(f"{key}: {str(index)!r} names {gone[0]!r}, which is not there; {AGAIN}.")
    return [folder / file for file in files]


def checkpoint_names(model: PreTrainedModel, names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Parameter -> tensor of the checkpoint that transformers loads as it is; and tensor -> the parameter that it becomes a part of.

    Asks transformers for its own renaming, so that a missing "model." prefix or a renamed module is found where loading finds it.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    parameters = model.state_dict()
    found, parts = {}, {}
    for name in names:
        parameter, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)
        if parameter not in parameters and name in parameters:
            parameter, converted = rename_source_key(name, [], [], model.base_model_prefix, parameters)
        if converted is None:
            found[parameter] = name
        else:
            parts[name] = parameter
    return found, parts


def together(model: PreTrainedModel, parameter: str) -> list[str]:
    """A parameter that `checkpoint_names` names, and those that transformers makes of the same tensors: it names the first of them."""
    for entry in get_model_conversion_mapping(model):
        first, *others = entry.target_patterns
        if others and first in parameter:
            return [parameter, *(parameter.replace(first, other) for other in others)]
    return [parameter]


def _not_in_files(model: PreTrainedModel, there: Collection[str]) -> set[str]:
    """What a model has and its files need not: the other end of a tie, and what its class says is made anew."""
    tied = {name for pair in model.all_tied_weights_keys.items() if set(pair) & set(there) for name in pair}
    made = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    return tied | {name for name in model.state_dict() if any(pattern.search(name) for pattern in made)}


def missing(key: str, name: str | Path, tensors: list[str]) -> str:
    return (
        f"{key}: {len(tensors)} tensors are not in the weight files of {str(name)!r}, such as {tensors[0]}; {AGAIN}, or write another one."
    )


def other_shape(key: str, name: str | Path, tensor: str, shape: Any, wanted: Any) -> str:
    return f"{key}: tensor {tensor} of {str(name)!r} has shape {list(shape)} and its config.json says {list(wanted)}; {AGAIN}."
