"""One unlearning run, from a checked recipe to a written adapter. `train` does one, `demo` one for each method."""

import copy
import logging
import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import yaml
from peft import PeftModel
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel, ProgressCallback
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import get_last_checkpoint
from transformers.training_args import OptimizerNames

from peft_unlearn import adapters, deploy, recipe
from peft_unlearn.cli import loading
from peft_unlearn.config import UnlearnConfig
from peft_unlearn.errors import UserError
from peft_unlearn.evaluation import Evaluation, evaluate, report
from peft_unlearn.trainer import UnlearnTrainer

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, Evaluation]]  # set -> view -> evaluation

PACKAGES = ("peft-unlearn", "torch", "transformers", "peft", "trl", "bitsandbytes")


def run(plan: recipe.Recipe, *, never_seen: Mapping[str, Evaluation] | None = None, show: bool = True) -> Results:
    """Check everything that needs no model, then load, evaluate, train, evaluate, and write the output folder.

    Args:
        never_seen: evaluations, by set, of a model that never saw the forget set. A stacked or continued adapter brings its own: the base.
        show: print the table at the end.

    Returns:
        What was evaluated, by set and view; empty views in all processes but the first.

    Raises:
        UserError: what `recipe` and `loading` refuse, before anything is loaded or written; or a divergence, after the last good adapter
            has been written with a report that says so.
    """
    settings = plan.resolved()
    output = Path(plan.training.output_dir or "")
    check_output(settings, output)
    check_packages(plan.training)
    tokenizer, rows = loading.prepare(plan)

    logger.info(
        "%s: %s; base %s.",
        plan.training.method,
        ", ".join(f"{name} {len(found)} rows" for name, found in rows.items()),
        plan.model.model_name_or_path,
    )

    args = copy.copy(plan.training)
    args.push_to_hub = False  # the finished folder is pushed, not each checkpoint
    trainer = UnlearnTrainer(
        args=args,
        forget_dataset=rows.pop("forget"),
        retain_dataset=rows.pop("retain", None),
        eval_dataset=rows,
        processing_class=tokenizer,
        **loading.load_to_train(plan.model),
    )
    model = cast(PeftModel, trainer.model)
    bar = Bar()
    if not args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(bar)
    views = {"before": "reference", "after": "student"}
    if not {adapters.FINETUNE, adapters.REFERENCE}.isdisjoint(model.peft_config):
        views["never_seen"] = "never_seen"  # the base without the user's own adapter
    kept = {name: loading.spread(rows, plan.data.eval_rows) for name, rows in trainer.sets.items()}
    main = trainer.accelerator.is_main_process
    if main:
        plan.training.learning_rate = settings["learning_rate"] = args.learning_rate  # where the base's size decided it
        plan.write(output)
    results: Results = {name: {} for name in kept}

    def look(view: str) -> None:
        if main:
            for name, rows in kept.items():
                with adapters.view(model, views[view]):
                    results[name][view] = evaluate(
                        cast(PreTrainedModel, model), tokenizer, rows, batch_size=args.per_device_eval_batch_size, label=f"{view}, {name}"
                    )
        trainer.accelerator.wait_for_everyone()

    look("before")
    start = {name: p.detach().clone() for name, p in lora_b(model).items()}
    began = time.monotonic()
    stopped = None
    try:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    except UserError as error:
        stopped = error
        if bar.training_bar is not None:
            bar.training_bar.close()
    seconds = time.monotonic() - began
    unmoved = [name for name, p in lora_b(model).items() if p.equal(start[name])]
    if unmoved and stopped is None:
        logger.warning(
            "%d of %d lora_B matrices did not move (%s, ...): these layers forget nothing.", len(unmoved), len(start), unmoved[0]
        )
    for view in list(views)[1:]:
        look(view)
    if main:
        for name, other in (never_seen or {}).items():
            results[name]["never_seen"] = other
        trainer.save_model()
        facts = {"steps": trainer.state.global_step, "seconds": round(seconds, 1), "stopped": stopped, "unmoved_lora_b": len(unmoved)}
        facts["quantisation"] = adapters.quantisation(model)
        found = report.build(results, run={**facts, "versions": {name: version(name) for name in PACKAGES}, "settings": settings})
        report.write(found, output / "report.json")
        trainer.create_model_card(
            report=found,
            below=plan.model.adapter_name_or_path if plan.model.adapter_mode != "continue" else None,
            below_merged=plan.model.adapter_mode == "merge",
        )
        if show:
            Console().print(report.table(found))
        Console().print(f"Adapter, card, recipe and report are in {output}")
    trainer.accelerator.wait_for_everyone()
    if stopped is not None:
        raise stopped
    if main and plan.training.push_to_hub:
        repo = plan.training.hub_model_id or output.resolve().name
        private = plan.training.hub_private_repo is not False
        where = deploy.push(output, repo, private=private, token=plan.training.hub_token, revision=plan.training.hub_revision)
        Console().print(f"Uploaded to {where}", "(private)" if private else "(public)")
    return results


def check_output(settings: Mapping[str, Any], output: Path) -> None:
    """See that nothing of another run would be overwritten, and that there is something to resume where that is asked for.

    Raises:
        UserError: the folder holds another run, or no checkpoint.
    """
    resume = settings["resume_from_checkpoint"]
    if output.exists() and not output.is_dir():
        raise UserError(f"output_dir: {output} is a file, write a folder.")
    if resume is True and (not output.is_dir() or get_last_checkpoint(str(output)) is None):
        raise UserError(f"resume_from_checkpoint: {output} holds no checkpoint, leave the key out.")
    if isinstance(resume, str) and not Path(resume).is_dir():
        raise UserError(f"resume_from_checkpoint: {resume} is no folder, write a checkpoint's folder, or true for the last one.")
    if not output.is_dir():
        parent = next(folder for folder in output.absolute().parents if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise UserError(f"output_dir: {output} cannot be made in {parent}, write a folder that you may write to.")
        return
    finished = (output / "adapter_config.json").exists() or get_last_checkpoint(str(output)) is not None
    written = output / recipe.FILE
    differing = []
    if written.exists():
        before = yaml.safe_load(written.read_text(encoding="utf-8"))
        settings = {**settings, "learning_rate": settings["learning_rate"] or before.get("learning_rate")}  # None: by the base's size
        differing = [key for key, value in settings.items() if key != "resume_from_checkpoint" and before.get(key) != value]
    if differing:
        raise UserError(f"output_dir: {output} holds another run ({differing[0]} differs), write another folder or remove that one.")
    if finished and not resume:
        raise UserError(
            f"output_dir: {output} holds a run already, write another folder, or resume_from_checkpoint: true to go on with it."
        )


def check_packages(args: UnlearnConfig) -> None:
    """See that what reports and optimises is installed: transformers looks after the model is loaded, or even evaluated.

    Raises:
        UserError: a package that is missing, or a name that transformers does not know.
    """
    for name in args.report_to or ():
        if name not in get_available_reporting_integrations():
            raise UserError(f"report_to: {name!r} is not installed, or is none that transformers knows; install it, or write none.")
    try:
        UnlearnTrainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"optim: {OptimizerNames(args.optim).value!r} cannot be had ({reason}); install it, or write adamw_torch."
        ) from error


def lora_b(model: PeftModel) -> dict[str, nn.Parameter]:
    """The B factors of the forgetting adapter: what stays as it was where a layer did not train."""
    return {n: p for n, p in model.named_parameters() if "lora_" in n and "_B" in n and n.split("_B")[1].startswith(f".{adapters.STUDENT}")}


class Bar(ProgressCallback):
    """The training bar with the numbers to watch beside it, where transformers prints every log line whole."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description("training", refresh=False)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None:
            shown = {name: f"{value:.3g}" for name, value in (logs or {}).items() if name.startswith(("loss/", "p/", "learning_rate"))}
            self.training_bar.set_postfix(shown)
