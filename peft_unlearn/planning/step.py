"""One optimizer step of `UnlearnTrainer` on the meta device, its passes and what combining, AutoLR and teacher add."""

from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.optim.optimizer import Optimizer8bit
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedConfig

from peft_unlearn.config.recipe import Recipe
from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.data.pairs import STREAMS
from peft_unlearn.model import adapters, supported
from peft_unlearn.model.instead import LIKELIEST
from peft_unlearn.model.logprobs import mean_nll, score
from peft_unlearn.model.readout import depth as layers_of
from peft_unlearn.planning import meta
from peft_unlearn.planning.ledger import Items, Ledger
from peft_unlearn.planning.stand_ins import as_on_cuda
from peft_unlearn.training import objectives, setup
from peft_unlearn.training.datasets import row_length
from peft_unlearn.training.gradients import Gradients, dtype_of_sums
from peft_unlearn.training.passes import Passes, read_inner_layers
from peft_unlearn.training.sam import Sam
from peft_unlearn.training.teacher import Teacher
from peft_unlearn.training.trainer import UnlearnTrainer
from peft_unlearn.util.registry import LOSSES

PAGED = 100_000  # elements from which on bitsandbytes keeps an optimizer's state in paged memory
EVALUATED = 8192  # padded tokens that evaluation puts into a batch at most


@dataclass
class Run:
    """What lives as long as the training does."""

    args: UnlearnConfig
    model: PeftModel
    ledger: Ledger
    passes: Passes
    optimizer: Any
    start: list[Tensor]
    streams: dict[str, dict[str, Any]]


def trace(recipe: Recipe, config: PreTrainedConfig) -> dict[str, Items]:
    """Phase of the step -> bytes of each item when that phase held most.

    Raises:
        UserError: as `meta.build`.
    """
    with as_on_cuda():
        model = meta.build(recipe, config)
        ledger = Ledger(padded=recipe.training.per_device_train_batch_size > 1, vocabulary=config.get_text_config().vocab_size)
        for item, tensor in meta.tensors(model):
            ledger.add(tensor, item)
        counts = dict.fromkeys(("token", "sequence", "batch"), torch.ones((), device="meta"))
        with ledger, supported.running(model.get_base_model(), "take a step on tensors without data, and its memory not be planned"):
            run = _begin(recipe, model, ledger, config.get_text_config())
            for _ in range(2):  # the first makes the optimizer's state, which is there in all that follows
                _update(run)
            for step in (0, 1) if run.passes.sam or run.args.train_quantized != "none" else (0,):
                for stream, batch in run.streams.items():
                    run.passes.run(model, step, stream, batch, counts)
            _evaluate(run)
    return ledger.peaks


def _begin(recipe: Recipe, model: PeftModel, ledger: Ledger, config: Any) -> Run:
    args = setup.fitted(recipe.training, held=recipe.data.holdout_dataset is not None)
    student, depth, length = adapters.adapter_parameters(model), layers_of(config), row_length(config, args.max_length)
    with ledger.phase("start", "activations"):
        readout = read_inner_layers(args, model)
    built = objectives.build(args)
    with ledger.phase("start", "gradients"):
        gradients = Gradients(student, len(built), dtype_of_sums(args))
    with ledger.phase("start", "kept copies"):
        start = [p.detach().clone() for p in student]
        sam = Sam(student, adapters.lora_b(model).values(), args.sam_rho, gradients.matrix.dtype) if args.sam_rho else None
    with ledger.phase("start", "activations"):
        names = [name for name in STREAMS if name in ("forget", "retain", *(objective.stream for objective in built))]
        streams: dict[str, dict[str, Any]] = {name: _batch(args.per_device_train_batch_size, length) for name in names}
        if LOSSES[args.forget_loss].alternate:
            streams["forget"]["alternate"] = _batch(args.per_device_train_batch_size, length)
        if args.stop_at != "none":
            streams["forget"]["target_logps"] = torch.empty(args.per_device_train_batch_size, length, device="meta")
        if any(objective.anchor == "never_seen" for objective in built):
            streams["forget"]["instead"] = torch.empty(args.per_device_train_batch_size, length, 2 * LIKELIEST, device="meta")
    layer = objectives.hidden_layer(args, depth)
    passes = Passes(model, args, built, gradients, sam, layer and min(layer, depth), readout, phase=ledger.phase)
    body = model.get_base_model().base_model  # what it allocates are activations, and what comes after it is the loss
    body.register_forward_pre_hook(lambda *_: setattr(ledger, "item", "activations"))
    body.register_forward_hook(lambda *_: setattr(ledger, "item", "loss"))
    kind, how = UnlearnTrainer.get_optimizer_cls_and_kwargs(args)
    how["lr"] = 0.0  # the recipe may leave it to the base's size
    if issubclass(kind, torch.optim.Adam | torch.optim.SGD):
        how |= {"foreach": not how.get("fused"), "fused": False}  # as on CUDA; fused or one by one, it holds no copy of all
    return Run(args, model, ledger, passes, kind(student, **how), start, streams)


def _batch(rows: int, length: int) -> dict[str, Tensor]:
    shapes = dict.fromkeys(("input_ids", "attention_mask", "labels"), (rows, length)) | {"places": (rows * (length - 1),)}
    return {name: torch.empty(shape, dtype=torch.long, device="meta") for name, shape in shapes.items()}


def _update(run: Run) -> None:
    """What follows the last micro-batch of a step."""
    args, student = run.args, adapters.adapter_parameters(run.model)
    teacher = None if args.teacher_decay is None else Teacher(adapters.adapter_parameters(run.model, adapters.TEACHER), args.teacher_decay)
    with run.ledger.phase("update", "gradients"):
        gradients = run.passes.gradients
        gradients.gramian()
        weights = torch.empty(len(gradients.matrix), dtype=torch.float64, device="meta")
        views = gradients.combine(weights)
        if teacher is not None and args.damping:
            teacher.damp(views, student, args.damping)
        del views
    with run.ledger.phase("update", "optimizer state"):
        _step(run.optimizer)
        run.optimizer.zero_grad()
    if teacher is not None:
        teacher.follow(student)
    if args.auto_lr:
        with run.ledger.phase("probe", "kept copies"), torch.no_grad():
            step = torch._foreach_div(torch._foreach_sub([p.data for p in student], run.start), 1.0)
            moved = torch._foreach_add(run.start, step)
            run.model.eval()
            mean_nll(run.model, [run.streams["retain"]])
            del moved


def _step(optimizer: Any) -> None:
    """A step of a torch optimizer; of bitsandbytes' the state alone, as its kernels need nothing beside it."""
    if not isinstance(optimizer, Optimizer8bit):
        optimizer.step()
        return
    paged, optimizer.is_paged = optimizer.is_paged, False
    for g, group in enumerate(optimizer.param_groups):
        for p, parameter in enumerate(group["params"]):
            optimizer.init_state(group, parameter, g, p)
            if paged and parameter.numel() >= PAGED:
                del optimizer.state[parameter]["state1"], optimizer.state[parameter]["state2"]


def _evaluate(run: Run) -> None:
    """Scoring before and after: no gradients, its own batch size."""
    length = run.streams["forget"]["labels"].shape[1]
    batch = _batch(max(1, min(run.args.per_device_eval_batch_size, EVALUATED // length)), length)
    with run.ledger.phase("evaluation", "loss"), torch.no_grad():
        run.model.eval()
        score(run.model, batch)
