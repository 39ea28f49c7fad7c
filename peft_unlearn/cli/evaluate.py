"""What a model knows of texts without and with a forgetting adapter."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="the output folder of a run, or a Hub name; its recipe.yaml says what is not said here")
    parser.add_argument("--base", help="the base model")
    parser.add_argument("--forget", metavar="SET", help="the texts to forget: a file, a Hub name, or a YAML mapping")
    parser.add_argument("--retain", metavar="SET", help="the texts to keep")
    parser.add_argument("--rows", type=int, help="rows of each set, evenly spaced; 0 is all")
    parser.add_argument("--batch-size", type=int, default=8, help="rows in a batch (default %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="write a report.json here")


def main(options: argparse.Namespace) -> None:
    import dataclasses
    from pathlib import Path
    from typing import cast

    import yaml
    from rich.console import Console
    from transformers import PreTrainedModel

    from peft_unlearn import adapters, recipe
    from peft_unlearn.arguments import DataArguments, ModelArguments
    from peft_unlearn.cli import loading
    from peft_unlearn.deploy import shards
    from peft_unlearn.errors import UserError
    from peft_unlearn.evaluation import evaluate, report

    folder = shards.locate(options.adapter, ["*.json", "*.safetensors", recipe.FILE], key="adapter")
    config = loading.load_adapter_config(str(folder), key="adapter")
    written = folder / recipe.FILE
    said = {"base": "model_name_or_path", "forget": "forget_dataset", "retain": "retain_dataset", "rows": "eval_rows"}
    own = {f.name for part in (ModelArguments, DataArguments) for f in dataclasses.fields(part)} | {"max_length"}
    values = yaml.safe_load(written.read_text(encoding="utf-8")) if written.is_file() else {}
    values = {"model_name_or_path": config.base_model_name_or_path} | {key: value for key, value in values.items() if key in own}
    for option, key in said.items():
        if getattr(options, option) is not None:
            value = getattr(options, option)
            values[key] = yaml.safe_load(value) if isinstance(value, str) and value.startswith("{") else value
    if not values.get("forget_dataset"):
        raise UserError("forget: the adapter's folder has no recipe.yaml that names a forget set, write --forget FILE.")
    plan = recipe.build({**values, "output_dir": str(folder)})
    loading.check_adapter(str(folder), values["model_name_or_path"], key="adapter")
    tokenizer, sets = loading.prepare(plan)
    rows = {name: loading.spread(found, plan.data.eval_rows) for name, found in sets.items()}

    model = loading.load_trained(plan.model, str(folder))
    results: dict = {name: {} for name in rows}
    for column, view in {"before": "reference", "after": "student"}.items():
        for name, found in rows.items():
            with adapters.view(model, view):
                results[name][column] = evaluate(cast(PreTrainedModel, model), tokenizer, found, batch_size=options.batch_size)
    quantisation = loading.describe_quantisation(plan.model)
    made = report.build(results, run={"adapter": options.adapter, "base": plan.model.model_name_or_path, "quantisation": quantisation})
    Console().print(report.table(made))
    if options.output:
        report.write(made, Path(options.output))
