"""GradDiff and NPO as OpenUnlearning's own trainers take their steps, beside ours: CPU seconds of a step, and memory over the loaded model.

    git clone https://github.com/locuslab/open-unlearning
    python benchmarks/beside_openunlearning.py --checkout open-unlearning --forget forget10.json --retain retain90.json

Nothing of the checkout but its trainers and its collator is run, and nothing of it is installed. Both sides get the same tokens of TOFU's rows,
ragged as they are, 4 rows to forget and 4 to keep a step, on a Llama of 58 million random weights in fp32 on one thread. Theirs trains all weights
with AdamW; ours a LoRA of rank 16 on all linear layers. Each measurement is a process of its own, the two sides in turns. Memory is the process'
peak beyond what it holds once the model is loaded.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

METHODS = ("GradDiff", "NPO")
SIDES = ("theirs", "ours")
ROWS, WARM, STEPS = 4, 2, 10  # rows of each set a step, steps that are not counted, and that are
PROMPT = "Below is a question about an author. Answer it in one or two sentences, truthfully.\nQuestion: {question}\nAnswer:"


def tokenized(files: dict[str, str], count: int) -> dict[str, list[dict[str, list[int]]]]:
    """Rows of prompt and answer as tokens of a byte-level BPE that is trained on them, whose end token is 0."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = {name: [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()] for name, file in files.items()}
    splitter = Tokenizer(models.BPE())
    splitter.pre_tokenizer, splitter.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    every = [f"{PROMPT.format(**row)} {row['answer']}" for rows in texts.values() for row in rows]
    splitter.train_from_iterator(every, trainers.BpeTrainer(vocab_size=8000, special_tokens=["<end>"], show_progress=False))
    found = {}
    for name, rows in texts.items():
        made = []
        for row in rows[:count]:
            prompt, answer = (splitter.encode(text).ids for text in (PROMPT.format(**row), f" {row['answer']}"))
            answer = [*answer, 0]
            made.append({"input_ids": [*prompt, *answer], "labels": [-100] * len(prompt) + answer})
        found[name] = made
    return found


def model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        pad_token_id=1,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def theirs(method: str, checkout: str, rows: dict[str, Any], folder: str) -> Any:
    """Their trainer on tensors of these rows; `model` is called first, so that what it takes is known."""
    import importlib

    import torch
    from transformers import TrainingArguments

    for name in ("trainer", "trainer.unlearn", "data"):  # packages without their __init__, which import all that the project needs
        package = types.ModuleType(name)
        package.__path__ = [str(Path(checkout, "src", *name.split(".")))]
        sys.modules[name] = package
    module = importlib.import_module(f"trainer.unlearn.{'grad_diff' if method == 'GradDiff' else 'npo'}")
    collators = importlib.import_module("data.collators")
    unlearning = importlib.import_module("data.unlearn")

    class Adapted(getattr(module, method)):  # type: ignore[misc]
        """Theirs is for transformers 4.45, whose trainer hands no number of items over."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            return super().compute_loss(model, inputs, return_outputs)

    tensors = {name: [{key: torch.tensor(value) for key, value in row.items()} for row in found] for name, found in rows.items()}
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=ROWS,
        max_steps=WARM + STEPS,
        learning_rate=1e-5,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    collator = collators.DataCollatorForSupervisedDataset(types.SimpleNamespace(pad_token_id=1))
    data = unlearning.ForgetRetainDataset(tensors["forget"], tensors["retain"])
    return lambda base: Adapted(model=base, args=arguments, train_dataset=data, data_collator=collator)


def ours(method: str, rows: dict[str, Any], folder: str, options: argparse.Namespace) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback

    from peft_unlearn import UnlearnConfig, UnlearnTrainer
    from peft_unlearn.model import adapters
    from speed import tokenizer

    def build(base: Any) -> Any:
        trainer = UnlearnTrainer(
            base,
            UnlearnConfig(
                folder,
                method=method.lower(),
                per_device_train_batch_size=ROWS // options.pieces,
                gradient_accumulation_steps=options.pieces,
                max_steps=WARM + STEPS,
                learning_rate=1e-4,
                logging_steps=1000,
                disable_tqdm=True,
                use_cpu=True,
            ),
            forget_dataset=Dataset.from_list(rows["forget"]),
            retain_dataset=Dataset.from_list(rows["retain"]),
            processing_class=tokenizer(),
            peft_config=adapters.default_lora(),
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return build


def resident() -> float:
    """MB that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured(side: str, options: argparse.Namespace) -> dict[str, float]:
    """One side's steps: CPU seconds of each, and MB at the peak over the loaded model."""
    import torch
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    (method,) = options.methods
    rows = tokenized({"forget": options.forget, "retain": options.retain}, options.count)
    with tempfile.TemporaryDirectory() as folder:
        build = theirs(method, options.checkout, rows, folder) if side == "theirs" else ours(method, rows, folder, options)
        base = model()
        loaded = resident()
        trainer = build(base)
        ends: list[float] = []

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                ends.append(time.process_time())

        trainer.add_callback(Clock())
        trainer.train()
    steps = [later - before for before, later in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]
    return {"seconds": statistics.median(steps), "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - loaded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", required=True, help="a checkout of OpenUnlearning")
    parser.add_argument("--forget", required=True, help="TOFU's rows to forget, a line each")
    parser.add_argument("--retain", required=True, help="and to keep")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--count", type=int, default=200, help="rows of each set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pieces", type=int, default=1, choices=(1, 2, 4), help="micro-batches that our step of as many rows is taken in")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measured(options.side, options)))
        return
    print(
        "| method | theirs, s a step | ours | ratio | theirs, MB over the model | ours | ratio |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for method in options.methods:
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side in SIDES:
                command = [sys.executable, __file__, *sys.argv[1:], "--methods", method, "--side", side]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr[-2000:])
                found[side].append(json.loads(done.stdout.splitlines()[-1]))
        middle = {side: {key: statistics.median(run[key] for run in runs) for key in ("seconds", "mb")} for side, runs in found.items()}
        cells = [
            cell
            for key, digits in (("seconds", 2), ("mb", 0))
            for cell in (*(f"{middle[side][key]:.{digits}f}" for side in SIDES), f"{middle['ours'][key] / middle['theirs'][key]:.2f}")
        ]
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
