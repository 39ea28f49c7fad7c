"""UnlearnConfig: where a setting's value comes from, and what is refused in which words."""

import dataclasses
import typing
import warnings

import pytest
from transformers import HfArgumentParser, TrainingArguments
from trl import TrlParser

from peft_unlearn import UnlearnConfig
from peft_unlearn.config import methods
from peft_unlearn.config.settings import TrainingSettings
from peft_unlearn.config.validation import FIXED
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.ranges import Range
from peft_unlearn.util.registry import LOSSES

CHOICES = {f.name: f.metadata["choices"] for f in dataclasses.fields(TrainingSettings) if "choices" in f.metadata}
HINTS = typing.get_type_hints(TrainingSettings, include_extras=True)
RANGES = [key for key, hint in HINTS.items() if any(isinstance(extra, Range) for extra in typing.get_args(hint))]
WHOLE = [key for key in RANGES if typing.get_args(HINTS[key])[0] in (int, int | None)]


def config(**changes) -> UnlearnConfig:
    return UnlearnConfig("out", use_cpu=True, **changes)


def values(args: UnlearnConfig) -> dict:
    return {f.name: getattr(args, f.name) for f in dataclasses.fields(args) if f.init}


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_setting_that_is_not_given_is_the_methods(method):
    args = config(method=method)
    assert {key: getattr(args, key) for key in methods.defaults(method)} == methods.defaults(method)
    given_none = config(method=method, **dict.fromkeys(methods.defaults(method)))
    assert values(given_none) == values(args)


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_given_value_wins_over_the_methods_also_where_it_is_zero_or_false(method):
    given = {"forget_coef": 0.0, "forget_floor": 0.0, "max_grad_norm": 0.0, "auto_lr": False, "combine": "weighted_sum", "max_steps": 7}
    args = config(method=method, **given)
    assert {key: getattr(args, key) for key in given} == given


def test_parameters_of_a_loss_stay_with_it():
    assert config(method="mean_teacher", forget_loss="ga").forget_loss_args == {}
    assert config(method="mean_teacher", forget_loss="nlul").forget_loss_args == {"tol": 0.02}
    assert config(method="mean_teacher", forget_loss="npo", forget_loss_args={"beta": 0.5}).forget_loss_args == {"beta": 0.5}
    assert config(method="npo", forget_loss_args='{"beta": 0.2}').forget_loss_args == {"beta": 0.2}  # as a command line gives it


def test_changing_one_configuration_leaves_the_methods_defaults_alone():
    config(method="mean_teacher").forget_loss_args["tol"] = 9.0
    assert config(method="mean_teacher").forget_loss_args == {"tol": 0.02}


@pytest.mark.parametrize("key", CHOICES)
def test_a_value_outside_its_choices_names_the_key_and_the_choices(key):
    with pytest.raises(UserError, match=f"^{key}: 'nonsense' is not one of .*{next(iter(CHOICES[key]))}"):
        config(**{key: "nonsense"})


@pytest.mark.parametrize("key", RANGES)
def test_a_number_out_of_its_range_names_the_key(key):
    for value in (-1e-6, float("nan"), "high", True):
        with pytest.raises(UserError, match=f"^{key}: "):
            config(**{key: value})


@pytest.mark.parametrize("key", WHOLE)
def test_half_a_number_is_refused_where_whole_ones_count(key):
    with pytest.raises(UserError, match=f"^{key}: 2.5 is not a whole number"):
        config(**{key: 2.5})


def test_choices_and_ranges_are_found():
    assert {"method", "forget_loss", "combine", "optim", "stop_at"} <= set(CHOICES)
    assert {"sam_rho", "forget_coef", "gradient_accumulation_steps"} <= set(RANGES)
    assert {"max_length", "hidden_layer", "per_device_train_batch_size"} <= set(WHOLE)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            methods.Method("", {"forget_loss": "ga", "combine": "gru", "seed": 3}),
            "^method: npo has a value for seed, which no method decides",
        ),
        (
            methods.Method("", {"forget_loss": "ga", "combine": "gru", "tol": 3}),
            "^method: npo has a value for tol, which no method decides",
        ),
        (methods.Method("", {"combine": "gru"}), "^forget_loss: None is not one of"),
    ],
)
def test_a_method_that_decides_what_it_cannot_is_refused(method, message, monkeypatch):
    monkeypatch.setitem(methods.METHODS._all, "npo", method)
    with pytest.raises(UserError, match=message):
        config(method="npo")


def test_the_old_name_of_a_loss_leads_to_the_new_one():
    with pytest.raises(UserError, match="^forget_loss: odds is now log_odds"):
        config(forget_loss="odds")


@pytest.mark.parametrize("key", FIXED)
def test_a_key_that_would_be_ignored_is_refused(key):
    neutral = FIXED[key][0]
    other = not neutral if isinstance(neutral, bool) else 0.5 if isinstance(neutral, float) else "every_save"
    with pytest.raises(UserError, match=f"^{key}: .*leave the key out"):
        config(**{key: other})
    assert values(config(**{key: neutral})) == values(config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retain_kl": "teacher", "method": "graddiff"}, "^retain_kl: .*teacher_decay"),
        ({"holdout_kl": "teacher", "method": "graddiff"}, "^holdout_kl: .*teacher_decay"),
        ({"damping": 1.0, "method": "graddiff"}, "^damping: .*teacher_decay"),
        ({"method": "ngdiff", "lr_scheduler_type": "polynomial"}, "^lr_scheduler_type: 'polynomial' does not go with auto_lr"),
        ({"method": "ngdiff", "warmup_steps": 10}, "^warmup_steps: auto_lr"),
        ({"logit_lens_coef": 0.3}, "^logit_lens_coef: .*stop_at"),
        ({"method": "task_arithmetic", "sam_rho": 0.2}, "^sam_rho: a negated adapter"),
        ({"max_steps": 10, "num_train_epochs": 2}, "^num_train_epochs: max_steps is given as well"),
        ({"max_steps": 0}, "^max_steps: 0 "),
        ({"max_steps": -5, "num_train_epochs": 1}, "^max_steps: -5 "),
        ({"forget_loss_args": {"beta": 1.0}}, "^forget_loss_args: nlul has no parameter 'beta', it takes tol"),
        ({"forget_loss": "ga", "forget_loss_args": {"tol": 1.0}}, "^forget_loss_args: ga .*it takes no parameters"),
        ({"forget_loss_args": {"tol": -1.0}}, "^forget_loss_args.tol: -1.0 is out of range"),
        ({"forget_loss_args": {"tol": "small"}}, "^forget_loss_args.tol: 'small' is not a number"),
        ({"forget_loss_args": [1.0]}, "^forget_loss_args: .* is not a mapping"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}, "^metric_for_best_model: "),
        ({"save_strategy": "best", "metric_for_best_model": "forget_loss"}, "^metric_for_best_model: .*greater_is_better"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps"}, "^metric_for_best_model: "),
    ],
)
def test_what_does_not_go_together_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_a_launcher_that_shards_the_model_is_refused(engine, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(UserError, match="^accelerate: .*one process a GPU"):
        config()


@pytest.mark.parametrize(
    "shards", [{"fsdp": "full_shard"}, {"deepspeed": {"zero_optimization": {"stage": 3}}}, {"parallelism_config": {"a": 1}}]
)
def test_a_key_that_shards_the_model_is_refused(shards):
    with pytest.raises(UserError, match=f"^{next(iter(shards))}: .*one process a GPU"):
        config(**shards)


def test_a_process_that_sees_several_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 4)  # and would be wrapped into DataParallel
    with pytest.raises(UserError, match="^accelerate: one process sees 4 GPUs; train with --processes 4, or show it one"):
        config()


def test_steps_come_from_the_method_or_are_counted_in_epochs():
    assert (config().max_steps, config().num_train_epochs) == (methods.defaults("mean_teacher")["max_steps"], 0.0)
    by_epoch = config(num_train_epochs=3)
    assert (by_epoch.max_steps, by_epoch.num_train_epochs) == (-1, 3)


@pytest.mark.parametrize("stop_at", ["never_seen", "auto"])
@pytest.mark.parametrize("method", [name for name, said in methods.METHODS.items() if LOSSES[said.settings["forget_loss"]].lowers])
def test_our_methods_change_what_targets_need_and_baselines_nothing(method, stop_at):
    early_stop, plain = config(method=method, stop_at=stop_at, negate=False), config(method=method, negate=False)
    changed = {key for key in values(plain) if values(early_stop)[key] != values(plain)[key]} - {"stop_at"}
    if method in methods.OURS:
        assert {"forget_loss", "forget_floor", "holdout_kl", "answers", "max_steps"} <= changed
        assert (early_stop.lr_scheduler_type, early_stop.answers) == ("constant", "natural")
    else:
        assert changed == set()
    given = {"forget_loss": "ga", "forget_floor": 0.1, "holdout_kl": "none", "lr_scheduler_type": "linear", "max_steps": 7}
    given |= {"answers": "none"}
    args = config(method=method, stop_at=stop_at, negate=False, **given)
    assert {key: getattr(args, key) for key in given} == given


def test_a_warm_up_is_not_ignored():
    assert config(warmup_steps=5).lr_scheduler_type == "constant_with_warmup"
    assert config(warmup_steps=5, lr_scheduler_type="linear").lr_scheduler_type == "linear"


@pytest.mark.parametrize("changes", [{}, {"num_train_epochs": 2}, {"warmup_steps": 3}, {"eval_strategy": "steps", "optim": "sgd"}])
@pytest.mark.parametrize("method", ["mean_teacher", "mollm"])
def test_a_configuration_made_of_anothers_values_is_the_same(method, changes):
    args = config(method=method, **changes)
    for made in (UnlearnConfig(**values(args)), UnlearnConfig(**{k: v for k, v in args.to_dict().items() if k in values(args)})):
        assert made.to_dict() == args.to_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no key is read under a deprecated name
        assert dataclasses.replace(args, seed=1).seed == 1


def test_a_misspelt_parameter_of_sgd_is_named():
    assert config(optim="sgd", optim_args="momentum=0.9, nesterov=true").optim_args
    with pytest.raises(UserError, match="optim_args: sgd has no parameter 'momentm'"):
        config(optim="sgd", optim_args="momentm=0.9")


@pytest.mark.parametrize("parser", [HfArgumentParser, TrlParser])
def test_scripts_read_the_configuration_from_their_command_line(parser):
    """As the scripts of transformers and of TRL do."""
    given = [
        "--output_dir",
        "x",
        "--method",
        "mollm",
        "--sam_rho",
        "0.2",
        "--report_to",
        "none",
        "--resume_from_checkpoint",
        "x/checkpoint-5",
    ]
    (args,) = parser(UnlearnConfig).parse_args_into_dataclasses(given)
    assert (args.method, args.sam_rho, args.resume_from_checkpoint) == ("mollm", 0.2, "x/checkpoint-5")
    assert args.report_to == []
