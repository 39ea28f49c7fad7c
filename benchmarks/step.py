"""What a step costs: the trainer beside a loop written by hand, beside TRL's SFTTrainer and without AutoLR; and the loss beside whole logits.

    OMP_NUM_THREADS=1 python benchmarks/step.py                                       # a small model on the CPU, or 8B on the GPU
    OMP_NUM_THREADS=1 python benchmarks/step.py --model small --device cpu --rows 4 --length 32 --periods 1 --vocabularies 32000 --tokens 256
    python benchmarks/step.py --model qwen3-8b --checkpointing
    python benchmarks/step.py --parts loss

Bases are in NF4 with random weights and know the rows (speed.py); LoRA r 16 on all linear layers, in fp32. `--rows` rows of `--length` tokens are
a micro-batch. The contestants of a method go a step each in turn. A time is the median over periods of ten steps, each with one probe of AutoLR
and one log line, after a first period that does not count; from and to are the lowest and highest ratio of a period. Passes are over one
micro-batch: F forward, B backward. TRL gets the same tokens: the forget and the retain rows as two micro-batches.

The loop by hand (by_hand.py) has the same mathematics: after ten steps its adapter is where the trainer's is, but for rounding.
"""

import argparse
import statistics
import tempfile
from functools import partial

import torch
from datasets import concatenate_datasets
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback
from trl import SFTConfig, SFTTrainer

from by_hand import Loop
from peft_unlearn import UnlearnTrainer
from peft_unlearn.config.methods import OURS
from peft_unlearn.model import adapters, logprobs
from peft_unlearn.model.lm_head import Head
from speed import MODELS, Paced, build, counting, in_turns, machine, peak, row, shared, table, tokenizer, unlearning

PERIOD = 10  # steps between two probes of AutoLR, and between two log lines
PASSES = {"mean_teacher": "3 F 2 B", "ngdiff": "2.2 F 2 B", "mollm": "2 F 3 B"}  # the reference's once for all
HEADER = ("what", "passes", "ms", "beside", "passes", "ms", "ratio", "from", "to", "bar")


def supervised(base: PreTrainedModel, trainer: UnlearnTrainer, *, checkpointing: bool) -> SFTTrainer:
    """TRL's trainer on the same tokens with the same adapter, which it would hold in bf16."""
    args = SFTConfig(
        tempfile.gettempdir(),
        per_device_train_batch_size=trainer.args.per_device_train_batch_size,
        gradient_accumulation_steps=2,
        max_steps=trainer.args.max_steps,
        learning_rate=trainer.args.learning_rate,
        lr_scheduler_type="constant",
        max_length=None,
        logging_steps=PERIOD,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=base.device.type == "cpu",
        bf16=False,
        gradient_checkpointing=checkpointing,
    )
    rows = concatenate_datasets([trainer.sets["forget"], trainer.sets["retain"]])
    other = SFTTrainer(shared(base), args, train_dataset=rows, processing_class=tokenizer(), peft_config=adapters.default_lora())
    for p in other.model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    other.remove_callback(PrinterCallback)
    return other


def steps(options: argparse.Namespace) -> None:
    """Each method's step beside the loop by hand and TRL's, and NGDiff's beside itself without AutoLR."""
    device, config = options.device, MODELS[options.model]()
    base = build(config, device)
    sets = {name: counting(8 * options.rows, options.length, config.vocab_size, seed) for seed, name in enumerate(("forget", "retain"))}
    make = partial(unlearning, base, sets, options.rows, gradient_checkpointing=options.checkpointing)
    tokens = options.rows * options.length
    print(f"{options.model} in NF4, {tokens} tokens a micro-batch, checkpointing {'on' if options.checkpointing else 'off'}\n")
    apart = {}
    table(*HEADER)
    for method in options.methods:
        trainer = make(method=method)
        loop = Loop(method, adapters.attach(shared(base)), trainer, PERIOD * (1 + options.periods))
        if options.checkpointing:
            loop.model.enable_input_require_grads()
            loop.causal.gradient_checkpointing_enable({"use_reentrant": False})
        start = torch.cat([p.detach().flatten() for p in trainer.student])
        runs = {"the trainer": Paced(trainer), "a loop by hand": loop}
        runs["SFTTrainer, the same tokens"] = Paced(supervised(base, trainer, checkpointing=options.checkpointing))
        if trainer.auto_lr is not None:
            runs["without AutoLR"] = Paced(make(method=method, auto_lr=False))
        in_turns(runs, PERIOD, device)
        there, here = (torch.cat([p.detach().flatten() for p in side]) for side in (trainer.student, loop.params))
        apart[method] = f"{method} {((here - there).norm() / (there - start).norm()).item():.0e}"
        if trainer.auto_lr is not None and not trainer.auto_lr.calibrated:  # random weights: there may be no minimum to find
            trainer.auto_lr.calibrated = loop.calibrated = trainer.args.learning_rate
            apart[method] += " (AutoLR found no first rate, and is told one)"
        seconds = in_turns(runs, options.periods * PERIOD, device)
        for name, bar in (("a loop by hand", "1.05"), ("SFTTrainer, the same tokens", "1.35"), ("without AutoLR", "1.05")):
            if name in runs:
                passes = {"a loop by hand": PASSES[method].replace("2.2", "2.3")}.get(name, "2 F 2 B")
                compare(method, PASSES[method], seconds["the trainer"], name, passes, seconds[name], bar)
        for run in runs.values():
            if isinstance(run, Paced):
                run.close()
    print(f"\nThe loop's adapter after {PERIOD} steps, off the trainer's by these shares of its way: {', '.join(apart.values())}\n")


def compare(what: str, passes: str, ours: list[float], beside: str, their_passes: str, theirs: list[float], bar: str) -> None:
    """A row of the table, from seconds of steps."""
    a, b = (torch.tensor(seconds).view(-1, PERIOD).mean(1) for seconds in (ours, theirs))
    ratios = a / b
    times = [f"{1000 * statistics.median(side.tolist()):.1f}" for side in (a, b)]
    ratio = statistics.median(a.tolist()) / statistics.median(b.tolist())
    row(what, passes, times[0], beside, their_passes, times[1], f"{ratio:.3f}", f"{ratios.min():.3f}", f"{ratios.max():.3f}", bar)


def loss_inputs(vocabulary: int, tokens: int, hidden: int, device: str) -> tuple[Head, Tensor, Tensor]:
    """A head of random weights, and the hidden states and labels of so many tokens."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    weight, states = (torch.randn(n, hidden, device=device, dtype=dtype) for n in (vocabulary, tokens))
    weight /= hidden**0.5
    targets = torch.randint(vocabulary, (tokens,), device=device)
    return Head(lambda h: (h @ weight.T).float(), vocabulary), states.requires_grad_(), targets


def whole_loss(head: Head, states: Tensor, targets: Tensor) -> None:
    logps = head.logits(states).log_softmax(-1).gather(-1, targets[:, None])
    torch.autograd.grad(-logps.mean(), states)


def chunked_loss(head: Head, states: Tensor, targets: Tensor) -> None:
    (logps,) = logprobs.by_chunks([(logprobs.true_logps, None)], states, head, targets)
    torch.autograd.grad(-logps.mean(), states)


def losses(options: argparse.Namespace) -> None:
    """Chunked cross-entropy with its gradient to the hidden states beside that of whole logits."""
    print(f"The loss of {options.tokens} tokens, hidden size {options.hidden}: chunked beside whole logits\n")
    table("vocabulary", "whole, ms", "chunked, ms", "ratio", "bar", "whole, MB beyond inputs", "chunked", "ratio", "bar")
    for vocabulary in options.vocabularies:
        inputs = loss_inputs(vocabulary, options.tokens, options.hidden, options.device)
        ways = {"whole": partial(whole_loss, *inputs), "chunked": partial(chunked_loss, *inputs)}
        bytes_whole, bytes_chunked = (peak(options.device, way) for way in ways.values())
        seconds = in_turns(ways, options.repeats, options.device)
        a, b = (statistics.median(seconds[name]) for name in ways)
        memory = [f"{found / 1e6:.0f}" for found in (bytes_whole, bytes_chunked)]
        times = [f"{1000 * a:.0f}", f"{1000 * b:.0f}", f"{b / a:.3f}"]
        row(f"{vocabulary}", *times, "1.1", *memory, f"{bytes_chunked / bytes_whole:.3f}", "0.1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", choices=list(MODELS), help="small on the CPU and llama-3.1-8b on the GPU if left out")
    parser.add_argument("--parts", nargs="+", choices=("steps", "loss"), default=["steps", "loss"])
    parser.add_argument("--methods", nargs="+", choices=OURS, default=OURS)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, help="64 on the CPU and 256 on the GPU if left out")
    parser.add_argument("--periods", type=int, default=3, help="of ten steps each, after the first")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, for all")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32000, 128256, 151936])
    parser.add_argument("--tokens", type=int, default=2048, help="of the loss alone (default %(default)s: whole logits take 4 GB)")
    parser.add_argument("--hidden", type=int, default=512, help="of the loss alone (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of the loss alone (default %(default)s)")
    options = parser.parse_args()
    gpu = options.device == "cuda"
    options.model = options.model or ("llama-3.1-8b" if gpu else "small")
    options.length = options.length or (256 if gpu else 64)
    print(machine(options.device))
    for part in options.parts:
        {"steps": steps, "loss": losses}[part](options)


if __name__ == "__main__":
    main()
