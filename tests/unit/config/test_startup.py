"""What is wrong with a recipe is said before torch is imported; and what stands in for the libraries until then says the same as they do."""

import dataclasses
import inspect
import json
import subprocess
import sys
import typing
from enum import Enum

import pytest
import yaml
from accelerate.parallelism_config import ParallelismConfig
from transformers import TrainingArguments
from trl import ModelConfig

from peft_unlearn import UnlearnConfig
from peft_unlearn.config import keys, library, model_settings, settings
from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.model.fake_quant import QUANTIZERS
from peft_unlearn.util.registry import COMBINERS, LOSSES, OPENUNLEARNING

# The command line, one command after another, each with its status, errors and the heavy libraries that are there after it.
PROGRAM = """
import contextlib, io, json, sys
from peft_unlearn.cli import main
def said(arguments):
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    imported = sorted({"torch", "transformers", "trl", "accelerate", "datasets"} & set(sys.modules))
    return status, errors.getvalue().splitlines(), imported
print(json.dumps([said(arguments) for arguments in json.loads(sys.argv[1])]))
"""
BASE = {"model_name_or_path": "some/model", "forget_dataset": "some/texts", "output_dir": "out"}
WRONG = {
    "no YAML": ("seed: [1\n", "line 5 is not YAML"),
    "twice": ("seed: 1\nseed: 2\n", "seed: it stands twice"),
    "unknown": ("learnin_rate: 1\n", "learnin_rate: there is no such key, did you mean learning_rate?"),
    "another tool's": ("lora_rank: 8\n", "lora_rank: write lora_r"),
    "another type": ("warmup_steps: soon\n", "warmup_steps: 'soon' is not a number."),
    "no choice of ours": ("combine: magic\n", "combine: 'magic' is not one of blur, gru"),
    "no choice of transformers": ("eval_strategy: often\n", "eval_strategy: 'often' is not one of no, steps, epoch."),
    "no optimizer": ("optim: adam\n", "optim: 'adam' is not one of adamw_torch"),
    "out of range": ("forget_floor: 1.5\n", "forget_floor: 1.5 is out of range"),
    "out of the loss's range": ("forget_loss_args: {tol: -1}\n", "forget_loss_args.tol: -1 is out of range"),
    "fixed": ("label_smoothing_factor: 0.1\n", "label_smoothing_factor: the losses are those of"),
    "together": ("logit_lens_coef: 0.3\n", "logit_lens_coef: targets say where"),
    "what OpenUnlearning lacks": ("definitions: openunlearning\nforget_loss: uce\n", "forget_loss: OpenUnlearning's code has no uce"),
    "of the model": ("load_in_4bit: true\nload_in_8bit: true\n", "load_in_8bit: load_in_4bit is given as well"),
    "of the data": ("eval_rows: -1\n", "eval_rows: -1 is out of range"),
    "no targets": ("stop_at: auto\n", "stop_at: 'auto' needs rows"),
    "no file": ("holdout_dataset: none.jsonl\n", "holdout_dataset: none.jsonl does not exist, write the path of a file"),
}


OVERRIDES = {
    "no number": (["--seed", "one"], "seed: 'one' is not a whole number."),
    "no key": (["1e-4"], "1e-4: a value without a key"),
    "no value": (["--seed"], "seed: its value is missing"),
}
OPTIONS = {
    "unknown": (["--set", "load_in_4bits=true"], "load_in_4bits: there is no such key, did you mean load_in_4bit?"),
    "out of range": (["--rows", "-2"], "eval_rows: -2 is out of range"),
    "no file": (["--forget", "none.jsonl"], "forget_dataset: none.jsonl does not exist, write the path of a file"),
    "a benchmark's": (["--split", "news"], "split: it belongs to a benchmark"),
}
COMMANDS = {
    **{("recipe", name): (["train", f"{number}.yaml"], words) for number, (name, (_, words)) in enumerate(WRONG.items())},
    **{("override", name): (["train", "my.yaml", *added], words) for name, (added, words) in OVERRIDES.items()},
    **{(command, name): ([command, "run", *added], words) for name, (added, words) in OPTIONS.items() for command in ("evaluate", "audit")},
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a process that has imported nothing yet says to each of the commands, and to "keys"."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "my.yaml").write_text(yaml.safe_dump(BASE))
    for number, (text, _) in enumerate(WRONG.values()):
        (folder / f"{number}.yaml").write_text(yaml.safe_dump(BASE) + text)
    (folder / "run").mkdir()
    (folder / "run/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/model"}))
    (folder / "run/recipe.yaml").write_text(yaml.safe_dump(BASE | {"eval_rows": 5}))
    given = [*(arguments for arguments, _ in COMMANDS.values()), ["keys", "optim"]]
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(given)], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(zip([*COMMANDS, "keys"], json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_what_is_wrong_is_one_sentence_before_torch_is_imported(name, told):
    """With a recipe, a command's overrides of it, and what an evaluation is asked for over the recipe of a run."""
    status, errors, imported = told[name]
    assert (status, len(errors), imported) == (2, 1, [])
    assert errors[0].startswith("peft-unlearn: error: ")
    assert COMMANDS[name][1] in errors[0]


def test_keys_are_shown_without_torch(told):
    status, _, imported = told["keys"]
    assert (status, imported) == (0, [])


def described(hint):
    """A type by what it means to a recipe: an Enum is its values."""
    if hint is ParallelismConfig:
        return dict
    if isinstance(hint, type) and typing.get_origin(hint) is None and issubclass(hint, Enum):
        return hint.__name__, tuple(member.value for member in hint)
    if typing.get_args(hint) and typing.get_origin(hint) is not typing.Literal:
        return typing.get_origin(hint), tuple(described(part) for part in typing.get_args(hint))
    return hint


@pytest.mark.parametrize(("read", "imported"), [(keys.Model, ModelArguments), (keys.Training, UnlearnConfig)])
def test_fields_read_from_source_are_those_of_the_imported_class(read, imported):
    """Where this fails after an upgrade, `library.GIVEN` lacks a name, or `library` reads what is now written in another way."""
    found, there = dataclasses.fields(read), dataclasses.fields(imported)
    assert [field.name for field in found] == [field.name for field in there]
    for field, other in zip(found, there, strict=True):
        for part in ("default", "default_factory", "init"):
            assert getattr(field, part) == getattr(other, part), field.name
        assert {**field.metadata, "choices": list(field.metadata.get("choices", ()))} == {
            **other.metadata,
            "choices": list(other.metadata.get("choices", ())),
        }
    hints, others = typing.get_type_hints(read), typing.get_type_hints(imported)
    assert {f.name: described(hints[f.name]) for f in found} == {f.name: described(others[f.name]) for f in found}


@pytest.mark.parametrize(("read", "imported"), [(library.Model, ModelConfig), (library.Training, TrainingArguments)])
def test_so_are_their_types_before_ours_come_on_top(read, imported):
    hints, others = typing.get_type_hints(read), typing.get_type_hints(imported)
    fields = [field.name for field in dataclasses.fields(imported)]
    assert {name: described(hints[name]) for name in fields} == {name: described(others[name]) for name in fields}


def test_a_source_that_cannot_be_read_is_said_and_imported(monkeypatch, caplog):
    monkeypatch.setattr(library, "GIVEN", {})
    assert library.declared("trl", "trainer.model_config", "ModelConfig") is ModelConfig
    assert "could not be read from its source" in caplog.text
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        library.declared("nowhere", "module", "Class")


@pytest.mark.parametrize("part", [*LOSSES.values(), *OPENUNLEARNING.values(), *COMBINERS.values()], ids=lambda part: part.attribute)
def test_what_is_read_of_a_part_without_torch_is_what_its_function_has(part):
    found = inspect.signature(part.function).parameters.values()
    if part in COMBINERS.values():
        assert [p.name for p in found] == ["gramian", "coefs"]  # whatever its formula takes
    else:
        assert part.reads == tuple(p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD)
    defaults = {name: parameter.default for name, parameter in part.parameters.items()}
    assert repr(defaults) == repr({p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY})  # 1 is not 1.0
    assert all(p.default in p.range for p in part.parameters.values() if p.range is not None)
    assert part.help in " ".join(inspect.getdoc(part.function).split())


def test_what_a_recipe_may_be_quantized_to_in_training_is_what_there_is():
    assert keys.keys()["train_quantized"].choices == ("none", *QUANTIZERS)


def test_what_a_recipe_is_checked_by_is_what_settings_are_checked_by():
    assert UnlearnConfig.__bases__[0] is keys.Training.__bases__[0] is settings.TrainingSettings
    assert ModelArguments.__bases__[0] is keys.Model.__bases__[0] is model_settings.ModelSettings
