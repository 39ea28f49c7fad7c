"""UnlearnTrainer: set-up, step and checkpoint of an unlearning run, on `transformers.Trainer`.

For every micro-batch each objective's gradient over the adapter is added to its own row of a matrix G (`passes`). With the last micro-batch of a
step the Gram matrix GG' decides the objectives' weights (`combine_step`), w'G is clipped and damped and becomes `.grad`; the optimizer steps, the
automatic learning rate probes, the teacher follows.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from peft_unlearn import data
from peft_unlearn.config import methods
from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.model import adapters, packing
from peft_unlearn.model.dropout import trains_as_it_evaluates
from peft_unlearn.model.fake_quant import deployed
from peft_unlearn.model.lm_head import Forward
from peft_unlearn.training import budget, components, datasets, objectives, setup, targets
from peft_unlearn.training.accumulation import Accumulation
from peft_unlearn.training.adapter_trainer import AdapterTrainer
from peft_unlearn.training.auto_lr import AutoLR
from peft_unlearn.training.callbacks import SPENT, AroundSteps
from peft_unlearn.training.checks import Checks
from peft_unlearn.training.combine_step import Combined, combine_step, described
from peft_unlearn.training.damage import Moving
from peft_unlearn.training.gradients import Gradients, dtype_of_sums
from peft_unlearn.training.negation import Negation
from peft_unlearn.training.pace import Pace
from peft_unlearn.training.passes import Passes, layer_read, read_inner_layers
from peft_unlearn.training.reference_cache import References
from peft_unlearn.training.safety import Safety
from peft_unlearn.util import interrupts
from peft_unlearn.util.errors import UserError


class UnlearnTrainer(AdapterTrainer):
    """Make a language model forget one set of texts and keep another, with gradients over a LoRA adapter only.

    Args:
        model: a name or folder, a model, or a `PeftModel` (with an adapter "finetune" to stack on, maybe beside a "reference" in its place, or
            "default" to train further).
        args: the settings; the defaults of the method "mean_teacher" if left out.
        forget_dataset: rows to forget, in any format of `peft_unlearn.data`, or already tokenized (`input_ids`, `labels`; for a
            preference loss also `alternate`, a row of the same two; for `stop_at: never_seen` maybe `target_logps`).
        retain_dataset: rows to keep. Without any, the model writes `args.self_retain_rows` texts itself before training.
        eval_dataset: further named sets that `evaluate` scores beside the forget and the retain set.
        holdout_dataset: rows of the forget set's kind that the model never saw; scored as the set "holdout", and what `stop_at: auto` rests on.
        forgotten_datasets: sets that were made forgotten before; held, beside the holdout, as the model is given.
        never_seen_model: a model that never saw the forget set, for `stop_at: never_seen`; the base itself where an adapter lies below.
        processing_class: the tokenizer; loaded from the model's name if left out.
        peft_config: the forgetting adapter; LoRA r 16 on all linear layers if left out.
        quantization_config: how to quantize a base that is given by name.
        callbacks, optimizers: as in `transformers.Trainer`.

    Raises:
        UserError: a setting or row that the user can mend.
    """

    loss_is_scaled_for_ga = True  # losses are divided by counts of the whole accumulated batch

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        args: UnlearnConfig | None = None,
        forget_dataset: Dataset | None = None,
        retain_dataset: Dataset | None = None,
        eval_dataset: dict[str, Dataset] | None = None,
        holdout_dataset: Dataset | None = None,
        forgotten_datasets: Sequence[Dataset] = (),
        never_seen_model: str | Path | PreTrainedModel | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        quantization_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
    ):
        sets = datasets.named(forget_dataset, retain_dataset, holdout_dataset, eval_dataset)
        told = "target_logps" in getattr(forget_dataset, "column_names", ()) or isinstance(model, PeftModel)  # by the base below it
        args = setup.settings(
            args, never_seen=told or never_seen_model is not None, holdout="holdout" in sets, forgotten=bool(forgotten_datasets)
        )
        if args.auto_lr and optimizers[1] is not None:
            raise UserError("optimizers: auto_lr sets the learning rate, leave the scheduler out.")
        if never_seen_model is not None and args.stop_at != "never_seen":
            raise UserError("never_seen_model: only stop_at: never_seen reads it, write that or leave the model out.")

        model = setup.load(model, quantization_config)
        processing_class = setup.load_tokenizer(model) if processing_class is None else processing_class
        falling = args.stop_at != "none" or args.lr_scheduler_type == "linear"
        args.learning_rate = args.learning_rate or methods.learning_rate(model.num_parameters(), falling=falling)
        model = setup.adapt(model, args, peft_config)

        streams = datasets.prepare(model, args, processing_class, sets, never_seen_model, forgotten_datasets)
        self.sets, self.trained = streams.sets, streams.trained
        self.budget = budget.begin(model, args, processing_class, self.trained, streams.subjects)
        dropout = targets.changing(model, args, processing_class, streams.changed) if args.prompt_dropout else None
        pairs = data.Pairs(self.trained, args.seed if args.data_seed is None else args.data_seed, dropout)

        super().__init__(model=model, args=args, pairs=pairs, processing_class=processing_class, callbacks=callbacks, optimizers=optimizers)
        self.given = {
            datasets.KEYS[name]: (self.sets if name == "retain" else self.trained)[name] for name in self.trained.keys() & sets.keys()
        }
        self.student = adapters.adapter_parameters(model, adapters.STUDENT)
        checked = {**self.sets, "retain": self.trained["retain"], **objectives.awaited(args, self.trained)}  # a budget keeps its own rows
        self.checks = Checks(model, processing_class, checked, args.per_device_eval_batch_size, streams.parting)
        self.early_stop, batch = None, args.train_batch_size * args.gradient_accumulation_steps
        if args.stop_at != "none":
            with adapters.view(model, "reference"):
                how = {"estimated": args.stop_at == "auto", "batch_size": batch * args.world_size}
                self.early_stop = self.checks.begin(streams.holdout_target, streams.inner_target, **how)
        self.components = components.make(args, model, self.early_stop, self.budget)
        self.teacher, self.auto_lr, self.lagrangian, self.sam, *_ = self.components
        self.negation = Negation(model) if args.negate else None
        self._scale = 1.0 if args.stop_at == "none" else targets.mean_distance(self.sets["forget"])
        built = objectives.build(args, self._scale, lambda: 1.0 if self.early_stop is None else self.early_stop.inner_weight)
        self.objectives = objectives.of_rows(built, self.trained)
        self.check_every = self.checks.every(self.objectives, batch)
        every = 1 if self.budget is None else self.budget.every(self.objectives, batch)
        self.safety = Safety(self.components, self._moving, self.negation, every)
        self._make_step()

    def _moving(self) -> Moving:
        return Moving(self.student, self.optimizer, self.lr_scheduler, self.components.going_back(), self.sam)

    def _make_step(self) -> None:
        """What a step works with. All of it lies on the device already, where `setup.adapt` has placed the adapter."""
        self._gradients = Gradients(self.student, len(self.objectives), dtype_of_sums(self.args))
        self._passes = Passes(
            model=self.model,
            args=self.args,
            objectives=self.objectives,
            gradients=self._gradients,
            sam=self.sam,
            layer=layer_read(self.args, self.model),
            readout=read_inner_layers(self.args, self.model),
            kept=self._kept,
            targets_now=None if self.early_stop is None else self.early_stop.targets_now,
            backward=lambda loss, again: self.accelerator.backward(loss, retain_graph=again),
        )
        self._references = References(self.model, self.trained, self.args.per_device_eval_batch_size)
        self._start = [p.detach().clone() for p in self.student]  # of the coming step
        self._combined = Combined(torch.zeros(len(self.objectives), dtype=torch.float64), torch.zeros(()), 1.0)
        self._here: float | None = None  # the retain loss at `_start`, where the step's own serves AutoLR
        quantized = self.args.train_quantized != "none"
        if quantized:
            with deployed(self.model, self.args.train_quantized):
                pass  # what it cannot merge, it refuses now
        serves_auto_lr = self.auto_lr is not None and trains_as_it_evaluates(self.model) and not quantized
        scale = None if self.early_stop is None else self._scale
        self._accumulation = Accumulation(self._passes, self.args.device, scale, serves_auto_lr, self.trained)
        self.components = self.components._replace(accumulation=self._accumulation)
        self._left_out = False  # whether the last step was none
        # `_remember` before the first step, for a checkpoint, or whoever has the trainer, may move the adapter until then.
        self.end = AroundSteps(self._remember, self.after_optimizer_step, self.early_stop)
        self.add_callback(self.end)

    # ------------------------------------------------------------------------------------------------------------------ the step

    def training_step(
        self, model: nn.Module, inputs: dict[str, dict[str, Tensor]], num_items_in_batch: dict[str, dict[str, Tensor]]
    ) -> Tensor:
        """One micro-batch: add each objective's gradient to its row of G; with the last one of a step, combine."""
        inputs = self._prepare_inputs(inputs) if inputs else {}
        total, coefs = torch.zeros((), device=self.args.device), dict(zip((o.name for o in self.objectives), self._coefs(), strict=True))
        with self.accelerator.no_sync(model):  # DDP must not average an objective's gradient on its own, nor wait for who has no rows
            for name, loss in self._accumulation.add(self.model, self.state.global_step, inputs, num_items_in_batch).items():
                total += coefs[name] * loss
        if self.accelerator.sync_gradients and not self._combine():
            total.zero_()
        summed: Tensor = total * self.accelerator.num_processes
        return summed  # what is logged is the mean over processes

    def _kept(self, view: str, stream: str, batch: dict[str, Any]) -> Forward | None:
        """The states of these rows in a view that does not change, where it pays to keep them: all processes tell, as they round otherwise."""
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return self._references.at(view, stream, batch["rows"], self.state.max_steps * together, self.args.device)

    def _combine(self) -> bool:
        """G -> weights -> clipped, damped `.grad`. The clipping coefficient also scales damping and teacher [mean teacher].

        False where the run goes back to an earlier state instead, and has no gradient.
        """
        args, scaler = self.args, self.accelerator.scaler
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(self._gradients.matrix)  # in place: accelerate's own would hold G twice
        if self.sam is not None:
            self.sam.end(perturbed=self.state.global_step % 2 == 1)
        scale = 1.0 if scaler is None else scaler.get_scale()  # G is this many times too long (fp16 only)
        gramian, sums = self._decisive()
        self._here = float(sums.pop("nll")) if "nll" in sums else None
        # A gradient that overflowed under a scaler goes on to `.grad`, for the scaler to skip the step; a loss that did will not recover.
        finite = bool(torch.isfinite(gramian).all())
        sound = (finite or scaler is not None) and all(torch.isfinite(value) for value in sums.values())
        self._left_out = not self.safety.sound(self.state.global_step, -float(sums["logp/retain"]), finite=sound)
        if self._left_out:
            self._leave_out()
            return False
        settings = {"combiner": args.combine, "max_grad_norm": args.max_grad_norm}
        step = self._combined = combine_step(gramian, self._coefs(), **settings, missing=sums.get("distance"), scale=scale)
        views = self._gradients.combine(step.weights * step.clip)
        if self.teacher is not None and args.damping:
            self.teacher.damp(views, self.student, args.damping * scale, step.clip)
        if finite:
            if self.lagrangian is not None:
                self.lagrangian.update(sums["loss/retain"].item())
            for name, value in {**sums, **described(gramian, step.weights, [o.name for o in self.objectives], scale)}.items():
                self._metrics[name].append(value)
            self._remember()
        return True

    def _leave_out(self) -> None:
        """Have the optimizer take no step: it passes over parameters without a gradient, and a scaler over those that have an infinite one."""
        self._tr_loss.zero_()  # it may be NaN
        for p in self.student:
            p.grad = None if self.accelerator.scaler is None else torch.full_like(p, math.inf)

    def _decisive(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The Gram matrix and what the micro-batches summed up to, fp64, on the CPU: the one time in a step that the host waits for the device."""
        gramian, sums = self._gradients.gramian(), self._accumulation.sums
        found = torch.cat([gramian.flatten(), self.accelerator.reduce(torch.stack([*sums.values()]), "sum")]).cpu()
        objectives = len(gramian)
        return found[: objectives**2].view(objectives, objectives), dict(zip(sums, found[objectives**2 :], strict=True))

    def _coefs(self) -> list[float]:
        """Of each objective; the retain loss under a bound has its multiplier, and a retain set that is lost, or answers not said, more weight."""
        coefs = [o.coef if self.lagrangian is None or o.name != "retain" else self.lagrangian.multiplier for o in self.objectives]
        pace = Pace() if self.early_stop is None else self.early_stop.pace
        weights = {"retain": pace.keep, "answers": pace.teach}
        return [coef * weights.get(o.stream, 1.0) for o, coef in zip(self.objectives, coefs, strict=True)]

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Nothing: clipping happened in `_combine`, before damping."""
        return self._combined.norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | None = None) -> Tensor:
        return self._combined.norm

    @torch.no_grad()
    def _remember(self) -> None:
        """Keep where the coming step starts."""
        torch._foreach_copy_(self._start, [p.detach() for p in self.student])

    def after_optimizer_step(self) -> None:
        """Probe the learning rate along the step just taken, then let the teacher follow."""
        self._accumulation.finish()
        if self.accelerator.optimizer_step_was_skipped or self._left_out:
            return
        if self.auto_lr is not None and self.auto_lr.due(self.state.global_step):
            self._probe(self.auto_lr)
        if self.early_stop is not None and self.state.global_step % self.check_every == 0:
            self.checks.check(self.early_stop)
            if self.early_stop.last is not None:
                self.log({f"check/{name}": value for name, value in self.early_stop.last._asdict().items()})
        if self.teacher is not None:
            self.teacher.follow(self.student, self._combined.clip)
        self.safety.spend(self.state.global_step + 1)

    @torch.no_grad()
    def _probe(self, automatic: AutoLR) -> None:
        """AutoLR on the retain batch of this step: three or more losses along the step, same rows, no dropout."""
        self.model.eval()

        def loss() -> float:
            return float(self.accelerator.reduce(self._accumulation.nll_now(), "sum").item())

        automatic.probe([p.data for p in self.student], self._start, self.optimizer.param_groups, self.lr_scheduler, loss, self._here)

    # ------------------------------------------------------------------------------------------------------- running and logging

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `transformers.Trainer.train`."""
        self._accumulation.clear()  # a run that was cut within a step may have left something
        self.safety.begin()
        self.model.train()  # all of it: a base comes in eval mode, in which it would pass over gradient checkpointing
        if self.negation is not None and self.negation.negated:
            self.negation.flip()
        try:
            # OpenUnlearning's losses read padding too.
            packed = packing.packing(self.model) if self.args.definitions == "peft-unlearn" else nullcontext()
            with interrupts.deferred(self._left), packed:
                result = super().train(*args, **kwargs)
            if self.safety.end(self.state.global_step, self._accumulation.retain_loss()):
                self.end.why = SPENT
            return result
        finally:
            if self.negation is not None:
                self.negation.flip()
