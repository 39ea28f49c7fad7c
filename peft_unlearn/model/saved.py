"""Saved adapters: the config and tensors of a folder or Hub name, whether they fit a base, and the base with one put on it."""

import contextlib
import copy
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from peft.utils.other import AuxiliaryTrainingWrapper, TrainableTokensWrapper
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from peft_unlearn.model import supported
from peft_unlearn.util.boundary import boundary, brief
from peft_unlearn.util.errors import UserError

PREFIX = "base_model.model."  # of every key in a PEFT file
Weights = Mapping[str, Tensor]


def parameters_of(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter by name: factors, DoRA's magnitudes, whole modules (`modules_to_save`), rows of embeddings."""
    of_adapter = re.compile(rf"\.(lora_\w+|modules_to_save|trainable_tokens_delta)\.{name}(\.|$)")
    return {n: p for n, p in model.named_parameters() if of_adapter.search(n)}


def config_of(adapter: str, *, key: str) -> LoraConfig:
    """The config of a saved adapter.

    Raises:
        UserError: none there, not LoRA, or a form of which the views would not be what they are called.
    """
    with boundary(
        f"{key}: {adapter!r} is no folder with an adapter_config.json of PEFT, and no adapter on the Hub that answers",
        "write the folder or the Hub name of a LoRA adapter",
    ):
        kind = PeftConfig._get_peft_type(adapter)
        if kind != "LORA" and kind in PeftType.__members__:
            raise UserError(f"{key}: {adapter!r} is a {kind} adapter, write a LoRA one.")
        config = PeftConfig.from_pretrained(adapter)
    if not isinstance(config.base_model_name_or_path, str | None) or not isinstance(config.revision, str | None):
        raise UserError(f"{key}: the adapter_config.json of {adapter!r} names a base that is no text, write its folder or Hub name there.")
    try:
        supported.check(config, nn.Module(), new=False)
    except UserError as error:
        raise UserError(f"{key}: {adapter!r}: {error}") from None
    return config


def weights_of(adapter: str, *, key: str) -> Weights:
    """The tensors of a saved adapter.

    Raises:
        UserError: no file of safetensors, one that is truncated or damaged, or numbers that are not finite.
    """
    folder = Path(adapter)
    if folder.is_dir() and (folder / WEIGHTS_NAME).is_file() and not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise UserError(
            f"{key}: {adapter!r} holds {WEIGHTS_NAME}, a pickle, which may run code; where you trust it, load and save it with PEFT."
        )
    with boundary(f"{key}: {adapter!r} has no {SAFETENSORS_WEIGHTS_NAME}, or one that is truncated or damaged", "save the adapter again"):
        if folder.is_dir() and not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
            raise FileNotFoundError("there is no such file")  # PEFT would look for a pickle, and then on the Hub
        found: Weights = load_peft_weights(adapter, device="cpu")
    for name, tensor in found.items():
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(torch.aminmax(tensor.float())).isfinite().all():
            raise UserError(f"{key}: tensor {name} of {adapter!r} holds numbers that are not finite; save the adapter again.")
    return found


def without_copies(weights: Weights) -> dict[str, Tensor]:
    """What an adapter's file holds of its own: PEFT writes whole embeddings with added tokens twice, and the base's as well."""
    return {key: tensor for key, tensor in weights.items() if ".modules_to_save." not in key and ".original_module." not in key}


def entries_of(base: PreTrainedModel, weights: Weights) -> int | None:
    """How many entries the base had when the adapter was trained; None where the file does not say."""
    names = {id(module): name for name, module in base.named_modules()}
    layers = [names[id(layer)] for layer in (base.get_input_embeddings(), base.get_output_embeddings()) if layer is not None]
    dimensions = {"weight": 0, "base_layer.weight": 0, "lora_embedding_A": 1, "lora_B.weight": 0}
    keys = {f"{PREFIX}{name}.{part}": dimension for name in layers for part, dimension in dimensions.items()}
    found = {weights[key].shape[dimension] for key, dimension in keys.items() if key in weights}
    return found.pop() if len(found) == 1 else None


def resize(base: PreTrainedModel, entries: int | None) -> None:
    """Give the base so many entries, where tokens were added to it for an adapter.

    Entries that the base lacks are the mean of those that it has, so that they are the same each time.
    """
    old = len(base.get_input_embeddings().weight)
    if entries in (None, old):
        return
    base.resize_token_embeddings(entries, mean_resizing=False)
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
        if layer is not None:
            layer.weight.data = with_entries(layer.weight.data[:old], len(layer.weight))


def with_entries(weight: Tensor, entries: int) -> Tensor:
    """An embedding or head with so many rows: cut, or with the mean of its rows below."""
    added = weight.float().mean(0, keepdim=True).to(weight.dtype).expand(max(0, entries - len(weight)), -1)
    return torch.cat([weight[:entries], added])


def fit(base: PreTrainedModel | PeftModel, adapter: str, name: str, *, key: str) -> PeftModel:
    """Put a saved adapter on a model without weights, and see that every tensor of either has its place in the other.

    Raises:
        UserError: a tensor that is missing, has no place or another shape; or what `config_of` and `weights_of` refuse.
    """
    given, weights = config_of(adapter, key=key), without_copies(weights_of(adapter, key=key))
    config = copy.deepcopy(given)  # into which PEFT writes, also parameters that a model of its kind may not have
    weights = {name: tensor.to("meta") for name, tensor in weights.items()}
    config.init_lora_weights = False  # nothing to draw without weights

    def misfit(what: str) -> UserError:
        what = what.replace(f".{name}.", ".")  # as the file has it
        return UserError(f"{key}: {adapter!r} does not fit the base ({what}); give the base that it was trained on, or save it again.")

    if not isinstance(base, PeftModel):
        resize(base, entries_of(base, weights))
    named = [name.replace(".base_layer", "") for name, _ in base.named_parameters()]
    try:
        with warnings.catch_warnings(), torch.device("meta"), own_tokens_alone():
            warnings.simplefilter("ignore")
            if isinstance(base, PeftModel):
                model = base
                model.add_adapter(name, config, low_cpu_mem_usage=True)
            else:
                model = PeftModel(base, config, adapter_name=name, low_cpu_mem_usage=True)
            found = set_peft_model_state_dict(model, weights, adapter_name=name, low_cpu_mem_usage=True)
    except KeyError as error:
        raise misfit(f"tensor {error.args[0]} is missing") from error
    except Exception as error:  # PEFT takes the values of a config as they come
        shape = re.search(r"size mismatch for ([\w.]+):.*?(\[.*?\]).*?(\[.*?\])", str(error), re.DOTALL)
        raise misfit(f"tensor {shape[1]} has shape {shape[2]} and the base needs {shape[3]}" if shape else brief(error)) from error
    if missing := sorted(parameters_of(model, name).keys() & set(found.missing_keys)):
        raise misfit(f"tensor {missing[0]} is missing")
    if found.unexpected_keys:
        raise misfit(f"tensor {found.unexpected_keys[0]} has no place in it")
    modules = [module for module, _ in model.named_modules()]
    if lost := not_among(modules, given.modules_to_save):
        raise misfit(f"it has no module {lost[0]} of modules_to_save")
    if lost := not_among(named, given.target_parameters):
        raise misfit(f"it has no parameter {lost[0]} of target_parameters")
    for module, layer in model.named_modules():
        scaling = layer.scaling.get(name, 1.0) if isinstance(layer, LoraLayer) else 1.0
        if not math.isfinite(scaling) or not scaling:
            raise misfit(f"lora_alpha gives {module.removeprefix(PREFIX)} a factor of {scaling}")
    return model


def not_among(names: Iterable[str], ends: Iterable[str] | None) -> list[str]:
    """Those ends that are of none of the names."""
    known = list(names)
    return [end for end in ends or () if not any(f".{name}".endswith(f".{end}") for name in known)]


def put(base: PreTrainedModel | PeftModel, adapter: str, name: str, *, key: str = "adapter") -> PeftModel:
    """Put a saved adapter on a base that it fits. The base's own tensors, of which the file may hold some, stay what they are.

    Raises:
        UserError: the file holds others for the base itself, so that the base alone would not be the one that it was.
    """
    config_of(adapter, key=key)
    cannot = boundary(f"{key}: {adapter!r} cannot be put on the base", "save the adapter again, or give the base that it was trained on")
    with own_tokens_alone(), _kept(base, adapter, key=key), cannot:
        if isinstance(base, PeftModel):
            base.load_adapter(adapter, name)
            return base
        return PeftModel.from_pretrained(base, adapter, adapter_name=name)


@contextlib.contextmanager
def _kept(model: PreTrainedModel | PeftModel, adapter: str, *, key: str) -> Iterator[None]:
    weights = weights_of(adapter, key=key)
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    own = dict(base.named_parameters(remove_duplicate=False))
    places = {one: re.sub(r"\.(base_layer|original_module)\.", ".", one.removeprefix(PREFIX)) for one in weights}
    before = {one: own[name].detach().clone() for one, name in places.items() if name in own}
    if not isinstance(model, PeftModel):
        resize(base, entries_of(base, weights))
        own = dict(base.named_parameters(remove_duplicate=False))
    held = {one: own[places[one]] for one in before}
    yield
    for one, old in before.items():
        rows = held[one].data[: len(old)]
        if not torch.equal(rows.to(weights[one].dtype), old[: len(rows)].to(weights[one].dtype)):
            raise UserError(
                f"{key}: {adapter!r} holds another {places[one]} than {base.name_or_path}, for the base itself; "
                "give the base that it was trained on, or train what changes as modules_to_save."
            )
        rows.copy_(old[: len(rows)])


def renamed_on_loading(model: PreTrainedModel, tensors: Mapping[str, Any]) -> set[str]:
    """Those of an adapter's tensors, by their names in its file, that PEFT would not find again: it renames them as transformers does old weights.

    Some of those renamings fit the new names as well, such as "shared_expert" of "shared_experts" (measured, peft 0.21.2).
    """
    empty = {name: torch.empty(1, 1, device="meta") for name in tensors if ".lora_" in name}
    return set(empty) - set(convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(), dict(empty)))


def lost_layers(model: PreTrainedModel) -> set[str]:
    """Names of linear layers whose adapter PEFT would not find again."""
    files = {f"{PREFIX}{name}.lora_A.weight": name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {files[tensor] for tensor in renamed_on_loading(model, files)}


def inside_wholes(model: PeftModel) -> set[str]:
    """Names of the modules that lie in one that an adapter trains as a whole: the base's own and the adapter's copy, of which one is seen."""
    wholes = [(n, m) for n, m in model.get_base_model().named_modules() if isinstance(m, AuxiliaryTrainingWrapper)]
    return {f"{name}.{inner}" for name, module in wholes for inner, _ in module.named_modules() if inner}


def check_complete(model: PeftModel, adapter: str) -> None:
    """See that every parameter that is trained comes into the adapter's file.

    Raises:
        UserError: one that PEFT would not save.
    """
    state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    with own_tokens_alone(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kept = get_peft_model_state_dict(model, state_dict=state, adapter_name=adapter, save_embedding_layers=False)
        except KeyError as error:
            raise UserError(f"peft_config: PEFT cannot save {error.args[0]} of such an adapter; adapt other modules.") from error
    if lost := sorted(renamed_on_loading(model.get_base_model(), kept)):
        module = lost[0].partition(".lora_")[0].removeprefix(PREFIX)
        raise UserError(
            f"lora_target_modules: PEFT gives {module} another name when it loads an adapter, and loses it; name other modules."
        )
    written, inside = {id(value) for value in kept.values()}, tuple(f".{name}." for name in inside_wholes(model))
    for name, parameter in parameters_of(model, adapter).items():
        if id(parameter) not in written or (".lora_" in name and any(part in name for part in inside)):
            module = name.partition(f".{adapter}")[0].removeprefix(PREFIX)
            raise UserError(
                f"lora_target_modules: {module} lies in a module that an adapter trains as a whole, or holds one, and would not be saved; "
                "name other modules, or merge the adapter below first."
            )


@contextlib.contextmanager
def own_tokens_alone() -> Iterator[None]:
    """Ask the rows of embeddings that an adapter trains for that adapter alone.

    PEFT asks them for every adapter of the model, and those that train none end in a KeyError (measured, peft 0.21.2).
    """
    names = ("adapter_state_dict", "adapter_state_dict_load_map")
    originals = {name: getattr(TrainableTokensWrapper, name) for name in names}

    def asked(original: Any) -> Any:
        return lambda self, adapter, *rest: original(self, adapter, *rest) if adapter in self._adapters else {}

    for name, original in originals.items():
        setattr(TrainableTokensWrapper, name, asked(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(TrainableTokensWrapper, name, original)
