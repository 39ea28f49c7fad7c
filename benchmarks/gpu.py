"""What docs/studies/performance.md says of a GPU, measured on the one that is there, in ten minutes at most: `benchmarks/gpu.sh` runs it.

    python benchmarks/gpu.py run                        # each measurement in a process of its own; benchmarks/results/gpu.jsonl
    python benchmarks/gpu.py table                      # into docs/studies/performance.md, with the card's name
    python benchmarks/gpu.py run --device cpu --shapes  # the same code on tiny shapes, so that a card's time is not spent on typos

Bases have random weights and know the rows (speed.py). What has been measured on a card is not measured again: a run that was cut goes on.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from step import chunked_loss, loss_inputs, whole_loss
from transformers import AutoModelForCausalLM, LlamaConfig

from peft_unlearn import planning
from peft_unlearn.config import recipe
from peft_unlearn.config.methods import OURS
from speed import MODELS, Paced, build, clock, counting, in_turns, llama, machine, peak, unlearning

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "studies" / "performance.md"
BEGIN, END = "<!-- gpu: written by benchmarks/gpu.py table -->\n", "<!-- gpu: end -->"
SECONDS = 570  # of all measurements together
WARM, STEPS = 4, 12  # steps that do not count, and that do

Found = dict[str, Any]


def eight_billion(shape: str, device: str, small: bool) -> Found:
    """Step time and peak of our methods on an 8B in NF4: 8 rows of 256 tokens a stream, r 16 on all linear layers, checkpointing; and the plan's."""
    config = tiny(MODELS[shape]()) if small else MODELS[shape]()
    rows, length = (2, 16) if small else (8, 256)
    base = build(config, device)
    sets = {name: counting(4 * rows, length, config.vocab_size, seed) for seed, name in enumerate(("forget", "retain"))}
    found: Found = {}
    for method in OURS:
        trainer = unlearning(base, sets, rows, method=method, gradient_checkpointing=True, learning_rate=1e-4, auto_lr=False)
        step = Paced(trainer)
        seconds, taken = measured(step, device, small)
        step.close()
        del trainer, step
        release()
        found[method] = {"s": seconds, "GB": taken / planning.GB, "plan GB": planned(config, method, rows, length) / planning.GB}
    return found


def measured(step: Callable[[], Any], device: str, small: bool) -> tuple[float, int]:
    """The median seconds of a step, and the most bytes that are held while it runs."""
    warm, steps = (1, 2) if small else (WARM, STEPS)
    for _ in range(warm):
        step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = in_turns({"step": step}, steps, device)["step"]
    return statistics.median(seconds), torch.cuda.max_memory_allocated() if device == "cuda" else 0


def planned(config: Any, method: str, rows: int, length: int) -> int:
    """What `peft-unlearn plan` says of that step."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        values = {
            "model_name_or_path": folder,
            "forget_dataset": "forget.jsonl",
            "output_dir": str(Path(folder) / "out"),
            "dtype": "bfloat16",
            "load_in_4bit": True,
            "lora_r": 16,
            "lora_alpha": 32,
            "method": method,
            "gradient_checkpointing": True,
            "max_length": length,
            "per_device_train_batch_size": rows,
            "per_device_eval_batch_size": 1,
        }
        return planning.measure(recipe.check(values)).peak


def loss_by_chunks(device: str, small: bool) -> Found:
    """The loss and its gradient beside that of whole logits: 2 048 tokens, hidden size 4 096, in bf16."""
    tokens, hidden, repeats = (64, 32, 1) if small else (2048, 4096, 10)
    found: Found = {}
    for vocabulary in (500, 1000) if small else (32000, 128256, 151936):
        inputs = loss_inputs(vocabulary, tokens, hidden, device)
        runs = {"whole": partial(whole_loss, *inputs), "by chunks": partial(chunked_loss, *inputs)}
        held = {name: peak(device, run) for name, run in runs.items()}
        seconds = in_turns(runs, repeats, device)
        found[str(vocabulary)] = {name: {"ms": 1000 * statistics.median(seconds[name]), "MB": held[name] / 1e6} for name in runs}
    return found


def precisions(device: str, small: bool) -> Found:
    """Thirty steps in fp32, and with autocast to bf16 and to fp16 under loss scaling: seconds of a step, and how far the adapter ends from fp32's."""
    config = llama(256, 64, 128, 2, 32) if small else llama(32000, 1024, 2816, 8, 64)
    base = plain(config, device)
    rows, length = (2, 16) if small else (8, 256)
    sets = {name: counting(4 * rows, length, config.vocab_size, seed) for seed, name in enumerate(("forget", "retain"))}
    ends, found = {}, {}
    for name in ("fp32", "bf16", *(("fp16",) if device == "cuda" else ())):  # torch scales no gradients on a CPU
        settings = {} if name == "fp32" else {name: True}
        trainer = unlearning(base, sets, rows, method="mollm", learning_rate=1e-4, max_steps=3 if small else 30, **settings)
        start = torch.cat([p.detach().flatten().float() for p in trainer.student])
        began = clock(device)
        trainer.train()
        seconds = (clock(device) - began) / trainer.state.global_step
        ends[name] = torch.cat([p.detach().flatten().float() for p in trainer.student]) - start
        off = ((ends[name] - ends["fp32"]).norm() / ends["fp32"].norm()).item()
        found[name] = {"s": seconds, "off": off, "finite": bool(ends[name].isfinite().all())}
        del trainer
        release()
    return found


def out_of_memory(device: str, small: bool) -> Found:
    """A micro-batch that the card has no room for halves, and the adapter ends where micro-batches of that size end."""
    config = llama(256, 64, 128, 2, 32) if small else llama(32000, 1024, 2816, 8, 64)
    base = plain(config, device)
    rows, length = (4, 16) if small else (32, 512)
    sets = {name: counting(2 * rows, length, config.vocab_size, seed) for seed, name in enumerate(("forget", "retain"))}
    ends, sizes, peaks = {}, {}, {}
    for name in ("enough", "short"):
        if device == "cuda" and name == "short":
            release()
            torch.cuda.set_per_process_memory_fraction(0.7 * peaks["enough"] / torch.cuda.get_device_properties(0).total_memory)
        trainer = unlearning(base, sets, rows, method="ngdiff", auto_lr=False, learning_rate=1e-4, max_steps=3)
        start = torch.cat([p.detach().flatten() for p in trainer.student])
        trainer.train()
        peaks[name] = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        ends[name] = torch.cat([p.detach().flatten() for p in trainer.student]) - start
        sizes[name] = int(trainer.components.by_key()["per_device_train_batch_size"].state_dict()["rows"])
        del trainer
        release()
    return {"rows": sizes, "off": ((ends["short"] - ends["enough"]).norm() / ends["enough"].norm()).item()}


def like_a_cpu(device: str, small: bool) -> Found:
    """Five steps of each of our methods in fp32 on the device and on the CPU: how far apart the adapters end."""
    config = llama(256, 64, 128, 2, 32)
    sets = {name: counting(8, 16, config.vocab_size, seed) for seed, name in enumerate(("forget", "retain"))}
    weights, found = plain(config, "cpu").state_dict(), {}
    for method in OURS:
        ends = []
        for where in ("cpu", device):
            base = plain(config, where)
            base.load_state_dict(weights)
            torch.manual_seed(0)
            trainer = unlearning(base, sets, 4, method=method, auto_lr=False, learning_rate=1e-4, max_steps=5, adam_epsilon=1e-5)
            torch.manual_seed(1)
            for parameter in trainer.student:
                parameter.data.copy_(0.02 * torch.randn(parameter.shape))
            trainer.train()
            ends.append(torch.cat([p.detach().flatten().cpu() for p in trainer.student]))
        found[method] = {"off": ((ends[1] - ends[0]).norm() / ends[0].norm()).item()}
    return found


def tiny(config: Any) -> Any:
    """A config of the same architecture, a thousandth of its size."""
    config.update(
        {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
        | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256}
    )
    config.layer_types = ["full_attention"] * 3
    return config


def plain(config: LlamaConfig, device: str) -> Any:
    """A base of random weights in fp32 whose rows are known: it counts, as speed.py's do."""
    torch.manual_seed(0)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = None, 0, 1
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    embeddings = torch.randn(config.vocab_size, config.hidden_size)
    model.model.embed_tokens.weight.data.copy_(embeddings)
    model.lm_head.weight.data.copy_(embeddings.roll(1, 0) * (10 / config.hidden_size))
    return model.to(device).requires_grad_(False)


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


MEASUREMENTS: dict[str, Callable[[str, bool], Found]] = {
    "llama-3.1-8b": lambda device, small: eight_billion("llama-3.1-8b", device, small),
    "qwen3-8b": lambda device, small: eight_billion("qwen3-8b", device, small),
    "loss by chunks": loss_by_chunks,
    "precisions": precisions,
    "out of memory": out_of_memory,
    "like a CPU": like_a_cpu,
}


def run(options: argparse.Namespace) -> None:
    """Each measurement that this machine has not made, in a process of its own, until the time is over."""
    until = time.monotonic() + options.seconds
    here = machine(options.device).split(";")[0]
    made = {(line["machine"], line["what"]) for line in lines_of(options.results)}
    for name in options.only or MEASUREMENTS:
        left = until - time.monotonic()
        if (here, name) in made or left < 5:
            continue
        command = [sys.executable, __file__, "one", "--only", name, "--device", options.device, *(["--shapes"] if options.shapes else [])]
        print(f"{name} …", flush=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            print(f"{name}: cut, the time is over")
            continue
        if done.returncode:
            print(f"{name}: failed\n{done.stderr[-2000:]}")
            continue
        line = {"machine": here, "torch": torch.__version__, "what": name, "found": json.loads(done.stdout.splitlines()[-1])}
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line["found"]), flush=True)


def lines_of(path: Path) -> list[Found]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def rendered(lines: list[Found]) -> str:
    """The page's rows of what was measured."""
    if not lines:
        return "Nothing has been measured on a GPU yet.\n"
    rows = ["| what | machine | result |", "| --- | --- | --- |"]
    rows += [
        f"| {TITLES[line['what']]} | {line['machine']}, torch {line['torch']} | {said(line['what'], line['found'])} |" for line in lines
    ]
    return "\n".join(rows) + "\n"


TITLES = {
    "llama-3.1-8b": "Llama 3.1 8B's shape in NF4, r 16, 8 rows of 256 tokens a stream, checkpointing: a step, its peak, what `plan` says",
    "qwen3-8b": "the same, Qwen3 8B's shape",
    "loss by chunks": "the loss by chunks beside whole logits, bf16, 2 048 tokens, hidden size 4 096",
    "precisions": "30 steps of MOLLM in fp32 and with autocast; how far the adapter ends from fp32's, as a share of its way",
    "out of memory": "a micro-batch without room: rows that are left of it, and how far the adapter ends from one that had room",
    "like a CPU": "five steps in fp32 beside the same on a CPU: how far apart the adapters end",
}


def said(what: str, found: Found) -> str:
    """A measurement in a cell."""
    if what in ("llama-3.1-8b", "qwen3-8b"):
        return "; ".join(f"{name} {f['s']:.2f} s, {f['GB']:.2f} GB (plan {f['plan GB']:.2f})" for name, f in found.items())
    if what == "loss by chunks":
        pairs = {name: (f["by chunks"], f["whole"]) for name, f in found.items()}
        return "; ".join(
            f"vocabulary {name}: {a['ms']:.1f} of {b['ms']:.1f} ms, {a['MB']:.0f} of {b['MB']:.0f} MB" for name, (a, b) in pairs.items()
        )
    if what == "precisions":
        return "; ".join(f"{name} {f['s']:.3f} s, {f['off']:.1%} off" for name, f in found.items())
    if what == "out of memory":
        return f"{found['rows']['enough']} → {found['rows']['short']} rows; {found['off']:.0e}"
    return "; ".join(f"{name} {f['off']:.0e}" for name, f in found.items())


def table(options: argparse.Namespace) -> None:
    """Write the results into the page."""
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}{rendered(lines_of(options.results))}{END}{rest.split(END)[1]}", encoding="utf-8")


def one(options: argparse.Namespace) -> None:
    (name,) = options.only
    print(json.dumps(MEASUREMENTS[name](options.device, options.shapes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "one"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--shapes", action="store_true", help="tiny shapes")
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS))
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available() and options.command != "table":
        parser.error("there is no GPU here; --device cpu --shapes tries the code")
    {"run": run, "table": table, "one": one}[options.command](options)


if __name__ == "__main__":
    main()
