"""One unlearning run, from a checked recipe to a written adapter: `train` does one, `demo` one for each method. `run` has its steps in order."""

import contextlib
import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProgressCallback, TrainerCallback

from peft_unlearn import publish, report
from peft_unlearn.benchmarks import How, Sets
from peft_unlearn.benchmarks.own import Own
from peft_unlearn.config import recipe
from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.data.variants import Probe, grouped
from peft_unlearn.metrics.retain_kl import retain_kl
from peft_unlearn.model import adapters
from peft_unlearn.model.sharing import sharing
from peft_unlearn.planning import host
from peft_unlearn.report import page
from peft_unlearn.training import datasets
from peft_unlearn.training.callbacks import SPENT
from peft_unlearn.training.trainer import UnlearnTrainer
from peft_unlearn.util import launched
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import check_room, claimed
from peft_unlearn.workflows import kept, loading, parts, resuming
from peft_unlearn.workflows.progress import Bar
from peft_unlearn.workflows.results import PushResult, TrainResult, Unfinished

logger = logging.getLogger(__name__)

PACKAGES = ("peft-unlearn", "torch", "transformers", "peft", "trl", "bitsandbytes")


def run(
    plan: recipe.Recipe,
    *,
    never_seen: Sets | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    forgotten: Sequence[Dataset] = (),
) -> TrainResult:
    """Check everything that needs no model, then load, evaluate, train, evaluate, write the output folder, and upload it where the recipe says.

    Args:
        never_seen: evaluations, by set, of the recipe's never-seen model, where they are at hand already. A stacked or continued adapter brings
            its own: the base.
        callbacks: further ones of the trainer.
        forgotten: sets that were made forgotten before.

    Raises:
        UserError: what `recipe` and `loading` refuse, before anything is loaded or written.
        Unfinished: a divergence, after the last good adapter has been written with a report that says so; or a failed upload.
    """
    launched.watch()
    output = Path(plan.training.output_dir or "")
    plan = replace(plan, model=loading.settle_base(plan.model, plan.model.adapter_name_or_path, key="adapter_name_or_path"))
    with claimed(output, key="output_dir") if PartialState().is_main_process else contextlib.nullcontext():
        settings = plan.resolved()
        resuming.check_output(settings, output)
        resume = resuming.chosen(plan.training, settings, output)
        parts.check(plan.training)
        if plan.training.push_to_hub and PartialState().is_main_process:
            publish.check(_repository(plan.training, output), token=plan.training.hub_token)
        tokenizer, probes = loading.prepare(plan)
        host.check(plan)
        resuming.check_rows(resume, probes)
        resuming.say(plan.training, output, resume)  # once nothing is refused any more
        logger.info(
            "%s: %s; base %s.",
            plan.training.method,
            ", ".join(f"{name} {len(found.rows)} rows" for name, found in probes.items()),
            plan.model.model_name_or_path,
        )
        probes, never_seen = consult_never_seen(plan, tokenizer, probes, never_seen)
        current = start(plan, settings, tokenizer, probes, callbacks, forgotten)
        current.evaluate("before", "reference")
        current.train(resume)
        if current.main:
            current.trainer.save_model()  # before it is evaluated, which may be cut
        current.evaluate("after", "student")
        if current.below and not plan.model.never_seen_model_name_or_path and never_seen is None:  # the same in every process
            current.evaluate("never_seen", "never_seen")  # the base without the user's own adapter
        result = current.write(never_seen)
        current.trainer.accelerator.wait_for_everyone()
        if current.stopped is not None:
            raise Unfinished(current.stopped, result) from current.stopped
        return _uploaded(plan.training, result) if current.main and plan.training.push_to_hub else result


@sharing()
def consult_never_seen(
    plan: recipe.Recipe, tokenizer: PreTrainedTokenizerBase, probes: dict[str, Probe], never_seen: Sets | None
) -> tuple[dict[str, Probe], Sets | None]:
    """Load the never-seen model where the recipe names one, read the targets from it, and evaluate it unless that was done."""
    args, other = plan.training, plan.model.never_seen_model_name_or_path
    if not other or (never_seen is not None and args.stop_at != "never_seen"):
        return probes, never_seen
    model = loading.load_never_seen(plan.model, other, key="never_seen_model_name_or_path")
    if args.stop_at == "never_seen":
        probes = loading.with_never_seen(probes, model, args, tokenizer)
    if never_seen is None:
        how = How(batch_size=args.per_device_eval_batch_size)
        never_seen = Own(datasets.evaluated(args, probes), plan.data.eval_rows).evaluate(model, tokenizer, how, "never-seen")
    del model
    adapters.release()
    return probes, never_seen


def start(
    plan: recipe.Recipe,
    settings: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    probes: dict[str, Probe],
    callbacks: Sequence[TrainerCallback],
    forgotten: Sequence[Dataset] = (),
) -> "Run":
    """Load the base, make the trainer, and write recipe.yaml."""
    args, output = copy.copy(plan.training), Path(plan.training.output_dir or "")
    args.push_to_hub = False  # the finished folder is uploaded, not each checkpoint
    given = {**loading.training_sets(probes), "forgotten_datasets": forgotten, **loading.load_to_train(plan.model)}
    trainer = UnlearnTrainer(args=args, processing_class=tokenizer, callbacks=list(callbacks), **given)
    bar = Bar(trainer)
    if not args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(bar)
    main = PartialState().is_main_process
    if main:
        check_room(output, disk_bytes(trainer), key="output_dir")
        plan.training.learning_rate = settings["learning_rate"] = trainer.args.learning_rate  # where the base's size decided it
        plan.write(output)
    sets = Own({"retain": Probe(trainer.sets["retain"], {}), **datasets.evaluated(args, probes)}, plan.data.eval_rows)
    return Run(plan, settings, trainer, sets, bar, main, How(batch_size=args.per_device_eval_batch_size))


@dataclass
class Run:
    """A run that has begun: what it trains and evaluates, and what came of that so far."""

    plan: recipe.Recipe
    settings: dict[str, Any]  # of the recipe, every key
    trainer: UnlearnTrainer
    sets: Own
    bar: Bar
    main: bool  # whether this is the process that writes
    how: How
    views: dict[str, Sets] = field(default_factory=dict)  # "before", "after", "never_seen" -> set -> evaluation
    stopped: UserError | None = None  # why it ended before its last step
    seconds: float = 0.0
    unmoved: int = 0  # lora_B matrices that are what they were

    @property
    def model(self) -> PeftModel:
        return cast(PeftModel, self.trainer.model)

    @property
    def below(self) -> bool:
        """Whether an adapter of the user's own lies below the forgetting one."""
        return not {adapters.FINETUNE, adapters.REFERENCE}.isdisjoint(self.model.peft_config)

    @sharing()
    def evaluate(self, view: str, through: str) -> None:
        """Evaluate every set in one view of `adapters.view`."""
        student = cast(PreTrainedModel, self.trainer.model)
        tokenizer = cast(PreTrainedTokenizerBase, self.trainer.processing_class)
        with adapters.view(self.model, through):
            self.views[view] = self.sets.evaluate(student, tokenizer, self.how, view.replace("_", "-"))

    def train(self, resume: Path | None) -> None:
        """Train to the last step, or until the run diverges, on from the checkpoint `resume`; say which layers did not move."""
        start = {name: p.detach().clone() for name, p in adapters.lora_b(self.model).items()}
        began = time.monotonic()
        try:
            self.trainer.train(resume_from_checkpoint=resume and str(resume))
        except UserError as error:
            self.stopped = error
        finally:
            if self.bar.training_bar is not None:
                self.bar.training_bar.close()
        self.seconds = time.monotonic() - began
        self.trainer.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # "after" is computed as "before", without autocast
        unmoved = [name for name, p in adapters.lora_b(self.model).items() if p.equal(start[name])]
        self.unmoved = len(unmoved)
        if unmoved and self.stopped is None:
            logger.warning(
                "%d of %d lora_B matrices did not move (%s, ...): these layers forget nothing.", len(unmoved), len(start), unmoved[0]
            )

    def write(self, never_seen: Sets | None) -> TrainResult:
        """Measure how far the retain set moved, and write report, page and card into the output folder, which one process does."""
        output, model = Path(self.plan.training.output_dir or ""), self.plan.model
        if never_seen is not None:
            self.views["never_seen"] = never_seen
        through = (partial(adapters.view, self.model, name) for name in ("reference", "student"))
        retained = self.sets.probes["retain"].rows
        with sharing():
            self.views["after"]["retain"]["retain_kl"] = retain_kl(retained, *through, batch_size=self.how.batch_size)
        if not self.main:
            return TrainResult(output)
        self._keep(output)
        self.sets.compare(self.views, self.how)
        made = report.build(
            {name: {view: sets[name] for view, sets in self.views.items()} for name in self.sets.probes},
            run=self._facts(),
            groups=grouped(self.sets.probes),
            never_seen=self._never_seen_facts() if "never_seen" in self.views else None,
            curve=[
                {"step": line["step"], "p_forget": line["p/forget"], "p_retain": line["p/retain"]}
                for line in self.trainer.state.log_history
                if "p/forget" in line
            ],
        )
        if self.plan.training.report_to:
            self.trainer.log(tracked(made))
        report.write(made, output / "report.json")
        page.write(made, output / "report.html")
        self.trainer.create_model_card(
            report=made,
            below=model.adapter_name_or_path,
            below_mode=model.adapter_mode,
            reference=model.reference_adapter_name_or_path,
        )
        return TrainResult(output, made, self.views)

    def _keep(self, output: Path) -> None:
        """Leave the evaluations to an audit. One beside a never-seen model of the Hub, whose files it looks for there, evaluates anew."""
        other = self.plan.model.never_seen_model_name_or_path
        done = kept.Progress(output / kept.FILE, kept.key(self.plan.model, output, Path(other) if other else None, self.sets.probes))
        for view, found in self.views.items():
            done.keep(view, found)
        done.write()

    def _facts(self) -> dict[str, Any]:
        """What the report's "run" says."""
        trainer = self.trainer
        return {
            "steps": trainer.state.global_step,
            "reached": None if trainer.early_stop is None else trainer.early_stop.reached and trainer.end.why != SPENT,
            "ended": trainer.end.why,
            "missed": None if trainer.early_stop is None or trainer.early_stop.last is None else trainer.early_stop.last.missed(),
            "seconds": round(self.seconds, 1),
            "stopped": self.stopped,
            **trainer.safety.facts(trainer.state.global_step),
            "unmoved_lora_b": self.unmoved,
            "quantization": adapters.quantization(cast(PreTrainedModel, trainer.model)),
            "versions": {name: version(name) for name in PACKAGES},
            "settings": self.settings,
        }

    def _never_seen_facts(self) -> dict[str, str | None] | None:
        """What the view "never_seen" is: the recipe's model, or the base below the user's own adapter."""
        model = self.plan.model
        if model.never_seen_model_name_or_path:
            return {"kind": "retrained", "name": model.never_seen_model_name_or_path}
        return {"kind": "base", "name": model.model_name_or_path} if self.below else None


def _uploaded(args: UnlearnConfig, result: TrainResult) -> TrainResult:
    """The result of a run whose recipe has it uploaded."""
    repo, private = _repository(args, result.output), args.hub_private_repo is not False
    try:
        address = publish.push(result.output, repo, private=private, token=args.hub_token, revision=args.hub_revision)
    except UserError as error:
        raise Unfinished(error, result) from error
    return replace(result, pushed=PushResult(address, private))


def _repository(args: UnlearnConfig, output: Path) -> str:
    return args.hub_model_id or output.resolve().name


def tracked(made: Mapping[str, Any]) -> dict[str, float]:
    """The means of a report as a tracker shows them: "forget/extraction_strength/before", and after and never-seen beside it."""
    return {
        f"{name}/{metric}/{view}": entry["mean"]
        for name, views in made["results"].items()
        for view, metrics in views.items()
        for metric, entry in metrics.items()
        if entry["mean"] is not None
    }


def disk_bytes(trainer: UnlearnTrainer) -> int:
    """What a run writes, about: the adapter, and to each checkpoint that stays also its teacher and two moments of the optimizer."""
    args, size = trainer.args, sum(p.nbytes for p in trainer.student)
    checkpoints = 0 if args.save_strategy == "no" and not args.save_minutes else (args.save_total_limit or 1) + 1
    return size * (1 + 8 * checkpoints)  # as it is, and as it was in the last good state
