"""One frozen base, several adapters: load the base, attach the forgetting adapter, switch between views, export.

Adapter names: "default" is the forgetting adapter (the student; PEFT writes the files of an adapter of that name at the folder's root, so plain
`PeftModel.from_pretrained(base, folder)` finds them), "teacher" its EMA, "finetune" the user's own LoRA below it, "reference" a frozen copy of an
adapter that is trained further, or the user's own LoRA alone where "finetune" has forgotten something already. There is never a second model:
student, teacher, reference and never-seen model are views of one base.
"""

import contextlib
import copy
import gc
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils.other import AuxiliaryTrainingWrapper, _set_adapter
from torch import nn
from transformers import PreTrainedModel

from peft_unlearn.model import dropout, loading, saved, supported
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

REVISION = "base_revision"  # what a base's revision was asked for as

STUDENT, TEACHER, FINETUNE, REFERENCE = "default", "teacher", "finetune", "reference"


def default_lora() -> LoraConfig:
    """LoRA r 16, alpha 32 on every linear layer but the head: the smallest setting that public work saw forget (docs/studies/defaults.md)."""
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def load_base(
    name: str | Path, *, dtype: torch.dtype | str = "auto", quantization_config: Any = None, key: str = "model_name_or_path", **kwargs: Any
) -> PreTrainedModel:
    """Load a causal language model, quantized if asked, so that it can be trained through and evaluated in turns.

    Raises:
        UserError: what `loading.base` and `loading.check_forward` refuse; the message names `key`.
    """
    if quantization_config is not None:
        kwargs.setdefault("device_map", {"": PartialState().device})
        kwargs["quantization_config"] = quantization_config  # given as None, it would hide the one of a folder that is quantized itself
    model = keep_weights_unpacked(loading.base(name, key=key, dtype=dtype, **kwargs))
    if kwargs.get("revision") not in (None, "main") and not Path(name).is_dir():
        setattr(model, REVISION, kwargs["revision"])
    if experts := supported.unquantized(model):
        share = sum(p.numel() for p in experts) / model.num_parameters()
        logger.warning(
            "Warning: the experts of %s, %.0f %% of its parameters, stay in %s: bitsandbytes quantizes linear layers alone.",
            name,
            100 * share,
            str(experts[0].dtype).removeprefix("torch."),
        )
    return loading.check_forward(model, name, key=key)


def release() -> None:
    """Free models that nobody holds any more: a 4-bit layer and its weight hold each other, so that only the collector finds them (measured)."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def place(model: PeftModel, device: torch.device) -> None:
    """Bring a model to the device where it is trained; a quantized one, or one that is spread over several, is there already."""
    base = model.get_base_model()
    if not getattr(base, "is_quantized", False) and getattr(base, "hf_device_map", None) is None:
        model.to(device)


def keep_weights_unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """Stop bitsandbytes from repacking 4-bit weights in place.

    On CPUs with AVX512-BF16 one eval-mode forward repacks the weight for good; gradients then have cosine .34 with the truth (measured,
    bitsandbytes 0.50.2; see bitsandbytes#2078).
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def attach(model: PreTrainedModel | PeftModel, peft_config: PeftConfig | None = None, *, teacher: bool = False) -> PeftModel:
    """Give `model` a forgetting adapter in fp32, and a teacher that starts as its copy.

    - a plain model gets a new adapter;
    - a `PeftModel` with an adapter "finetune" gets a new one stacked on it, "finetune" stays active and frozen; one that it has beside that as
      "reference" stays the reference in its place;
    - a `PeftModel` with an adapter "default" has that one trained further; a frozen copy stays as the reference.

    Raises:
        UserError: an adapter that changes the base, that another is to be added to and cannot be, or that the model has no place for; a base
            that draws at random in training mode.
    """
    for config in model.peft_config.values() if isinstance(model, PeftModel) else ():
        supported.check(config, model, new=False)
    supported.check_seen(model)
    if isinstance(model, PeftModel) and STUDENT in model.peft_config:
        if peft_config is not None:
            raise UserError(
                'peft_config: the model already holds an adapter named "default"; leave peft_config out to train it further, '
                'or load it with adapter_name="finetune" to stack a new one on it.'
            )
        _add_copy(model, REFERENCE)
    else:
        if isinstance(model, PeftModel) and set(model.peft_config) - {REFERENCE} != {FINETUNE}:
            raise UserError(f'model: stack on an adapter named "finetune", not on {", ".join(model.peft_config)}.')
        model = _with_new(model, copy.deepcopy(peft_config) or default_lora())  # PEFT writes into it
    for name in [STUDENT] + [n for n in model.peft_config if n != STUDENT]:
        for parameter in adapter_parameters(model, name):
            parameter.data = parameter.data.float()  # in bf16 an EMA of decay .999 moves nothing, and 94 % of lr 1e-5 steps are lost
    if teacher:
        _add_copy(model, TEACHER)
    dropout.turn_off(model, but=STUDENT)
    with activated(model, []):
        supported.check_runs(model.get_base_model())
        dropout.check(model)
    _activate(model, names_of(model, "student"))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in adapter_parameters(model, STUDENT):
        parameter.requires_grad_(True)
    supported.check_backward(model)
    saved.check_complete(model, STUDENT)
    return model


def _with_new(model: PreTrainedModel | PeftModel, peft_config: PeftConfig) -> PeftModel:
    """The model with a new forgetting adapter."""
    supported.check(peft_config, model, new=True)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(model, PeftModel):
        supported.check_stack(model.peft_config[FINETUNE], peft_config)
    left_out = supported.past_their_forward(base) | supported.not_linear(base) | saved.lost_layers(base)
    left_out |= saved.inside_wholes(model) if isinstance(model, PeftModel) else set()
    if (left_out or base is not model) and str(peft_config.target_modules).lower() == "all-linear":
        _maybe_include_all_linear_layers(peft_config, base)
        peft_config.target_modules -= left_out
    wanted = peft_config.target_modules
    named = wanted if isinstance(wanted, str) else ", ".join(sorted(wanted or ()))
    cannot = (
        f"PEFT cannot put it on the {named} of a {type(model).__name__}" if named else f"PEFT cannot put it on a {type(model).__name__}"
    )
    instead = "names of its linear layers" if named == "all-linear" else "all-linear, or names of its linear layers"
    with boundary(f"lora_target_modules: {cannot}", f"write {instead}"):
        parameters = [name.replace(".base_layer", "") for name, _ in base.named_parameters()]
        if not isinstance(model, PeftModel):
            model = get_peft_model(model, peft_config)
        else:
            model.add_adapter(STUDENT, peft_config)
    made = model.peft_config[STUDENT]
    if absent := saved.not_among(parameters, made.target_parameters):  # PEFT adds a router that some mixtures have elsewhere
        made.target_parameters = [name for name in made.target_parameters if name not in absent] or None
    return model


def _add_copy(model: PeftModel, name: str) -> None:
    config = copy.deepcopy(model.peft_config[STUDENT])
    if config.init_lora_weights == "orthogonal":
        config.init_lora_weights = True  # its values are copied, and quantized weights know no other
    model.add_adapter(name, config)
    for copied, original in zip(adapter_parameters(model, name), adapter_parameters(model, STUDENT), strict=True):
        copied.data = original.data.clone()


def adapter_parameters(model: PeftModel, name: str = STUDENT) -> list[nn.Parameter]:
    """The parameters of one adapter, in the same order for every adapter of the model."""
    return list(saved.parameters_of(model, name).values())


def lora_b(model: PeftModel) -> dict[str, nn.Parameter]:
    """The factors of the forgetting adapter that start at 0, and stay so where a layer did not train: B, or A of an embedding."""
    at_zero = re.compile(rf"\.(lora_B|lora_embedding_A)\.{STUDENT}(\.|$)")
    return {n: p for n, p in model.named_parameters() if at_zero.search(n)}


def names_of(model: PeftModel, view_name: str) -> list[str]:
    """The adapters that are active in a view."""
    below = [FINETUNE] if FINETUNE in model.peft_config else []
    reference = [REFERENCE] if REFERENCE in model.peft_config else below
    views = {
        "student": [*below, STUDENT],
        "teacher": [*below, TEACHER],
        "given": below or reference,
        "reference": reference,
        "never_seen": [],
    }
    return views[view_name]


def _activate(model: PeftModel, names: list[str]) -> None:
    tuner = model.base_model
    tuner.active_adapter = names
    wrappers = []
    for module in tuner.modules():
        if isinstance(module, BaseTunerLayer):
            module._active_adapter = names  # its set_adapter also goes through every requires_grad: 64 ms for 8B's layers (measured)
        elif isinstance(module, AuxiliaryTrainingWrapper):
            wrappers.append(module)
    if names and wrappers:
        _set_adapter(tuner.model, names, inference_mode=True)
    for wrapper in wrappers:
        wrapper.enable_adapters(bool(names))
        wrapper.requires_grad_(False)


@contextlib.contextmanager
def view(model: PeftModel, name: str) -> Iterator[PeftModel]:
    """See the base through other adapters: "student", "teacher", "given" (as this run was given it), "reference" (as it was before any
    forgetting, which is the same unless earlier requests lie below) or "never_seen" (all off).

    Leave it before a backward pass: under gradient checkpointing the recomputation would run with the wrong adapter and the student get no
    gradient.
    """
    with activated(model, names_of(model, name)):
        yield model


@contextlib.contextmanager
def activated(model: PeftModel, names: list[str]) -> Iterator[PeftModel]:
    """The base with the adapters of these names, frozen: each adds its own change, so several are their exact sum.

    Restores the active adapters and every `requires_grad` (PEFT's own `disable_adapter` unfreezes what it re-enables, peft#3447).
    """
    active = list(model.base_model.active_adapters)
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    _activate(model, names)
    try:
        yield model
    finally:
        _activate(model, active)
        for parameter in trainable:
            parameter.requires_grad_(True)


def quantization(model: PreTrainedModel | PeftModel) -> str | None:
    """How the base is held, such as "NF4, double quantization, bfloat16 compute; experts in bfloat16"; None for 16/32 bit."""
    found = model.config.to_dict().get("quantization_config")
    if found is None:
        return None
    apart = "".join(
        f"; experts in {dtype}" for dtype in sorted({str(p.dtype).removeprefix("torch.") for p in supported.unquantized(model)})
    )
    if found.get("load_in_4bit"):
        nested = ", double quantization" if found["bnb_4bit_use_double_quant"] else ""
        return f"{found['bnb_4bit_quant_type'].upper()}{nested}, {found['bnb_4bit_compute_dtype']} compute{apart}"
    return f"int8{apart}" if found.get("load_in_8bit") else str(found["quant_method"])


def export(model: PeftModel, folder: str | Path) -> None:
    """Write the forgetting adapter, and only it, in PEFT's format, with the revision of its base. What an adapter below holds, stays there."""
    model.peft_config[STUDENT].revision = revision(model)
    with saved.own_tokens_alone():
        model.save_pretrained(
            str(folder), selected_adapters=[STUDENT], save_embedding_layers=False if FINETUNE in model.peft_config else "auto"
        )


def revision(model: PreTrainedModel | PeftModel) -> str | None:
    """The revision of the base on the Hub: as it was asked for, else the commit that was loaded; None of a folder."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return getattr(base, REVISION, None) or getattr(base.config, "_commit_hash", None)


def merged(model: PeftModel) -> PreTrainedModel:
    """The base with its adapter merged into it. Where one of two tied weights has an adapter, the other keeps its own.

    Raises:
        UserError: an adapter that is no change of weights that the base has.
    """
    base = model.get_base_model()
    names = Counter(id(parameter) for _, parameter in base.named_parameters(remove_duplicate=False))
    for module in base.modules():
        layer: Any = module.get_base_layer() if isinstance(module, LoraLayer) else None
        if layer is not None and names[id(getattr(layer, "weight", None))] > 1:  # experts have none of that name
            layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    with boundary("adapter_mode: 'merge' is not possible", "write stack"):
        whole: PreTrainedModel = model.merge_and_unload()
    head, embeddings = whole.get_output_embeddings(), whole.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        whole.config.tie_word_embeddings = whole.config.get_text_config().tie_word_embeddings = False
    return whole
