"""What a run is made of besides the model: optimizer, schedule, checkpointing and reporters, looked at before a model is loaded."""

import inspect

import torch
from torch.utils.checkpoint import checkpoint
from transformers.integrations import get_available_reporting_integrations
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.training.trainer import UnlearnTrainer
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError


def check(args: UnlearnConfig) -> None:
    """See that what reports and optimizes is installed: transformers looks after the model is loaded, or even evaluated.

    Raises:
        UserError: a package that is missing, or a name that transformers does not know.
    """
    for name in args.report_to or ():
        if name not in get_available_reporting_integrations():
            raise UserError(f"report_to: {name!r} is not installed, or is none that transformers knows; install it, or write none.")
    _check_optimizer(args)
    takes = {
        "gradient_checkpointing_kwargs": {*inspect.signature(checkpoint).parameters, "preserve_rng_state"},
        "lr_scheduler_kwargs": inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(args.lr_scheduler_type)]).parameters,
    }
    for key, names in takes.items():
        if unknown := sorted(set(getattr(args, key) or {}) - set(names)):
            raise UserError(f"{key}: there is no parameter {unknown[0]!r}, take it out.")


def _check_optimizer(args: UnlearnConfig) -> None:
    for part in args.optim_args.split(",") if args.optim_args else ():
        if part.count("=") != 1 or not all(map(str.strip, part.split("="))):
            raise UserError(f"optim_args: {part!r} is no parameter with its value, write for example momentum=0.9.")
    with boundary(f"optim: {OptimizerNames(args.optim).value!r} cannot be had", "write adamw_torch, or other optim_args"):
        kind, how = UnlearnTrainer.get_optimizer_cls_and_kwargs(args)
    if not kind.__module__.startswith("torch.optim"):  # others read names of their own
        return
    given = [part.partition("=")[0].strip() for part in args.optim_args.split(",")] if args.optim_args else []
    if unknown := [name for name in given if name not in inspect.signature(kind).parameters]:
        raise UserError(f"optim_args: {kind.__name__} has no parameter {unknown[0]!r}, take it out.")
    with boundary(f"optim_args: {args.optim_args!r} is not for {kind.__name__}", "write numbers in its ranges"):
        kind([torch.nn.Parameter(torch.zeros(1))], **{**how, "lr": 1e-3})  # the rate may follow from the base's size
