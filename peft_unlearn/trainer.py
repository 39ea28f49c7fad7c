"""UnlearnTrainer: the unlearning step, from top to bottom, on `transformers.Trainer`.

For every micro-batch each objective's gradient over the adapter is added to its own row of a matrix G. With the last micro-batch of a step the
Gram matrix GG' decides the objectives' weights, w'G is clipped and damped and becomes `.grad`; the optimiser steps, the automatic learning rate
probes, the teacher follows.
"""

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, set_seed

from peft_unlearn import adapters, data, evaluation, objectives
from peft_unlearn.auto_lr import AutoLR
from peft_unlearn.combine import COMBINERS
from peft_unlearn.config import UnlearnConfig
from peft_unlearn.errors import UserError
from peft_unlearn.gradients import Gradients
from peft_unlearn.logprobs import Scores, mean_nll, row_probabilities, score
from peft_unlearn.teacher import damp, follow

STATE_FILE = "unlearning_state.safetensors"  # of a checkpoint: the teacher and what AutoLR remembers
SELF_RETAIN_LENGTH = 256  # tokens a text that the model writes itself; each costs a forward step


class UnlearnTrainer(Trainer):
    """Make a language model forget one set of texts and keep another, with gradients over a LoRA adapter only.

    Args:
        model: a name or folder, a model, or a `PeftModel` (with an adapter "finetune" to stack on, or "default" to train further).
        args: the settings; the defaults of the method "mean_teacher" if left out.
        forget_dataset: rows to forget, in any format of `peft_unlearn.data`, or already tokenised (`input_ids`, `labels`).
        retain_dataset: rows to keep. Without any, the model writes `args.self_retain_rows` texts itself before training.
        eval_dataset: further named sets that `evaluate` scores beside the forget and the retain set.
        processing_class: the tokenizer; loaded from the model's name if left out.
        peft_config: the forgetting adapter; LoRA r 16 on all linear layers if left out.
        quantization_config: how to quantise a base that is given by name.
        callbacks, optimizers: as in `transformers.Trainer`.

    Raises:
        UserError: a setting or row that the user can mend.
    """

    loss_is_scaled_for_ga = True  # losses are divided by the token counts of the whole accumulated batch

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        args: UnlearnConfig | None = None,
        forget_dataset: Dataset | None = None,
        retain_dataset: Dataset | None = None,
        eval_dataset: dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        quantization_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
    ):
        # Args
        args = UnlearnConfig("unlearn-output") if args is None else args
        if args.n_gpu > 1 or args.fsdp or args.deepspeed:
            raise UserError(
                "accelerate: one gradient an objective needs replicated weights; launch one process a GPU, without FSDP or DeepSpeed."
            )
        if forget_dataset is None:
            raise UserError("forget_dataset: there is none; give the rows to forget.")

        # Model
        if isinstance(model, str | Path):
            model = adapters.load_base(model, quantization_config=quantization_config)
        elif quantization_config is not None:
            raise UserError("quantization_config: it applies to a model given by name; quantise a loaded one when loading it.")

        # Processing class
        if processing_class is None:
            processing_class = AutoTokenizer.from_pretrained(model.config._name_or_path)

        # PEFT
        set_seed(args.seed)  # the adapter's init belongs to the run
        model = adapters.attach(model, peft_config, teacher=args.teacher_decay is not None)
        if args.gradient_checkpointing:
            model.enable_input_require_grads()  # or LoRA layers silently do not train
            args.gradient_checkpointing_kwargs = args.gradient_checkpointing_kwargs or {"use_reentrant": False}

        # Dataset
        length = min(args.max_length, getattr(model.config, "max_position_embeddings", args.max_length))
        forget_rows = _rows(forget_dataset, processing_class, length, "forget_dataset")
        if retain_dataset is None:
            with adapters.view(model, "reference"):
                retain_dataset = data.write_retain_rows(
                    model,
                    processing_class,
                    args.self_retain_rows,
                    max_length=min(length, SELF_RETAIN_LENGTH),
                    seed=args.seed,
                    forget=forget_rows,
                )
        retain_rows = _rows(retain_dataset, processing_class, length, "retain_dataset")
        self.sets = {"forget": forget_rows, "retain": retain_rows}
        for name, rows in (eval_dataset or {}).items():
            self.sets[name] = _rows(rows, processing_class, length, f"eval_dataset.{name}")
        pairs = data.Pairs(forget_rows, retain_rows, args.seed if args.data_seed is None else args.data_seed)

        super().__init__(
            model=model,
            args=args,
            data_collator=partial(data.collate, pad_token_id=data.padding_id(processing_class)),
            train_dataset=pairs,
            eval_dataset=pairs,  # what `evaluate` scores is `self.sets`
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )

        # Objectives, teacher and learning rate
        self.objectives = objectives.build(args)
        self.student = adapters.adapter_parameters(model, adapters.STUDENT)
        self.teacher = adapters.adapter_parameters(model, adapters.TEACHER)
        self.auto_lr = AutoLR(args.auto_lr_max, args.auto_lr_steps) if args.auto_lr else None
        self.add_callback(_AfterOptimizerStep(self))

        # Metrics
        self._metrics: dict[str, list[Tensor]] = defaultdict(list)

    # ------------------------------------------------------------------------------------------------------------------ the step

    def training_step(
        self, model: nn.Module, inputs: dict[str, dict[str, Tensor]], num_items_in_batch: dict[str, dict[str, Tensor]]
    ) -> Tensor:
        """One micro-batch: add each objective's gradient to its row of G; with the last one of a step, combine."""
        inputs = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        with self.accelerator.no_sync(model):  # DDP must not average an objective's gradient on its own
            for stream, batch in inputs.items():
                here = [k for k, o in enumerate(self.objectives) if o.stream == stream]
                anchors = {o.anchor: self._anchor(o.anchor, batch) for o in self.objectives if o.stream == stream and o.anchor}
                model.train()
                with self.compute_loss_context_manager():
                    scores = score(model, batch)
                    for k in here:
                        objective = self.objectives[k]
                        loss = objective.function(scores, anchors.get(objective.anchor or "")) / num_items_in_batch[stream][objective.per]
                        self._gradients.into(k)
                        self.accelerator.backward(loss, retain_graph=k != here[-1])
                        total += objective.coef * loss.detach()
                        self._metrics[f"loss/{objective.name}"].append(loss.detach())
                if stream == "forget":
                    self._metrics["p/forget"].append(row_probabilities(scores.logps.detach(), scores.mask).mean())
        model.zero_grad()
        self._retain_batches.append((inputs["retain"], num_items_in_batch["retain"]["token"]))
        if self.accelerator.sync_gradients:
            self._combine()
        return total

    @torch.no_grad()
    def _anchor(self, name: str, batch: dict[str, Tensor]) -> Scores:
        """Scores of the teacher or the reference; before the student's forward, so that its backward sees the student's adapter."""
        with adapters.view(self.model, name):
            self.model.eval()
            return score(self.model, batch)

    def _combine(self) -> None:
        """G -> weights -> clipped, damped `.grad`. The clipping coefficient also scales damping and teacher [mean teacher]."""
        if self.accelerator.num_processes > 1:
            self._gradients.matrix = self.accelerator.reduce(self._gradients.matrix, "sum")
        scale = 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()  # fp16 only
        gramian = self._gradients.gramian() / scale**2
        if not torch.isfinite(gramian).all() and self.accelerator.scaler is None:
            self._restore()
            raise UserError(
                f"learning_rate: a loss or its gradient turned NaN or infinite at step {self.state.global_step + 1}; "
                f"the adapter of step {max(self.state.global_step - 1, 0)} is kept, write a lower learning_rate or set max_grad_norm."
            )
        weights = COMBINERS[self.args.combine](gramian, torch.tensor([o.coef for o in self.objectives], dtype=torch.float64))
        self._norm = (weights @ gramian @ weights).clamp_min(0).sqrt()
        self._clip = min(1.0, self.args.max_grad_norm / max(self._norm.item(), 1e-12)) if self.args.max_grad_norm else 1.0
        views = self._gradients.set(self._gradients.combined(weights * self._clip))
        if self.args.damping:
            damp(views, self.student, self.teacher, self.args.damping * scale, self._clip)
        self._gradients.matrix.zero_()
        self._log_gradients(gramian, weights)
        self._remember()

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clipping happened in `_combine`, before damping; the norm is reported."""
        return self._norm

    @torch.no_grad()
    def _remember(self) -> None:
        """Keep the adapter that gave these finite gradients: the last good one, and where the coming step starts."""
        torch._foreach_copy_(self._start, [p.detach() for p in self.student])

    @torch.no_grad()
    def _restore(self) -> None:
        torch._foreach_copy_([p.data for p in self.student], self._start)

    def after_optimizer_step(self) -> None:
        """Probe the learning rate along the step just taken, then let the teacher follow."""
        retain_batches = self._retain_batches.copy()
        self._retain_batches.clear()
        if self.accelerator.optimizer_step_was_skipped:
            return
        if self.auto_lr is not None and self.auto_lr.due(self.state.global_step):
            self._probe(self.auto_lr, retain_batches)
        if self.teacher:
            follow(self.teacher, self.student, self.args.teacher_decay, self._clip)

    @torch.no_grad()
    def _probe(self, auto_lr: AutoLR, retain_batches: list[tuple[dict[str, Tensor], Tensor]]) -> None:
        """AutoLR on the retain batch of this step: three or more losses along the step, same rows, no dropout."""
        step = torch._foreach_sub([p.data for p in self.student], self._start)
        self.model.eval()

        def move(share: float) -> None:
            torch._foreach_copy_([p.data for p in self.student], torch._foreach_add(self._start, step, alpha=share))

        def loss_at(share: float) -> float:
            move(share)
            loss = sum(mean_nll(self.model, [batch])[0] / tokens for batch, tokens in retain_batches)
            return self.accelerator.reduce(loss, "sum").item()

        share, lr = auto_lr.update(self.optimizer.param_groups[0]["lr"], loss_at)
        move(share)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.lr_scheduler.base_lrs = [lr for _ in self.lr_scheduler.base_lrs]  # a constant schedule then keeps it

    # ----------------------------------------------------------------------------------------------------------- data and counts

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        return data.PairSampler(self.train_dataset)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> dict[str, dict[str, Tensor]]:
        """Label tokens and sequences of each stream, over the whole accumulated batch and all processes."""
        counts = torch.tensor(
            [[[b[s]["labels"][:, 1:].ne(-100).sum(), len(b[s]["labels"])] for s in ("forget", "retain")] for b in batch_samples],
            device=device,
        ).sum(0)
        counts = self.accelerator.reduce(counts, "sum")
        return {s: {"token": tokens, "sequence": rows} for s, (tokens, rows) in zip(("forget", "retain"), counts, strict=True)}

    def floating_point_ops(self, inputs: dict[str, dict[str, Tensor]]) -> int:
        return sum(super(UnlearnTrainer, self).floating_point_ops(batch) for batch in inputs.values())

    # ------------------------------------------------------------------------------------------------------- running and logging

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._gradients = Gradients(self.student, len(self.objectives))
        self._start = [p.detach().clone() for p in self.student]
        self._retain_batches: list[tuple[dict[str, Tensor], Tensor]] = []
        return super().train(*args, **kwargs)

    def _log_gradients(self, gramian: Tensor, weights: Tensor) -> None:
        norms = gramian.diagonal().clamp_min(0).sqrt()
        for k, objective in enumerate(self.objectives):
            self._metrics[f"grad_norm/{objective.name}"].append(norms[k])
            self._metrics[f"weight/{objective.name}"].append(weights[k])
            if k > 0:
                self._metrics[f"cosine/forget_{objective.name}"].append(gramian[0, k] / (norms[0] * norms[k]).clamp_min(1e-30))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the means, since the last line, of every objective's loss, gradient norm and weight."""
        if self.model.training or "loss" in logs:
            logs = logs | {name: torch.stack(values).mean().item() for name, values in self._metrics.items()}
            self._metrics.clear()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: dict[str, Dataset] | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the forget set, the retain set and every set of `eval_dataset` as the student stands, without generation."""
        results: dict[str, float] = {}
        for name, rows in (eval_dataset or self.sets).items():
            result = evaluation.evaluate(
                self.model, self.processing_class, rows, batch_size=self.args.per_device_eval_batch_size, generate=False
            )
            results |= {f"{metric_key_prefix}_{name}_{metric}": values["mean"] for metric, values in result.items()}
        self.log(results)
        control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, results)
        self.control = control
        return results

    # --------------------------------------------------------------------------------------------------------- saving and loading

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write the student, and only it: an adapter that plain PEFT loads."""
        if self.args.should_save:
            adapters.export(self.model, output_dir or self.args.output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            tensors = {str(i): p.detach().contiguous() for i, p in enumerate(self.teacher)}
            calibrated = torch.tensor(self.auto_lr is not None and self.auto_lr.calibrated)
            save_file(tensors | {"auto_lr_calibrated": calibrated}, Path(output_dir) / STATE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        saved = load_file(Path(checkpoint) / STATE_FILE)
        for i, p in enumerate(self.teacher):
            p.data.copy_(saved[str(i)])
        if self.auto_lr is not None:
            self.auto_lr.calibrated = bool(saved["auto_lr_calibrated"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        set_peft_model_state_dict(self.model, load_peft_weights(resume_from_checkpoint, device="cpu"), adapter_name=adapters.STUDENT)


def _rows(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, length: int, name: str) -> Dataset:
    return dataset if "input_ids" in dataset.column_names else data.tokenize(dataset, tokenizer, length, name=name).rows


class _AfterOptimizerStep(TrainerCallback):
    """The one place in `Trainer`'s loop between the optimiser's step and the scheduler's."""

    def __init__(self, trainer: UnlearnTrainer):
        self.trainer = trainer

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.after_optimizer_step()
