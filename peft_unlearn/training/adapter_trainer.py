"""AdapterTrainer: a `transformers.Trainer` of nested batches whose product is the student adapter alone, in what it saves, describes and uploads."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerControl
from transformers.trainer import TRAINER_STATE_NAME

from peft_unlearn import data, metrics, publish
from peft_unlearn.model import adapters, packing, saved
from peft_unlearn.model.sharing import sharing
from peft_unlearn.publish.model_card import shown
from peft_unlearn.training import checkpoint
from peft_unlearn.training.components import Components
from peft_unlearn.training.damage import slowed
from peft_unlearn.training.early_stop import EarlyStop


class AdapterTrainer(Trainer):  # type: ignore[misc]  # annotations of transformers are not followed
    """Batches pairs of rows; scores, saves, describes and uploads the student, and never the teacher, a checkpoint or the training arguments."""

    _tag_names = ("peft-unlearn", "unlearning")
    _name = "Unlearn"

    control: TrainerControl
    lr_scheduler: Any
    components: Components
    early_stop: EarlyStop | None = None
    sets: dict[str, Dataset]  # that are evaluated
    given: dict[str, Dataset]  # the sets that a run was given, as it trains on them, by their recipe keys
    _sampler: data.PairSampler
    _beside: Path | None = None  # where a checkpoint is being written

    def __init__(self, pairs: data.Pairs, processing_class: PreTrainedTokenizerBase, **kwargs: Any):
        super().__init__(
            data_collator=data.Unpadded,
            train_dataset=pairs,
            eval_dataset=pairs,  # what `evaluate` scores is not this
            processing_class=processing_class,
            **kwargs,
        )
        self.collate = partial(data.collate, pad_token_id=data.padding_id(processing_class))
        self._metrics: dict[str, list[Tensor]] = defaultdict(list)
        self._parameters: int | None = None

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """As transformers makes it, at the share that damage control leaves; with `stop_at` a constant rate goes by the run's pace."""
        early_stop = self.early_stop
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        if early_stop is None or self.args.lr_scheduler_type != "constant":
            scheduler = super().create_scheduler(num_training_steps, optimizer)
        else:
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, lambda _: early_stop.pace.rate)
        self.lr_scheduler = slowed(scheduler, self.components.damage)
        self._created_lr_scheduler = True  # which the next run makes anew
        return self.lr_scheduler

    def get_train_dataloader(self) -> Any:
        """As transformers makes it. With several processes each reads the rows of all, where accelerate would fill the last batch up with others."""
        args = self.args
        if args.world_size == 1:
            return super().get_train_dataloader()
        self._sampler = data.PairSampler(self.train_dataset)
        how = {"batch_size": args.per_device_train_batch_size * args.world_size, "sampler": self._sampler, "collate_fn": self.data_collator}
        workers = {"num_workers": args.dataloader_num_workers, "prefetch_factor": args.dataloader_prefetch_factor}
        return torch.utils.data.DataLoader(self.train_dataset, **how, **workers)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        self._sampler = data.PairSampler(self.train_dataset)
        return self._sampler

    def get_batch_samples(
        self, epoch_iterator: Iterator[data.Unpadded], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, dict[str, Any]]], dict[str, dict[str, Tensor]] | None]:
        """The micro-batches of a step that this process takes, on the host, and what is in those of all.

        Which rows share one does not depend on how many processes there are. Each takes every n-th, and as many; some of an epoch's last may be none.
        """
        args, together = self.args, [found.pairs for found in islice(epoch_iterator, num_batches)]
        if not together:
            return [], None
        size = args.per_device_train_batch_size
        micro = [pairs[start : start + size] for pairs in together for start in range(0, len(pairs), size)]
        # Packed rows need none of their length beside them. OpenUnlearning's losses are means over each micro-batch, so it matters what is in one.
        if args.definitions == "peft-unlearn" and not packing.takes(self.model):
            micro = data.by_length(micro)
        own = micro[args.process_index :: args.world_size]
        batches = [*map(self.collate, own), *({} for _ in together[len(own) :])]
        empty, computed = map(sum, zip(*map(data.padding, batches), strict=True))
        longest = max((rows["labels"].shape[1] for batch in batches for rows in batch.values()), default=1)
        empty = 0 if packing.takes(self.model, longest - 1) else empty
        self._metrics["padding"].append(torch.tensor(empty / max(1, computed), dtype=torch.float64))
        return batches, self._get_num_items_in_batch(batches, device)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, dict[str, Any]]], device: torch.device) -> dict[str, dict[str, Tensor]]:
        """Label tokens, sequences and micro-batches of each stream, over the whole accumulated batch and all processes."""
        names = list(self.train_dataset.sets)
        counts = torch.zeros(len(names), 3, dtype=torch.long)
        for streams in batch_samples:
            counts += torch.tensor([[len(b["places"]), len(b["labels"]), 1] for b in streams.values()] or 0)
        counts = self.accelerator.reduce(counts.to(device), "sum")
        return {s: dict(zip(("token", "sequence", "batch"), found, strict=True)) for s, found in zip(names, counts, strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a training line the means, over the steps since the last one, of what `_metrics` kept."""
        if "loss" in logs:
            logs = logs | {name: torch.stack(values).mean().item() for name, values in self._metrics.items()}
            self._metrics.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, dict[str, Tensor]]) -> int:
        """6 a parameter and token, as transformers has it, which would count the parameters anew for every batch (15 ms of 8B's; measured)."""
        if self._parameters is None:
            self._parameters = self.model.num_parameters(exclude_embeddings=True)
        return 6 * self._parameters * sum(batch["input_ids"].numel() for batch in inputs.values())

    def _track_num_input_tokens(self, inputs: dict[str, dict[str, Tensor]]) -> None:
        none = torch.zeros(0, dtype=torch.long, device=self.args.device)
        for stream in self.train_dataset.sets:  # also where this process has no rows: the others wait to add theirs
            super()._track_num_input_tokens(inputs.get(stream, {"input_ids": none, "attention_mask": none}))

    @sharing()
    def evaluate(
        self, eval_dataset: dict[str, Dataset] | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the forget set, the retain set and every set of `eval_dataset` (or only the sets given here, tokenized) without generation."""
        results: dict[str, float] = {}
        for name, rows in (eval_dataset or self.sets).items():
            result = metrics.evaluate(
                self.model, self.processing_class, rows, batch_size=self.args.per_device_eval_batch_size, generate=False
            )
            results |= {f"{metric_key_prefix}_{name}_{metric}": values["mean"] for metric, values in result.items()}
        self.log(results)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, results)
        return results

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the student, and only it: an adapter that plain PEFT loads; beside it tokenizer and card. With `args.push_to_hub`, upload them."""
        output = Path(output_dir or self.args.output_dir)
        if self.args.should_save and _internal_call:  # into a checkpoint that is being written
            adapters.export(self.model, output)
        elif self.args.should_save:
            with checkpoint.replacing(output) as partial:
                adapters.export(self.model, partial)
                if self.processing_class is not None:  # beside the adapter, as TRL has it
                    self.processing_class.save_pretrained(partial)
        if not _internal_call:
            self.create_model_card(output_dir)
            if self.args.push_to_hub:
                self.push_to_hub()

    def create_model_card(
        self,
        output_dir: str | None = None,
        *,
        report: dict[str, Any] | None = None,
        below: str | None = None,
        below_mode: str = "stack",
        reference: str | None = None,
    ) -> None:
        """Write README.md beside the adapter: method, settings, quantization, how to load and merge it.

        Args:
            report: numbers to show, as `report.build` makes it.
            below: folder or Hub name of the user's own adapter.
            below_mode: the `adapter_mode` that it was trained with.
            reference: folder or Hub name of the user's own adapter alone, where `below` has forgotten something already.
        """
        if not self.is_world_process_zero():
            return
        settings, adapter = self.args.to_dict(), self.model.peft_config[adapters.STUDENT].to_dict()
        publish.write_card(
            output_dir or self.args.output_dir,
            base=self.model.config._name_or_path or "./base",  # a model made in memory has no name
            method=self.args.method,
            settings=shown(settings, adapter, self.state.global_step),
            quantization=adapters.quantization(self.model),
            revision=adapters.revision(self.model),
            report=report,
            below=below or (adapters.FINETUNE if adapters.FINETUNE in self.model.peft_config else None),
            below_mode=below_mode,
            reference=reference,
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing yet: `push_to_hub` makes the repository, private, when there is an adapter to upload."""

    def push_to_hub(self, *, token: str | None = None, revision: str | None = None, private: bool | None = None) -> str | None:
        """Upload what `save_model` wrote to `args.output_dir`, with recipe and report where they are: never teacher, checkpoints or data.

        Private unless `private`, or else `args.hub_private_repo`, is False. Returns the repository's address (None where another process
        uploads).

        Raises:
            UserError: no adapter saved yet, not logged in, or what the Hub refuses.
        """
        if not self.is_world_process_zero():
            return None
        return publish.push(
            self.args.output_dir,
            self.args.hub_model_id or Path(self.args.output_dir).resolve().name,
            private=(self.args.hub_private_repo if private is None else private) is not False,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
        )

    # --------------------------------------------------------------------------------------------------------------------- checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As `transformers.Trainer.train`; True goes on from the last checkpoint that is whole.

        Raises:
            UserError: there is none, or the one that is named is damaged or of another run.
        """
        folder = checkpoint.chosen(resume_from_checkpoint, Path(self.args.output_dir))
        if folder is not None:
            checkpoint.check(folder, self._facts)
        return super().train(resume_from_checkpoint=None if folder is None else str(folder), **kwargs)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return checkpoint.facts(self.args, self.model.peft_config[adapters.STUDENT], self.given)

    def _left(self) -> str:
        """What there is of a run that a signal has ended."""
        saved = checkpoint.numbered(Path(self.args.output_dir))
        way = f"{saved[0]} is its last checkpoint, go on with --resume_from_checkpoint true" if saved else "it has no checkpoint"
        return f" after step {self.state.global_step}; {way}"

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        self._sampler.set_epoch(epoch)  # with several processes transformers does not reach it in an epoch that is resumed
        if not self.control.should_training_stop:  # a checkpoint of the last step: transformers would take one more
            super()._run_epoch(epoch=epoch, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._beside or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As transformers does, beside its place; with its manifest it is renamed, so that there are no halves."""
        output, step = Path(super()._get_output_dir(trial)), self.state.global_step
        place = output / f"checkpoint-{step}"
        with checkpoint.beside(output) if self.args.should_save else contextlib.nullcontext():
            self.accelerator.wait_for_everyone()
            self._beside = output / checkpoint.BESIDE
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._beside = None
            self.accelerator.wait_for_everyone()
            if best := self.state.best_global_step == step:
                self.state.best_model_checkpoint = str(place)
            if self.args.should_save:
                written = output / checkpoint.BESIDE / place.name
                if best:
                    self.state.save_to_json(str(written / TRAINER_STATE_NAME))
                checkpoint.finish(written, output, {"step": step, "resumable": not self.args.save_only_model, **self._facts})
        if self.args.should_save:
            checkpoint.rotate(output, self.args.save_total_limit, place, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            checkpoint.write(self.components.by_key(), self.components.damage.good, Path(output_dir))

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        super()._load_optimizer_and_scheduler(folder)
        if folder is not None:
            self.components.damage.good = checkpoint.restore(self.components.by_key(), Path(folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with saved.own_tokens_alone():
            set_peft_model_state_dict(self.model, load_peft_weights(resume_from_checkpoint, device="cpu"), adapter_name=adapters.STUDENT)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)  # transformers would load it into the first active adapter
