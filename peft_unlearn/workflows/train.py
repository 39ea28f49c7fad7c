"""One unlearning run, from a checked recipe to a written adapter. `train` does one, `demo` one for each method."""

import contextlib
import copy
import logging
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import yaml
from accelerate import PartialState
from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedModel, ProgressCallback
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import get_last_checkpoint
from transformers.training_args import OptimizerNames

from peft_unlearn import publish, report
from peft_unlearn.benchmarks import How, Sets
from peft_unlearn.benchmarks.own import Own
from peft_unlearn.config import recipe
from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.divergence import retain_kl
from peft_unlearn.model import adapters
from peft_unlearn.report import page
from peft_unlearn.training import targets
from peft_unlearn.training.trainer import UnlearnTrainer
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import check_room, claimed
from peft_unlearn.workflows import loading

logger = logging.getLogger(__name__)

Views = dict[str, Sets]  # "before", "after", "never_seen" -> set -> evaluation

PACKAGES = ("peft-unlearn", "torch", "transformers", "peft", "trl", "bitsandbytes")


def run(plan: recipe.Recipe, *, never_seen: Sets | None = None, show: bool = True) -> Views:
    """Check everything that needs no model, then load, evaluate, train, evaluate, and write the output folder.

    Args:
        never_seen: evaluations, by set, of the recipe's never-seen model, where they are at hand already. A stacked or continued adapter brings
            its own: the base.
        show: print the table at the end.

    Returns:
        What was evaluated, by view and set; no views in all processes but the first.

    Raises:
        UserError: what `recipe` and `loading` refuse, before anything is loaded or written; or a divergence, after the last good adapter
            has been written with a report that says so.
    """
    output = Path(plan.training.output_dir or "")
    with claimed(output, key="output_dir") if PartialState().is_main_process else contextlib.nullcontext():
        return _run(plan, output, never_seen, show)


def _run(plan: recipe.Recipe, output: Path, never_seen: Sets | None, show: bool) -> Views:
    settings = plan.resolved()
    check_output(settings, output)
    check_packages(plan.training)
    tokenizer, probes = loading.prepare(plan)
    args, main = copy.copy(plan.training), PartialState().is_main_process
    args.push_to_hub = False  # the finished folder is pushed, not each checkpoint
    how = How(batch_size=args.per_device_eval_batch_size)
    views: Views = {}

    logger.info(
        "%s: %s; base %s.",
        args.method,
        ", ".join(f"{name} {len(found.rows)} rows" for name, found in probes.items()),
        plan.model.model_name_or_path,
    )
    other = plan.model.never_seen_model_name_or_path
    if other and (never_seen is None or args.stop_at == "never_seen"):
        model = loading.load_never_seen(plan.model, other, key="never_seen_model_name_or_path")
        if args.stop_at == "never_seen":
            for name in {"forget", "holdout"} & set(probes):
                found = targets.scored(model, tokenizer, probes[name].rows, how.batch_size)
                probes[name] = Probe(targets.with_targets(probes[name].rows, found), probes[name].variants)
        if never_seen is None and main:
            never_seen = Own(probes, plan.data.eval_rows).evaluate(model, tokenizer, how, "never-seen")
        del model
        adapters.release()

    rows = {name: found.rows for name, found in probes.items()}
    trainer = UnlearnTrainer(
        args=args,
        forget_dataset=rows.pop("forget"),
        retain_dataset=rows.pop("retain", None),
        holdout_dataset=rows.pop("holdout", None),
        eval_dataset=rows,
        processing_class=tokenizer,
        **loading.load_to_train(plan.model),
    )
    if main:
        check_room(output, disk_bytes(trainer), key="output_dir")
    student = cast(PreTrainedModel, trainer.model)
    adapted = cast(PeftModel, trainer.model)
    bar = Bar()
    if not args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(bar)
    sets = Own({"retain": Probe(trainer.sets["retain"], {}), **probes}, plan.data.eval_rows)
    if main:
        plan.training.learning_rate = settings["learning_rate"] = args.learning_rate  # where the base's size decided it
        plan.write(output)

    def look(view: str, through: str) -> None:
        if main:
            with adapters.view(adapted, through):
                views[view] = sets.evaluate(student, tokenizer, how, view.replace("_", "-"))
        trainer.accelerator.wait_for_everyone()

    look("before", "reference")
    start = {name: p.detach().clone() for name, p in adapters.lora_b(adapted).items()}
    began = time.monotonic()
    stopped = None
    try:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    except UserError as error:
        stopped = error
        if bar.training_bar is not None:
            bar.training_bar.close()
    seconds = time.monotonic() - began
    unmoved = [name for name, p in adapters.lora_b(adapted).items() if p.equal(start[name])]
    if unmoved and stopped is None:
        logger.warning(
            "%d of %d lora_B matrices did not move (%s, ...): these layers forget nothing.", len(unmoved), len(start), unmoved[0]
        )
    if main:
        trainer.save_model()  # before it is evaluated, which may be cut
    look("after", "student")
    below = not {adapters.FINETUNE, adapters.REFERENCE}.isdisjoint(adapted.peft_config)
    if never_seen is None and below:
        look("never_seen", "never_seen")  # the base without the user's own adapter
    if main:
        if never_seen is not None:
            views["never_seen"] = never_seen
        looks = (partial(adapters.view, adapted, name) for name in ("reference", "student"))
        views["after"]["retain"]["retain_kl"] = retain_kl(sets.probes["retain"].rows, *looks, batch_size=how.batch_size)
        sets.compare(views, how)
        facts = {
            "steps": trainer.state.global_step,
            "reached": None if trainer.early_stop is None else trainer.early_stop.reached,
            "seconds": round(seconds, 1),
            "stopped": stopped,
            "unmoved_lora_b": len(unmoved),
            "quantisation": adapters.quantization(student),
            "versions": {name: version(name) for name in PACKAGES},
            "settings": settings,
        }
        kind = {"kind": "retrained", "name": other} if other else {"kind": "base", "name": plan.model.model_name_or_path} if below else None
        made = report.build(
            {name: {view: sets[name] for view, sets in views.items()} for name in sets.probes},
            run=facts,
            never_seen=kind if "never_seen" in views else None,
            curve=[
                {"step": line["step"], "p_forget": line["p/forget"], "p_retain": line["p/retain"]}
                for line in trainer.state.log_history
                if "p/forget" in line
            ],
        )
        report.write(made, output / "report.json")
        page.write(made, output / "report.html")
        trainer.create_model_card(
            report=made,
            below=plan.model.adapter_name_or_path if plan.model.adapter_mode != "continue" else None,
            below_merged=plan.model.adapter_mode == "merge",
        )
        if show:
            Console().print(report.table(made, Console().width))
        Console().print(f"Adapter, card, recipe and report are in {output}")
    trainer.accelerator.wait_for_everyone()
    if stopped is not None:
        raise stopped
    if main and plan.training.push_to_hub:
        repo = plan.training.hub_model_id or output.resolve().name
        private = plan.training.hub_private_repo is not False
        where = publish.push(output, repo, private=private, token=plan.training.hub_token, revision=plan.training.hub_revision)
        Console().print(f"Uploaded to {where}", "(private)" if private else "(public)")
    return views


def check_output(settings: Mapping[str, Any], output: Path) -> None:
    """See that nothing of another run would be overwritten, and that there is something to resume where that is asked for.

    Raises:
        UserError: the folder holds another run, or no checkpoint.
    """
    resume = settings["resume_from_checkpoint"]
    if resume is True and (not output.is_dir() or get_last_checkpoint(str(output)) is None):
        raise UserError(f"resume_from_checkpoint: {output} holds no checkpoint, leave the key out.")
    if isinstance(resume, str) and not Path(resume).is_dir():
        raise UserError(f"resume_from_checkpoint: {resume} is no folder, write a checkpoint's folder, or true for the last one.")
    if not output.is_dir():
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


def disk_bytes(trainer: UnlearnTrainer) -> int:
    """What a run writes, about: the adapter, and to each checkpoint that stays also its teacher and two moments of the optimiser."""
    args, size = trainer.args, sum(p.nbytes for p in trainer.student)
    checkpoints = 0 if args.save_strategy == "no" else (args.save_total_limit or 1) + 1
    return size * (1 + 4 * checkpoints)


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
