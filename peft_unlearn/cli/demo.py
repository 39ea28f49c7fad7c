"""Fictional people, a small model that memorised them, and three methods that make it forget some."""

import argparse
import os

from peft_unlearn.config.methods import METHODS, OURS

MARK = "demo.json"  # of a folder that the demo may write over


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method", nargs="+", choices=METHODS, metavar="METHOD", default=OURS, help="methods to show (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another world, other models, other runs (default %(default)s)")
    parser.add_argument("--output", default="runs/demo", metavar="DIR", help="a folder for data and adapters (default %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="train the models again, even if they are in the cache")


def main(options: argparse.Namespace) -> None:
    # One thread for so small a model: on two busy cores a step took .15 s with one and 3.5 s with two, which wait for each other. Read by
    # the libraries when they are imported, which is below.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import json
    import shutil
    from pathlib import Path

    from rich.console import Console

    from peft_unlearn import report
    from peft_unlearn.benchmarks import How
    from peft_unlearn.benchmarks.own import Own
    from peft_unlearn.config import recipe
    from peft_unlearn.demo import model, world
    from peft_unlearn.model import adapters
    from peft_unlearn.util.errors import UserError
    from peft_unlearn.workflows import loading
    from peft_unlearn.workflows.train import run

    console = Console()
    output = Path(options.output)
    if output.exists() and not (output / MARK).is_file() and any(output.iterdir()):
        raise UserError(f"output: {output} holds something else than a demo, write another folder.")
    for name in (*options.method, "data", "models"):
        shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARK).write_text(json.dumps({"seed": options.seed}))

    people = world.make_world(options.seed)
    world.write(people, output / "data")
    console.rule("A small model that memorised them, and one that never met those to be forgotten")
    trained = model.train_models(people, output / "models" if options.fresh else model.default_cache(), options.seed)

    def plan(method: str) -> recipe.Recipe:
        return recipe.build(
            {
                "model_name_or_path": str(trained.memorised),
                "dtype": "float32",
                "load_in_4bit": True,
                "use_bnb_nested_quant": True,
                "forget_dataset": str(output / "data/forget.jsonl"),
                "retain_dataset": str(output / "data/retain.jsonl"),
                "holdout_dataset": str(output / "data/never_used.jsonl"),
                "never_seen_model_name_or_path": str(trained.never_seen),
                "stop_at": "auto",
                "logit_lens_coef": 0.3,
                "sam_rho": 0.2,
                "eval_rows": 0,
                "per_device_eval_batch_size": 64,
                "method": method,
                "seed": options.seed,
                "output_dir": str(output / method),
            }
        )

    first = plan(options.method[0])
    tokenizer, probes = loading.prepare(first)
    twin = loading.load_never_seen(first.model, trained.never_seen, key="never_seen_model_name_or_path")
    how = How(batch_size=first.training.per_device_eval_batch_size)
    never_seen = Own(probes, 0).evaluate(twin, tokenizer, how, "never-seen")
    del twin
    adapters.release()

    found: dict = {}
    for method in options.method:
        console.rule(method)
        found[method] = run(plan(method), never_seen=never_seen, show=False)

    before = found[options.method[0]]["before"]
    together = {
        name: {"before": before[name], **{method: found[method]["after"][name] for method in found}, "never_seen": never_seen[name]}
        for name in probes
    }
    console.rule("What the model knows, before and after, and what a model knows that never met them")
    console.print(report.table(report.build(together, run={})))
    for method in options.method:
        verdict = json.loads((output / method / "report.json").read_text())["verdict"]
        console.print(f"{method}: [bold]{verdict['word'] or 'NO VERDICT'}[/bold]. {verdict['reasons'][0]}")
    console.print("Of what was to be forgotten, little should be known, as by never-seen; of what was to be kept, as much as before.")
    for name, rows in (("forget", people.forget), ("retain", people.retain)):
        console.rule(f"Sample answers: {name} set")
        samples = range(0, 6, 2)
        answers = {view: [evaluation.answers[i] for i in samples] for view, evaluation in together[name].items()}
        console.print(report.side_by_side([rows[i]["question"] for i in samples], answers))
    console.print(f"Data, adapters, cards and reports are in {output}")
