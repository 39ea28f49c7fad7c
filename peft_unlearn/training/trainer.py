"""UnlearnTrainer: the unlearning step, from top to bottom, on `transformers.Trainer`.

For every micro-batch each objective's gradient over the adapter is added to its own row of a matrix G. With the last micro-batch of a step the
Gram matrix GG' decides the objectives' weights, w'G is clipped and damped and becomes `.grad`; the optimiser steps, the automatic learning rate
probes, the teacher follows.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from peft_unlearn import data, metrics
from peft_unlearn.combine import COMBINERS
from peft_unlearn.config import methods
from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.model import adapters, supported
from peft_unlearn.model.dropout import trains_as_it_evaluates
from peft_unlearn.model.fake_quant import deployed
from peft_unlearn.model.lm_head import Forward
from peft_unlearn.model.logprobs import mean_nll, row_means
from peft_unlearn.model.readout import find_readout
from peft_unlearn.training import auto_lr, checkpoint, datasets, objectives, targets
from peft_unlearn.training.adapter_trainer import AdapterTrainer
from peft_unlearn.training.auto_lr import AutoLR
from peft_unlearn.training.early_stop import Checks, EarlyStop
from peft_unlearn.training.gradients import Gradients
from peft_unlearn.training.lagrangian import Lagrangian
from peft_unlearn.training.passes import Passes
from peft_unlearn.training.reference_cache import References
from peft_unlearn.training.sam import Sam
from peft_unlearn.training.teacher import damp, follow
from peft_unlearn.util.errors import UserError

CHECK_EVERY = 10  # optimiser steps between two looks


class UnlearnTrainer(AdapterTrainer):
    """Make a language model forget one set of texts and keep another, with gradients over a LoRA adapter only.

    Args:
        model: a name or folder, a model, or a `PeftModel` (with an adapter "finetune" to stack on, or "default" to train further).
        args: the settings; the defaults of the method "mean_teacher" if left out.
        forget_dataset: rows to forget, in any format of `peft_unlearn.data`, or already tokenised (`input_ids`, `labels`; for a
            preference loss also `alternate`, a row of the same two; for `stop_at: never_seen` maybe `target_logps`).
        retain_dataset: rows to keep. Without any, the model writes `args.self_retain_rows` texts itself before training.
        eval_dataset: further named sets that `evaluate` scores beside the forget and the retain set.
        holdout_dataset: rows of the forget set's kind that the model never saw; scored as the set "holdout", and what `stop_at: auto` rests on.
        never_seen_model: a model that never saw the forget set, for `stop_at: never_seen`; the base itself where an adapter lies below.
        processing_class: the tokenizer; loaded from the model's name if left out.
        peft_config: the forgetting adapter; LoRA r 16 on all linear layers if left out.
        quantization_config: how to quantise a base that is given by name.
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
        never_seen_model: str | Path | PreTrainedModel | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        quantization_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
    ):
        # Args
        args = UnlearnConfig("unlearn-output") if args is None else args
        if args.n_gpu > 1:
            raise UserError(f"accelerate: one process sees {args.n_gpu} GPUs; launch one process a GPU, or show it one GPU.")
        if args.auto_lr and optimizers[1] is not None:
            raise UserError("optimizers: auto_lr sets the learning rate, leave the scheduler out.")
        if forget_dataset is None:
            raise UserError("forget_dataset: there is none; give the rows to forget.")
        if never_seen_model is not None and args.stop_at != "never_seen":
            raise UserError("never_seen_model: only stop_at: never_seen reads it, write that or leave the model out.")

        # Model
        if isinstance(model, str | Path):
            model = adapters.load_base(model, quantization_config=quantization_config)
        elif quantization_config is not None:
            raise UserError("quantization_config: it applies to a model given by name; quantise a loaded one when loading it.")
        if args.learning_rate is None:
            args.learning_rate = methods.learning_rate(model.num_parameters(), falling=args.lr_scheduler_type == "linear")

        # Processing class
        if processing_class is None:
            try:
                processing_class = AutoTokenizer.from_pretrained(model.config._name_or_path)
            except (OSError, ValueError) as error:
                raise UserError(f"processing_class: {model.config._name_or_path!r} brings no tokenizer, give one.") from error

        # PEFT
        if args.negate and isinstance(model, PeftModel) and adapters.STUDENT in model.peft_config:
            raise UserError("negate: it would take away the adapter that is trained further as well, stack a new one or merge that one.")
        set_seed(args.seed)  # the adapter's init belongs to the run
        model = adapters.attach(model, peft_config, teacher=args.teacher_decay is not None)
        if args.negate:
            supported.check_negatable(model.peft_config[adapters.STUDENT])
        adapters.place(model, args.device)  # before levels are read and texts written with it
        if args.gradient_checkpointing:
            model.enable_input_require_grads()  # or LoRA layers silently do not train

        # Dataset
        self.sets, holdout_target = datasets.prepare(
            model,
            args,
            processing_class,
            forget=forget_dataset,
            retain=retain_dataset,
            holdout=holdout_dataset,
            others=eval_dataset or {},
            never_seen=never_seen_model,
        )
        if "holdout" not in self.sets:
            args.holdout_kl = "none"
        held = None if args.holdout_kl == "none" else self.sets["holdout"]
        pairs = data.Pairs(self.sets["forget"], self.sets["retain"], args.seed if args.data_seed is None else args.data_seed, held)

        super().__init__(
            model=model,
            args=args,
            pairs=pairs,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )

        # Objectives, teacher and learning rate
        self._scale = 1.0 if args.stop_at == "none" else targets.mean_distance(self.sets["forget"])
        self.objectives = objectives.build(args, self._scale)
        self.student = adapters.adapter_parameters(model, adapters.STUDENT)
        self.teacher = adapters.adapter_parameters(model, adapters.TEACHER)
        half = args.bf16 or args.fp16 or model.dtype.itemsize == 2
        self.auto_lr = AutoLR(args.auto_lr_max, args.auto_lr_steps, noise=auto_lr.noise(half)) if args.auto_lr else None
        self.lagrangian = None if args.retain_bound is None else Lagrangian(args.retain_coef, args.retain_bound, args.lagrangian_rate)
        self.early_stop = None
        if args.stop_at != "none":
            sample = targets.read(targets.sample(self.sets["forget"]))
            self.checks = Checks(model, processing_class, self.sets, args.per_device_eval_batch_size)
            with adapters.view(model, "reference"):
                self.early_stop = EarlyStop(sample, self.checks.retained(), holdout_target)
                self.early_stop.follow(self.checks.beside())
        depth = model.config.get_text_config().num_hidden_layers
        self._readout = find_readout(model.get_base_model()) if args.logit_lens_coef else None
        if args.logit_lens_coef and (self._readout is None or depth == 1):
            raise UserError("logit_lens_coef: the model has no inner layer, or no final norm and head that were found; leave the key out.")
        self._layer = objectives.hidden_layer(args, depth)
        if self._layer is not None and self._layer > depth:
            raise UserError(f"hidden_layer: the model has {depth} layers, write a number from 1 to {depth}.")
        if args.train_quantized != "none":
            with deployed(model, args.train_quantized):
                pass  # what it cannot merge, it refuses now
        self.add_callback(_AfterOptimizerStep(self))
        self._negated = False
        self._known = (
            self.auto_lr is not None and trains_as_it_evaluates(model) and args.train_quantized == "none"
        )  # the step's own retain loss serves AutoLR

    # ------------------------------------------------------------------------------------------------------------------ the step

    def training_step(
        self, model: nn.Module, inputs: dict[str, dict[str, Tensor]], num_items_in_batch: dict[str, dict[str, Tensor]]
    ) -> Tensor:
        """One micro-batch: add each objective's gradient to its row of G; with the last one of a step, combine."""
        inputs = self._prepare_inputs(inputs)
        total, coefs = torch.zeros((), device=self.args.device), dict(zip((o.name for o in self.objectives), self._coefs(), strict=True))
        with self.accelerator.no_sync(model):  # DDP must not average an objective's gradient on its own
            for stream, batch in inputs.items():
                counts = num_items_in_batch[stream]
                scores, losses = self._passes.run(model, self.state.global_step, stream, batch, counts)
                for name, loss in losses.items():
                    self._sums[f"loss/{name}"] += loss
                    total += coefs[name] * loss
                logps = scores.logps.detach()
                if self.early_stop is not None and scores.target_logps is not None:
                    self._sums["distance"] += objectives.distance(scores, self._scale) / counts["token"]
                if stream == "retain" and self._known:
                    self._sums["nll"] = self._sums["nll"] - logps.double().sum() / counts["token"]
                rows = row_means(logps, scores.mask)
                self._sums[f"p/{stream}"] += rows.exp().sum() / counts["sequence"]
                self._sums[f"logp/{stream}"] += rows.sum() / counts["sequence"]
        self._retain_batches.append((inputs["retain"], num_items_in_batch["retain"]["token"]))
        if self.accelerator.sync_gradients:
            self._combine()
        return total * self.accelerator.num_processes  # what is logged is the mean over processes

    def _kept(self, stream: str, batch: dict[str, Any]) -> Forward | None:
        """The reference's states of these rows, where it pays to keep them."""
        drawn = self.state.max_steps * self.args.train_batch_size * self.args.gradient_accumulation_steps
        return self._references.at(stream, batch["rows"], drawn, self.args.device)

    def _combine(self) -> None:
        """G -> weights -> clipped, damped `.grad`. The clipping coefficient also scales damping and teacher [mean teacher]."""
        matrix, scaler = self._gradients.matrix, self.accelerator.scaler
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(matrix)  # in place: accelerate's own would hold G twice
        if self.sam is not None:
            self.sam.end(self.state.global_step % 2 == 1)
        scale = 1.0 if scaler is None else scaler.get_scale()  # G is this many times too long (fp16 only)
        gramian, sums = self._decisive()
        gramian /= scale**2
        self._here = float(sums.pop("nll")) if "nll" in sums else None
        # A gradient that overflowed under a scaler goes on to `.grad`, for the scaler to skip the step; a loss that did will not recover.
        finite = bool(torch.isfinite(gramian).all())
        if not (finite or scaler is not None) or not all(torch.isfinite(value) for value in sums.values()):
            torch._foreach_copy_([p.data for p in self.student], self._start)
            raise UserError(
                f"learning_rate: a loss or its gradient turned NaN or infinite at step {self.state.global_step + 1}; "
                f"the adapter of step {self._good_step} is kept, write a lower learning_rate or set max_grad_norm."
            )
        coefs = torch.tensor(self._coefs(), dtype=torch.float64)
        if self.early_stop is not None and COMBINERS[self.args.combine].unit:
            coefs[0] *= sums["distance"].sqrt()  # of length 1 it would never come to rest at its levels (docs/levels.md)
        weights = COMBINERS[self.args.combine](gramian, coefs)
        self._norm = (weights @ gramian @ weights).clamp_min(0).sqrt()
        self._clip = min(1.0, self.args.max_grad_norm / max(self._norm.item(), 1e-12)) if self.args.max_grad_norm else 1.0
        views = self._gradients.set(self._gradients.combined(weights * self._clip))
        if self.args.damping:
            damp(views, self.student, self.teacher, self.args.damping * scale, self._clip)
        matrix.zero_()
        self._sums.clear()
        if finite:
            if self.lagrangian is not None:
                self.lagrangian.update(sums["loss/retain"].item())
            self._record(sums, gramian, weights)
            self._remember()

    def _decisive(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The Gram matrix and what the micro-batches summed up to, fp64, on the CPU: the one time in a step that the host waits for the device."""
        gramian, sums = self._gradients.gramian(), self.accelerator.reduce(dict(self._sums), "sum")
        found = torch.cat([gramian.flatten(), torch.stack([*sums.values()]).double()]).cpu()
        objectives = len(gramian)
        return found[: objectives**2].view(objectives, objectives), dict(zip(sums, found[objectives**2 :], strict=True))

    def _coefs(self) -> list[float]:
        """Of each objective; the retain loss under a bound has its multiplier."""
        return [o.coef if self.lagrangian is None or o.name != "retain" else self.lagrangian.multiplier for o in self.objectives]

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Nothing: clipping happened in `_combine`, before damping."""
        return self._norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | None = None) -> Tensor:
        return self._norm

    @torch.no_grad()
    def _remember(self) -> None:
        """Keep the adapter that gave these finite gradients: the last good one, and where the coming step starts."""
        torch._foreach_copy_(self._start, [p.detach() for p in self.student])
        self._good_step = self.state.global_step

    def after_optimizer_step(self) -> None:
        """Probe the learning rate along the step just taken, then let the teacher follow."""
        retain_batches = self._retain_batches.copy()
        self._retain_batches.clear()
        if self.accelerator.optimizer_step_was_skipped:
            return
        if self.auto_lr is not None and self.auto_lr.due(self.state.global_step):
            self._probe(self.auto_lr, retain_batches)
        if self.early_stop is not None and self.state.global_step % CHECK_EVERY == 0:
            self.early_stop.look(self.checks.at("forget"), self.checks.retained(), self.checks.beside())
        if self.teacher:
            follow(self.teacher, self.student, self.args.teacher_decay, self._clip)

    @torch.no_grad()
    def _probe(self, automatic: AutoLR, retain_batches: list[tuple[dict[str, Tensor], Tensor]]) -> None:
        """AutoLR on the retain batch of this step: three or more losses along the step, same rows, no dropout."""
        self.model.eval()

        def retain_loss() -> float:
            loss = sum(mean_nll(self.model, [batch])[0] / tokens for batch, tokens in retain_batches)
            return self.accelerator.reduce(loss, "sum").item()

        parameters = [p.data for p in self.student]
        automatic.probe(parameters, self._start, self.optimizer.param_groups, self.lr_scheduler, retain_loss, self._here)

    # ------------------------------------------------------------------------------------------------------- running and logging

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._gradients = Gradients(self.student, len(self.objectives))
        self.sam = Sam(self.student, adapters.lora_b(self.model).values(), self.args.sam_rho) if self.args.sam_rho else None
        self._passes = Passes(
            model=self.model,
            args=self.args,
            objectives=self.objectives,
            gradients=self._gradients,
            sam=self.sam,
            layer=self._layer,
            readout=self._readout,
            kept=self._kept,
            aim=None if self.early_stop is None else self.early_stop.aim,
            backward=lambda loss, again: self.accelerator.backward(loss, retain_graph=again),
        )
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))  # over micro-batches
        self._start = [p.detach().clone() for p in self.student]
        self._references = References(self.model, self.sets, self.args.per_device_eval_batch_size)
        self._good_step, self._here = 0, None
        self._retain_batches: list[tuple[dict[str, Tensor], Tensor]] = []
        self.model.train()  # all of it: a base comes in eval mode, in which it would pass over gradient checkpointing
        if self._negated:
            self._negate()
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.args.negate:
                self._negate()

    def _negate(self) -> None:
        """Task arithmetic: subtract what was learnt, or add it again."""
        self._negated = not self._negated
        for parameter in adapters.lora_b(self.model).values():
            parameter.data.neg_()

    def _record(self, sums: dict[str, Tensor], gramian: Tensor, weights: Tensor) -> None:
        """Keep a step's losses, and the norms, weights and cosines of its gradients, for the next log line."""
        norms = gramian.diagonal().clamp_min(0).sqrt()
        for name, value in sums.items():
            self._metrics[name].append(value)
        for k, objective in enumerate(self.objectives):
            self._metrics[f"grad_norm/{objective.name}"].append(norms[k])
            self._metrics[f"weight/{objective.name}"].append(weights[k])
            if k > 0:
                self._metrics[f"cosine/forget_{objective.name}"].append(gramian[0, k] / (norms[0] * norms[k]).clamp_min(1e-30))

    def evaluate(
        self, eval_dataset: dict[str, Dataset] | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the forget set, the retain set and every set of `eval_dataset` (or only the sets given here, tokenised) without generation."""
        results: dict[str, float] = {}
        for name, rows in (eval_dataset or self.sets).items():
            result = metrics.evaluate(
                self.model, self.processing_class, rows, batch_size=self.args.per_device_eval_batch_size, generate=False
            )
            results |= {f"{metric_key_prefix}_{name}_{metric}": values["mean"] for metric, values in result.items()}
        self.log(results)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, results)
        return results

    # --------------------------------------------------------------------------------------------------------- saving and loading

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            checkpoint.write(self, Path(output_dir))

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        super()._load_optimizer_and_scheduler(folder)
        if folder is None:
            return
        checkpoint.restore(self, Path(folder))
        self._remember()


class _AfterOptimizerStep(TrainerCallback):
    """The one place in `Trainer`'s loop between the optimiser's step and the scheduler's; and the end of a run that has landed."""

    def __init__(self, trainer: UnlearnTrainer):
        self.trainer = trainer

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.after_optimizer_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.early_stop is not None:
            [reached] = broadcast_object_list([self.trainer.early_stop.reached])  # their looks may differ in a last bit
            control.should_training_stop |= reached
