"""Whether a change of the code changed a number: the same runs with two checkouts, compared to the last bit.

    python benchmarks/same_numbers.py run --checkout OLD --output old.json
    python benchmarks/same_numbers.py run --output new.json
    python benchmarks/same_numbers.py compare old.json new.json

Runs go through the command line on tiny models that are made here, so that nothing of the package's layout matters. What is compared: every number
that a run logs (losses, gradient norms, weights, cosines), what the evaluation and one audit measured. Only runs of one machine can be compared:
another make of CPU rounds otherwise.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

COLOURS, NUMBERS = ["red", "green", "blue"], ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WORDS = ["who", "what", "is", "the", "of", "in", "colour", "city", "Question", "Answer", ":", "?", "and", *COLOURS, *NUMBERS]
COMMON = {
    "max_steps": 12,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 12,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lora_r": 4,
    "learning_rate": 1e-2,
    "use_cpu": True,
    "dtype": "float32",
}
HARDENED = {"sam_rho": 0.2, "logit_lens_coef": 0.3, "train_quantized": "nf4"}
RUNS: dict[str, dict[str, Any]] = {
    "mean_teacher": {"method": "mean_teacher"},
    "ngdiff": {"method": "ngdiff"},
    "mollm": {"method": "mollm", "load_in_4bit": True},
    "npo": {"method": "npo"},
    "rmu": {"method": "rmu"},
    "idkdpo": {"method": "idkdpo"},
    "pdu": {"method": "pdu"},
    "stop_at auto": {"method": "mollm", "stop_at": "auto", "max_steps": 40, "save_steps": 40},
    "stop_at auto, hardened": {"method": "mollm", "stop_at": "auto", "max_steps": 40, "save_steps": 40, "load_in_4bit": True, **HARDENED},
    "stop_at never_seen, ngdiff": {"method": "ngdiff", "stop_at": "never_seen", "never_seen_model_name_or_path": "other", "max_steps": 40},
    "openunlearning": {"method": "graddiff", "definitions": "openunlearning", "retain_kl": "reference", "retain_loss": "none"},
}
BEFORE = {"sam_rho": "resist", "logit_lens_coef": "inner_coef", "train_quantized": "survive"}  # names up to 0.1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("--checkout", type=Path, default=Path(__file__).parents[1])
    run.add_argument("--output", type=Path, required=True)
    run.set_defaults(main=lambda options: options.output.write_text(json.dumps(numbers(options.checkout.resolve()), indent=1)))
    compare = commands.add_parser("compare")
    compare.add_argument("files", type=Path, nargs=2)
    compare.set_defaults(main=lambda options: sys.exit(differing(*(json.loads(file.read_text()) for file in options.files))))
    options = parser.parse_args()
    options.main(options)


def numbers(checkout: Path) -> dict[str, list[Any]]:
    """Every number of every run, in order."""
    known = "".join(file.read_text() for file in checkout.glob("peft_unlearn/**/*.py"))
    renamed = {new: old for new, old in BEFORE.items() if new not in known}
    found: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_inputs(folder)
        sets = {f"{name}_dataset": f"{name}.jsonl" for name in ("forget", "retain", "holdout")}
        for name, settings in RUNS.items():
            output = name.replace(" ", "_").replace(",", "")
            values = {"model_name_or_path": "base", **sets, **COMMON, **settings, "output_dir": output}
            recipe = {renamed.get(key, key): value for key, value in values.items()}
            (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
            command(checkout, folder, "train", "recipe.yaml")
            state = json.loads(next((folder / output).glob("checkpoint-*/trainer_state.json")).read_text())
            found[name] = [
                [line[key] for key in sorted(line) if isinstance(line[key], float) and "runtime" not in key and "per_second" not in key]
                for line in state["log_history"]
            ]
            found[f"{name}: report"] = means(json.loads((folder / output / "report.json").read_text()))
        command(checkout, folder, "audit", "stop_at_auto", "--never-seen", "other")
        audited = json.loads((folder / "stop_at_auto/report.json").read_text())
        found["audit"] = means(audited)
        found["audit: attacks"] = [
            [finding[key] for key in ("mean", "n", "after", "never_seen", "recovered")]
            for name in sorted(audited["attacks"])
            for finding in audited["attacks"][name]["findings"]
        ]
    return found


def means(report: dict[str, Any]) -> list[Any]:
    """Of every set, view and metric, with intervals and rows."""
    return [
        [views[view][metric][key] for key in ("mean", "n", "interval", "rows")]
        for _, views in sorted(report["results"].items())
        for view in sorted(views)
        for metric in sorted(views[view])
    ]


def command(checkout: Path, folder: Path, *words: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "peft_unlearn", *words], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr}")


def make_inputs(folder: Path) -> None:
    """Three sets of rows, a tiny model that learnt forget and retain rows ("base"), and one that learnt the retain rows alone ("other")."""
    ids = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    pairs = list(zip(NUMBERS, (COLOURS * 4)[:10], strict=True))
    rows = {
        "forget": [
            {"question": f"what is the colour of {n} ?", "answer": " and ".join([f"{colour} {n}"] * (1 + i % 2))}
            for i, (n, colour) in enumerate(pairs)
        ],
        "retain": [{"question": f"who is in the city of {n} ?", "answer": f"{colour} {n}"} for n, colour in pairs],
        "holdout": [{"question": f"who is the colour of {n} ?", "answer": f"{n} {colour} {n}"} for n, colour in pairs],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, seen in (("base", ("forget", "retain")), ("other", ("retain",))):
        learnt(tokenizer, [row for part in seen for row in rows[part]]).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def learnt(tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]]) -> LlamaForCausalLM:
    """A tiny model after some steps on the rows, one thread, fp32."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, bos_token_id=1, eos_token_id=2, **sizes))
    texts = [tokenizer(f"Question: {row['question']}\nAnswer: {row['answer']}</s>")["input_ids"] for row in rows]
    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    labels = torch.tensor([text + [-100] * (width - len(text)) for text in texts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def differing(old: dict[str, list[Any]], new: dict[str, list[Any]]) -> int:
    """Print which runs differ, and give their number."""
    names = sorted(old.keys() | new.keys())
    for name in names:
        same = old.get(name) == new.get(name)
        print(f"{'equal' if same else 'DIFFERS':8}{name} ({count(new.get(name, []))} numbers)")
    return sum(old.get(name) != new.get(name) for name in names)


def count(values: Any) -> int:
    return sum(map(count, values)) if isinstance(values, list) else int(isinstance(values, float))


if __name__ == "__main__":
    main()
