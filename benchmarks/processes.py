"""Several processes beside one: how far apart do adapters end that were trained on the same global batches?

    python benchmarks/processes.py train --output benchmarks/results/processes.json [--minutes 2]
    python benchmarks/processes.py table benchmarks/results/processes.json
    python benchmarks/processes.py looks

Each case trains a tiny random model by 2 and 4 processes that share its batches over gloo, and by one that takes the same micro-batches, one after
the other. The difference is the largest of any adapter weight, as a share of the largest weight. Beside it stands how far one process ends from
itself where its batches are cut or not, which is rounding: a matrix product rounds by the rows that are in it. In fp64, where what is no rounding
would stay, 2 and 4 processes are compared with one on undivided batches. A call goes on where the last one ended; `--minutes` is when it begins no
further case.

`looks` trains with checks and evaluates, by two processes that share these and by two that each do all, and prints the CPU seconds that a process
spends in them and in all, so that what else the machine does counts little.
"""

import argparse
import gc
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import LoraConfig
from same_numbers import make_inputs
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peft_unlearn import UnlearnConfig, UnlearnTrainer
from peft_unlearn.config import recipe
from peft_unlearn.config.methods import METHODS
from peft_unlearn.model import adapters
from peft_unlearn.model import sharing as model_sharing
from peft_unlearn.training.checks import Checks
from peft_unlearn.workflows import train_run

STEPS, BATCH, ROWS, UNEVEN = 8, 16, 32, 13  # of the uneven batch two processes have 8 and 5, four have 4, 4, 4 and 1
STOPPING = {"stop_at": "never_seen", "never_seen": True}
CASES: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in METHODS if name != "auto"},
    "mean_teacher, no floor": {"method": "mean_teacher", "forget_floor": 0.0},  # its own is above what a random model says, 1 in 64
    "auto": {"method": "auto", "neutral_rows": 8, **STOPPING},
    "ngdiff, 13 rows": {"method": "ngdiff", "rows": UNEVEN},
    "mean_teacher, 13 rows": {"method": "mean_teacher", "rows": UNEVEN},
    "mollm, 13 rows": {"method": "mollm", "rows": UNEVEN},
    "auto, 13 rows": {"method": "auto", "neutral_rows": 8, "rows": UNEVEN, **STOPPING},
    "npo, openunlearning": {"method": "npo", "definitions": "openunlearning"},
    "graddiff, 13 rows, openunlearning": {"method": "graddiff", "rows": UNEVEN, "definitions": "openunlearning"},
    "mollm, SAM, accumulation": {"method": "mollm", "sam_rho": 0.1, "accumulation": 2},
    "mean_teacher, AutoLR, accumulation": {"method": "mean_teacher", "auto_lr": True, "auto_lr_steps": 2, "accumulation": 2},
    "auto, 13 rows, accumulation": {"method": "auto", "neutral_rows": 8, "rows": UNEVEN, "accumulation": 2, **STOPPING},
}
LOOKED_AT = {
    "method": "auto",
    "model_name_or_path": "base",
    "never_seen_model_name_or_path": "other",
    **{f"{name}_dataset": f"{name}.jsonl" for name in ("forget", "retain", "holdout")},
    "output_dir": "output",
    "max_steps": 24,
    "neutral_rows": 0,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "save_minutes": 0,
    "lora_r": 4,
    "learning_rate": 1e-3,  # none that reaches its targets within these steps
    "use_cpu": True,
    "dtype": "float32",
    "disable_tqdm": True,
}
OWN = ("rows", "accumulation", "never_seen")  # keys of a case that are no settings
COLUMNS = {
    "2, same pieces": "2, same pieces, fp32",
    "4, same pieces": "4, same pieces, fp32",
    "1, cut": "1, cut or not, fp32",
    "2, float64": "2, fp64",
    "4, float64": "4, fp64",
}


class Run(NamedTuple):
    """How a case is trained: by so many processes, whose rows come in micro-batches."""

    processes: int
    pieces: int = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train")
    train.add_argument("--output", type=Path, required=True)
    train.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    train.add_argument("--minutes", type=float, default=600.0)
    train.set_defaults(main=lambda options: measure_all(options.output, options.cases, options.minutes))
    shown = commands.add_parser("table")
    shown.add_argument("results", type=Path)
    shown.set_defaults(main=lambda options: print(table(json.loads(options.results.read_text()))))
    commands.add_parser("looks").set_defaults(main=lambda options: print(json.dumps(looks(), indent=1)))
    options = parser.parse_args()
    options.main(options)


def measure_all(output: Path, cases: list[str], minutes: float) -> None:
    """Measure the cases that the file does not have."""
    until = time.monotonic() + 60 * minutes
    found = json.loads(output.read_text()) if output.exists() else {}
    gc.freeze()  # or each fork's collections copy all that was imported
    for name in cases:
        if name not in found and time.monotonic() < until:
            found[name] = measured(CASES[name])
            output.write_text(json.dumps(found, indent=1) + "\n")
            print(name, found[name], file=sys.stderr)
    print(f"{len(found)} of {len(CASES)} cases")


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """Of a case, how far each way to train it ends from one process, and whether its processes end at the same bytes."""
    pieces = case.get("accumulation", 1)
    whole, start = trained(case, Run(1, pieces), "float32")[0]
    exact, _ = trained(case, Run(1, pieces), "float64")[0]
    found = {"moved": apart(whole, start), "equal": True}
    for processes in (2, 4):
        cut, _ = trained(case, Run(1, processes * pieces), "float32")[0]
        if processes == 2:
            found["1, cut"] = apart(cut, whole)
        for label, dtype, one in (("same pieces", "float32", cut), ("float64", "float64", exact)):
            ends = [end for end, _ in trained(case, Run(processes, pieces), dtype)]
            found[f"{processes}, {label}"] = apart(ends[0], one)
            found["equal"] &= all(torch.equal(end, ends[0]) for end in ends)
    return found


def apart(end: Tensor, whole: Tensor) -> float:
    """The largest difference, as a share of the largest weight."""
    return float((end - whole).abs().max() / whole.abs().max())


def trained(case: dict[str, Any], run: Run, dtype: str) -> list[tuple[Tensor, Tensor]]:
    """The adapter that each process ends with, and began with."""

    def train(folder: Path) -> tuple[Tensor, Tensor]:
        if dtype == "float64":
            torch.set_default_dtype(torch.float64)
            torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
        trainer = made(case, run, folder / "output")
        start = flat(trainer)
        trainer.train()
        return flat(trainer), start

    return forks(run.processes, train)


def looks() -> dict[str, dict[str, float]]:
    """CPU seconds of the first process of two: checks, evaluations, and the whole run."""
    spent: Counter[str] = Counter()

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **settings)
            finally:
                spent[name] += time.process_time() - began

        return call

    def train(folder: Path, *, shared: bool) -> dict[str, float]:
        for owner, name in ((Checks, "begin"), (Checks, "check"), (train_run.Run, "evaluate"), (train_run, "consult_never_seen")):
            setattr(owner, name, timed("checks" if owner is Checks else "evaluations", getattr(owner, name)))
        if not shared:
            model_sharing._place = lambda: (1, 0)
        os.chdir(folder)
        timed("run", train_run.run)(recipe.build(LOOKED_AT))
        return dict(spent)

    found = {}
    for shared in (True, False):
        first, _ = forks(2, partial(train, shared=shared), make_inputs)
        found["shared" if shared else "each does all"] = {name: round(seconds, 1) for name, seconds in first.items()}
        print(found, file=sys.stderr, flush=True)
    return found


def forks(number: int, work: Callable[[Path], Any], prepare: Callable[[Path], None] = lambda folder: None) -> list[Any]:
    """What each of so many processes makes in one folder."""
    with tempfile.TemporaryDirectory() as place, socket.create_server(("127.0.0.1", 0)) as free:
        folder, port = Path(place), free.getsockname()[1]
        free.close()
        prepare(folder)
        begun = [fork(number, work, rank, port, folder) for rank in range(number)]
        ended = [os.waitpid(pid, 0)[1] for pid in begun]  # all, whether one has failed or not
        if any(ended):
            sys.exit("a process has failed")
        return [torch.load(folder / f"{rank}.pt") for rank in range(number)]


def fork(number: int, work: Callable[[Path], Any], rank: int, port: int, folder: Path) -> int:
    """A process that works; it writes what it made. Returns its number."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        if number > 1:
            sizes = {name: str(number) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
            os.environ |= {**sizes, "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ["ACCELERATE_USE_CPU"] = "true"
        torch.set_num_threads(1)
        torch.save(work(folder), folder / f"{rank}.pt")
        if number > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def made(case: dict[str, Any], run: Run, output: Path) -> UnlearnTrainer:
    """A trainer of a case, with its share of the global batch."""
    settings = {key: value for key, value in case.items() if key not in OWN}
    args = UnlearnConfig(
        str(output),
        **{"max_steps": STEPS, **settings},
        per_device_train_batch_size=BATCH // run.processes // run.pieces,
        gradient_accumulation_steps=run.pieces,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        save_minutes=0,
        logging_steps=1000,
    )
    stops = case.get("never_seen", False)
    return UnlearnTrainer(
        model(0),
        args,
        forget_dataset=rows(case.get("rows", ROWS), 1, alternates=args.answers != "none"),
        retain_dataset=rows(41, 2),
        holdout_dataset=rows(27, 3) if stops else None,
        never_seen_model=model(7) if stops else None,
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def flat(trainer: UnlearnTrainer) -> Tensor:
    """All weights of the adapter."""
    return torch.cat([p.detach().double().flatten() for p in adapters.adapter_parameters(trainer.model, adapters.STUDENT)])


def model(seed: int) -> LlamaForCausalLM:
    """A tiny random model, of the same weights in both precisions."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes))
    generator = torch.Generator().manual_seed(seed)
    for p in made.parameters():
        if p.ndim == 2:
            p.data.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float32) * p.shape[-1] ** -0.5)
    return made.eval()


def rows(count: int, seed: int, *, alternates: bool = False) -> Dataset:
    """Ragged rows with prompts, and other answers to these."""
    rng = random.Random(seed)

    def answered(prompt: list[int]) -> dict[str, Any]:
        answer = [rng.randrange(3, 64) for _ in range(rng.randrange(3, 12))]
        return {"input_ids": [1, *prompt, *answer, 2], "labels": [-100] * (1 + len(prompt)) + [*answer, 2]}

    prompts = [[rng.randrange(3, 64) for _ in range(rng.randrange(1, 9))] for _ in range(count)]
    return Dataset.from_list([answered(prompt) | ({"alternate": answered(prompt)} if alternates else {}) for prompt in prompts])


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w3"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", bos_token="w1", eos_token="w2")


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    head = ["case", "moved", *COLUMNS.values(), "ranks equal"]
    lines = [
        [name, f"{of['moved']:.0e}", *(f"{of[column]:.0e}" if of[column] else "0" for column in COLUMNS), "yes" if of["equal"] else "NO"]
        for name, of in found.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


if __name__ == "__main__":
    main()
