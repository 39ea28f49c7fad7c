"""One optimiser step of `UnlearnTrainer` on the meta device, phase by phase as its `training_step` and `_combine` take it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.optim.optimizer import Optimizer8bit
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig

from peft_unlearn import adapters, objectives
from peft_unlearn.config import UnlearnConfig
from peft_unlearn.deployed import deployed
from peft_unlearn.gradients import Gradients
from peft_unlearn.logprobs import mean_nll, score
from peft_unlearn.losses import LOSSES
from peft_unlearn.planning import meta
from peft_unlearn.planning.ledger import Items, Ledger
from peft_unlearn.planning.stand_ins import as_on_cuda
from peft_unlearn.recipe import Recipe
from peft_unlearn.resist import Resist
from peft_unlearn.teacher import damp, follow
from peft_unlearn.trainer import UnlearnTrainer

PAGED = 100_000  # elements from which on bitsandbytes keeps an optimiser's state in paged memory
EVALUATED = 8192  # padded tokens that evaluation puts into a batch at most


@dataclass
class Run:
    """What lives as long as the training does."""

    args: UnlearnConfig
    model: PeftModel
    ledger: Ledger
    objectives: list[objectives.Objective]
    gradients: Gradients
    resist: Resist | None
    optimiser: Any
    start: list[Tensor]
    streams: dict[str, dict[str, Any]]
    layer: int | None
    inner: tuple[int, nn.Module] | None


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
        with ledger:
            run = _begin(recipe, model, ledger, config.get_text_config())
            for _ in range(2):  # the first makes the optimiser's state, which is there in all that follows
                _update(run)
            for hard in (False, True) if run.resist or run.args.survive != "none" else (False,):
                for stream in run.streams:
                    _micro_batch(run, stream, hard)
            _evaluate(run)
    return ledger.peaks


def _begin(recipe: Recipe, model: PeftModel, ledger: Ledger, config: Any) -> Run:
    args, student = recipe.training, adapters.adapter_parameters(model)
    depth = config.num_hidden_layers
    length = min(args.max_length, config.to_dict().get("max_position_embeddings") or args.max_length)
    if recipe.data.holdout_dataset is None:
        args.holdout_kl = "none"
    built = objectives.build(args)
    with ledger.phase("start", "gradients"):
        gradients = Gradients(student, len(built))
    with ledger.phase("start", "kept copies"):
        start = [p.detach().clone() for p in student]
        resist = Resist(student, adapters.lora_b(model).values(), args.resist) if args.resist else None
    with ledger.phase("start", "activations"):
        names = ["forget", "retain"] + (["holdout"] if args.holdout_kl != "none" else [])
        streams: dict[str, dict[str, Any]] = {name: _batch(args.per_device_train_batch_size, length) for name in names}
        if args.alternate != "none":
            streams["forget"]["alternate"] = _batch(args.per_device_train_batch_size, length)
        if args.stop_at != "none":
            streams["forget"]["levels"] = torch.empty(args.per_device_train_batch_size, length, device="meta")
    reads_hidden = LOSSES[args.forget_loss].hidden or args.retain_loss == "hidden"
    layer = min(args.hidden_layer or max(1, depth // 4), depth) if reads_hidden else None
    causal = model.get_base_model()
    inner = (1, causal.get_output_embeddings()) if args.inner_coef else None
    body = causal.base_model  # what it allocates are activations, and what comes after it is the loss
    body.register_forward_pre_hook(lambda *_: setattr(ledger, "item", "activations"))
    body.register_forward_hook(lambda *_: setattr(ledger, "item", "loss"))
    kind, how = UnlearnTrainer.get_optimizer_cls_and_kwargs(args)
    how["lr"] = 0.0  # the recipe may leave it to the base's size
    if issubclass(kind, torch.optim.Adam | torch.optim.SGD):
        how |= {"foreach": not how.get("fused"), "fused": False}  # as on CUDA; fused or one by one, it holds no copy of all
    return Run(args, model, ledger, built, gradients, resist, kind(student, **how), start, streams, layer, inner)


def _batch(rows: int, length: int) -> dict[str, Tensor]:
    shapes = dict.fromkeys(("input_ids", "attention_mask", "labels"), (rows, length)) | {"places": (rows * (length - 1),)}
    return {name: torch.empty(shape, dtype=torch.long, device="meta") for name, shape in shapes.items()}


def _update(run: Run) -> None:
    """What follows the last micro-batch of a step."""
    args, student = run.args, adapters.adapter_parameters(run.model)
    teacher = adapters.adapter_parameters(run.model, adapters.TEACHER)
    with run.ledger.phase("update", "gradients"):
        run.gradients.gramian()
        weights = torch.empty(len(run.objectives), dtype=torch.float64, device="meta")
        views = run.gradients.set(run.gradients.combined(weights))
        if args.damping:
            damp(views, student, teacher, args.damping)
        del views
    with run.ledger.phase("update", "optimiser state"):
        _step(run.optimiser)
        run.optimiser.zero_grad()
    if teacher:
        follow(teacher, student, args.teacher_decay or 0.0)
    if args.auto_lr:
        with run.ledger.phase("probe", "kept copies"), torch.no_grad():
            step = torch._foreach_div(torch._foreach_sub([p.data for p in student], run.start), 1.0)
            moved = torch._foreach_add(run.start, step)
            run.model.eval()
            mean_nll(run.model, [run.streams["retain"]])
            del moved


def _step(optimiser: Any) -> None:
    """A step of a torch optimiser; of bitsandbytes' the state alone, as its kernels need nothing beside it."""
    if not isinstance(optimiser, Optimizer8bit):
        optimiser.step()
        return
    paged, optimiser.is_paged = optimiser.is_paged, False
    for g, group in enumerate(optimiser.param_groups):
        for p, parameter in enumerate(group["params"]):
            optimiser.init_state(group, parameter, g, p)
            if paged and parameter.numel() >= PAGED:
                del optimiser.state[parameter]["state1"], optimiser.state[parameter]["state2"]


def _micro_batch(run: Run, stream: str, hard: bool) -> None:
    """One stream: the anchors' forward, the student's, one backward pass for each objective."""
    model, batch, dense = run.model, run.streams[stream], run.args.definitions == "openunlearning"
    here = [(k, o) for k, o in enumerate(run.objectives) if o.stream == stream]
    phase, resist = f"{stream} hard" if hard else stream, run.resist if stream == "forget" else None
    anchors: dict[str | None, Any] = {None: None}
    for name in {o.anchor for _, o in here if o.anchor}:
        with run.ledger.phase(f"{phase}: {name}", "loss"), torch.no_grad(), adapters.view(model, name):
            model.eval()
            anchors[name] = score(model, batch, run.layer, dense, logps=any(o.anchor_logps for _, o in here if o.anchor == name))
    asked = {o.name: (o.of_logits, anchors[o.anchor]) for _, o in here if o.of_logits}
    model.train()
    with _hardened(run, resist) if hard else contextlib.nullcontext(), torch.set_grad_enabled(bool(here)):
        with run.ledger.phase(f"{phase}: forward", "loss"):
            inner = run.inner if stream == "forget" else None
            trained = stream == "forget" or any(o.of_logits is None for _, o in here)
            scores = score(model, batch, run.layer, dense, inner, asked, trained=trained)
        for k, objective in here:
            with run.ledger.phase(f"{phase}: loss {objective.name}", "loss"):
                loss = objective.function(scores, anchors[objective.anchor])
            with run.ledger.phase(f"{phase}: backward {objective.name}", "activations"):
                run.gradients.into(k)
                loss.backward(retain_graph=k != here[-1][0] or (resist is not None and not hard))
        if resist is not None and not hard:
            with run.ledger.phase(f"{phase}: backward resist", "activations"):
                resist.gradient.into(0)
                (-scores.logps.sum()).backward()


@contextlib.contextmanager
def _hardened(run: Run, resist: Resist | None) -> Iterator[None]:
    shipped = contextlib.nullcontext() if run.args.survive == "none" else deployed(run.model, run.args.survive)
    with run.ledger.phase("hard", "kept copies"), shipped, contextlib.nullcontext() if resist is None else resist.relearnt():
        yield


def _evaluate(run: Run) -> None:
    """Scoring before and after: no gradients, its own batch size."""
    length = run.streams["forget"]["labels"].shape[1]
    batch = _batch(max(1, min(run.args.per_device_eval_batch_size, EVALUATED // length)), length)
    with run.ledger.phase("evaluation", "loss"), torch.no_grad():
        run.model.eval()
        score(run.model, batch)
