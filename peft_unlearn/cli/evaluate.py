"""What a model knows of texts: without and with a forgetting adapter, or a merged model as it is."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an output folder of a run, whose recipe.yaml says what is not said here; a merged model; a Hub name")
    parser.add_argument("--base", help="the base model of an adapter")
    parser.add_argument("--forget", metavar="SET", help="the texts to forget: a file, a Hub name, or a YAML mapping")
    parser.add_argument("--retain", metavar="SET", help="the texts to keep")
    parser.add_argument("--rows", type=int, help="rows of each set, evenly spaced; 0 is all")
    parser.add_argument("--batch-size", type=int, help="rows in a batch")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other keys of a recipe, such as load_in_4bit=true")
    parser.add_argument("--output", metavar="FILE", help="write a report.json here")


def main(options: argparse.Namespace) -> None:
    import contextlib
    import dataclasses
    from pathlib import Path
    from typing import cast

    import yaml
    from peft import PeftModel
    from rich.console import Console
    from transformers import PreTrainedModel

    from peft_unlearn import adapters, recipe
    from peft_unlearn.arguments import DataArguments, ModelArguments
    from peft_unlearn.cli import loading
    from peft_unlearn.deploy import lora, shards
    from peft_unlearn.errors import UserError
    from peft_unlearn.evaluation import evaluate, report

    folder = shards.locate(options.model, ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", recipe.FILE], key="model")
    is_adapter = (folder / lora.CONFIG).is_file()
    values = {"model_name_or_path": str(folder)}
    if is_adapter:
        own = {f.name for part in (ModelArguments, DataArguments) for f in dataclasses.fields(part)} | {
            "max_length",
            "per_device_eval_batch_size",
        }
        written = folder / recipe.FILE
        settings = yaml.safe_load(written.read_text(encoding="utf-8")) if written.is_file() else {}
        config = loading.load_adapter_config(str(folder), key="model")
        values = {"model_name_or_path": config.base_model_name_or_path} | {key: settings[key] for key in settings.keys() & own}
    elif options.base:
        raise UserError(f"base: {options.model} is a whole model and no adapter, leave --base out.")
    values |= recipe.parse_overrides([f"--{pair}" for pair in options.set])
    said = {"base": "model_name_or_path", "forget": "forget_dataset", "retain": "retain_dataset", "rows": "eval_rows"}
    for option, key in {**said, "batch_size": "per_device_eval_batch_size"}.items():
        value = getattr(options, option)
        if value is not None:
            values[key] = yaml.safe_load(value) if isinstance(value, str) and value.startswith("{") else value
    if not values.get("forget_dataset"):
        raise UserError(f"forget: no recipe.yaml in {options.model} names a forget set, write --forget FILE.")
    plan = recipe.build({**values, "output_dir": str(folder)})
    if is_adapter:
        loading.check_adapter(str(folder), values["model_name_or_path"], key="model")
    tokenizer, sets = loading.prepare(plan)
    rows = {name: loading.spread(found, plan.data.eval_rows) for name, found in sets.items()}

    model = loading.load_trained(plan.model, str(folder)) if is_adapter else loading.load_base(plan.model)
    batch_size = plan.training.per_device_eval_batch_size
    views = {"before": "reference", "after": "student"} if is_adapter else {"model": ""}
    results: dict = {name: {} for name in rows}
    for column, view in views.items():
        for name, found in rows.items():
            with adapters.view(model, view) if isinstance(model, PeftModel) else contextlib.nullcontext():
                results[name][column] = evaluate(
                    cast(PreTrainedModel, model), tokenizer, found, batch_size=batch_size, label=f"{column}, {name}"
                )
    quantisation = adapters.quantisation(model)
    made = report.build(results, run={"model": options.model, "base": plan.model.model_name_or_path, "quantisation": quantisation})
    Console().print(report.table(made))
    if options.output:
        report.write(made, Path(options.output))
